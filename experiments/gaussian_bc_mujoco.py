r"""Gaussian behaviour cloning on locomotion: 1 M updates of 256-wide networks, acting by the mean.

    python launch/train.py --config=experiments/gaussian_bc_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --workdir=runs/gaussian_bc
    python launch/evaluate.py --workdir=runs/gaussian_bc --step=last --act=deterministic=false
"""

from diffrl.algorithms import gaussian_bc
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=gaussian_bc.Config(),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", standardize_observations=True),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
