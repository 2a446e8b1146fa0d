r"""TD3+BC on locomotion at its published size (Fujimoto and Gu 2021): 1 M updates of 256-wide networks.

    python launch/train.py --config=experiments/td3_bc_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --workdir=runs/td3_bc

On D4RL -v2, as quoted by Chen et al. 2024 (SRPO, table 1): halfcheetah-medium 48.3, hopper-medium 59.3, walker2d-medium 83.7;
Minari's sets are other data.
"""

from diffrl.algorithms import td3_bc
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=td3_bc.Config(),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", standardize_observations=True),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
