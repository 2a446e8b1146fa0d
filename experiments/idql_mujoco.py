r"""IDQL on locomotion at its published size (Hansen-Estruch et al. 2023, appendix E): clone 3 M updates, critic 1.5 M.

    python launch/train.py --config=experiments/idql_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.num_seeds=10 --workdir=runs/idql
    python launch/train.py --config=experiments/idql_mujoco.py:simplified/halfcheetah-medium --workdir=runs/idql_simplified
    python launch/evaluate.py --workdir=runs/idql --step=last --act=num_candidates=16,32,64,128,256
    python launch/evaluate.py --workdir=runs/idql --step=last --act=select=implicit

Published on D4RL -v2, 10 seeds, best of 128 candidates (IDQL-A): halfcheetah, hopper, walker2d medium 51.0, 65.4, 82.5;
medium-replay 45.9, 92.1, 85.1; medium-expert 95.9, 108.6, 112.7. With 64 candidates, 2 M and 1 M updates (IDQL-1): 49.7, 63.1,
80.2; 45.1, 82.4, 79.8; 94.4, 105.3, 111.6. The "simplified" settings are those of the code since December 2023, which by its
author score two to four points less.
Differs: Minari's sets are other data; all rows train, where the code keeps 5 % for validation; as the paper says, two steps of
1,024 rows where the code takes one of 2,048 and one of an empty batch.
"""

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """`task-quality`, as in halfcheetah-medium; "simplified/" before it for the settings of the later code."""
    settings, _, dataset = dataset.rpartition("/")
    if settings not in ("", "simplified"):
        raise ValueError(f"settings {settings!r} are unknown: simplified/TASK-QUALITY, or TASK-QUALITY for the paper's")
    task, _, quality = dataset.partition("-")
    algorithm = idql.Config(expectile=0.7, act=idql.Act(num_candidates=128))
    if settings == "simplified":
        algorithm = idql.Config(
            expectile=0.7,
            weight_decay=1e-4,
            activation="swish",
            num_frequencies=64,
            time_dim=256,
            normalize_value_input=True,
            critic_updates=3_000_000,
            behavior_batch_size=512,
            critic_batch_size=512,
            act=idql.Act(num_candidates=64),
        )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", reward_scale="return_range"),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
