r"""FQL on locomotion at its published size (Park et al. 2025): 1 M updates of 512-wide networks, ten flow steps.

    python launch/train.py --config=experiments/fql_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.sweep="alpha=0.03,0.1,0.3,1,3,10" --workdir=runs/fql

The paper has no scores on locomotion, and its α are of other tasks' values. For new ones the authors divide Q by its mean size
and try the α of this sweep; 1 here is the middle of it.
"""

from diffrl.algorithms import fql
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium."""
    task, _, quality = dataset.partition("-")
    return Config(
        algorithm=fql.Config(alpha=1.0, normalize_q=True),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0"),
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
