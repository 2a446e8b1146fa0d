"""Contrastive energy prediction on the distributions of the laboratory, all β at once.

    python launch/train.py --config=experiments/toy_cep.py:8gaussians --workdir=runs/toy/8gaussians/cep
    python launch/lab.py runs/toy/8gaussians/* --out=runs/toy/8gaussians/report

Narrower networks, smaller batches and 20,000 + 20,000 updates instead of the paper's 367,000 of each at 2,048 points.
Two cores beside other trainings: 11 min. Distances on 8gaussians: .220 .220 .128 .113 .090 (docs/lab.md).
"""

from diffrl.algorithms import cep
from diffrl.config import Config, DatasetConfig


def get_config(toy: str = "8gaussians") -> Config:
    """The β of SWG's figures."""
    hidden_dims = (128, 128, 128)
    return Config(
        algorithm=cep.Config(
            learning_rate=1e-3,
            energy_learning_rate=1e-3,
            behavior_hidden_dims=hidden_dims,
            energy_hidden_dims=hidden_dims,
            behavior_updates=20_000,
            energy_updates=20_000,
            batch_size=512,
        ),
        dataset=DatasetConfig(id=f"toy/{toy}"),
        num_seeds=1,
        sweep="beta=0,1,5,10,15",
        checkpoint_every=1_000_000,
    )
