"""SWG on the distributions of the laboratory, all β at once, with the energies themselves as weights.

    python launch/train.py --config=experiments/toy_swg.py:8gaussians --workdir=runs/toy/8gaussians/swg
    python launch/lab.py runs/toy/8gaussians/* --out=runs/toy/8gaussians/report

The paper's T = 100, cosine schedule, w = e^{β(e-1)} and β = 0, 1, 5, 10, 15; a smaller network than its 1.4 million parameters
and 20,000 updates instead of 200,000, one network per β instead of one for all. Two cores beside other trainings: 16 to 29 min.
Sliced Wasserstein distance to the truth on 8gaussians, and of a second true sample, for the five β: .076 .069 .082 .067 .056 and
.058 .069 .056 .037 .028 (docs/lab.md).
"""

from diffrl.algorithms import swg
from diffrl.config import Config, DatasetConfig

BETAS = "0,1,5,10,15"


def get_config(toy: str = "8gaussians") -> Config:
    return Config(
        algorithm=swg.Config(
            learning_rate=1e-3,
            weighting=swg.ENERGY,
            normalize_weights=True,  # the swiss roll's exceed 1
            num_diffusion_steps=100,
            schedule="cosine",
            hidden_dim=64,
            time_dim=64,
            dropout_rate=0.0,
            diffusion_updates=20_000,
            diffusion_batch_size=512,
            cosine_horizon=20_000,
            act=swg.Act(num_denoising_steps=100, weight_low=1e-7, select="w"),
        ),
        dataset=DatasetConfig(id=f"toy/{toy}"),
        num_seeds=1,
        sweep=f"beta={BETAS}",
        checkpoint_every=1_000_000,
    )
