"""The data's own diffusion model on the distributions of the laboratory: what best-of-N chooses from.

python launch/train.py --config=experiments/toy_diffusion_bc.py:8gaussians --workdir=runs/toy/8gaussians/diffusion_bc
python launch/lab.py runs/toy/8gaussians/* --candidates=64 --out=runs/toy/8gaussians/report

Two cores beside other trainings: 8 min. Softmax of 64 candidates on 8gaussians, distances in samples of 500 points for
β = 0, 1, 5, 10, 15: .248 .203 .155 .131 .114, where two true samples are .118 .161 .114 .069 .061 apart (docs/lab.md).
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
