"""The data's own diffusion model on the distributions of the laboratory: what best-of-N chooses from.

python launch/train.py --config=experiments/toy_diffusion_bc.py:8gaussians --workdir=runs/toy/8gaussians/diffusion_bc
python launch/lab.py runs/toy/8gaussians/* --candidates=64 --out=runs/toy/8gaussians/report
"""

from diffrl.algorithms import diffusion_bc
from diffrl.config import Config, DatasetConfig


def get_config(toy: str = "8gaussians") -> Config:
    """One network without β: the choice among candidates brings it in."""
    return Config(
        algorithm=diffusion_bc.Config(
            learning_rate=1e-3,
            hidden_dim=64,
            dropout_rate=0.0,
            num_updates=20_000,
            batch_size=512,
            act=diffusion_bc.Act(num_denoising_steps=100),
        ),
        dataset=DatasetConfig(id=f"toy/{toy}"),
        num_seeds=1,
        checkpoint_every=1_000_000,
    )
