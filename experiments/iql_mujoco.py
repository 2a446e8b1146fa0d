"""IQL on locomotion at its published size (Kostrikov et al. 2021): 1 M updates of 256-wide networks.

    python launch/train.py --config=experiments/iql_mujoco.py:halfcheetah-medium --config.dataset.download=true --workdir=runs/iql

Published on D4RL -v2: halfcheetah-medium 47.4, hopper-medium 66.3, walker2d-medium 78.3; Minari's sets are other data.
"""

from diffrl.algorithms import iql
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=iql.Config(expectile=0.7, beta=3.0),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", reward_scale="return_range"),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
