"""IDQL on OGBench's manipulation sets (Park et al. 2025, arXiv 2502.02538, tables 2 and 5): the authors' own code and sizes.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/idql_ogbench.py:cube-single-play --workdir=runs/idql_cube
    python launch/evaluate.py --workdir=runs/idql_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, mean of the evaluations at 2.5, 2.75 and 3 M updates, of the default task (and of
all five): cube-single 96 ± 2 (95), cube-double 16 ± 10 (15), scene 33 ± 14 (46), puzzle-3x3 0 ± 0 (10), puzzle-4x4 26 ± 6 (29).
Differs: the last checkpoint counts.
"""

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

NAMES = ("cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play", "puzzle-4x4-play")


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `NAMES`, with its environment's default task.

    Raises:
        ValueError: no scores are published for this dataset.
    """
    if name not in NAMES:
        raise ValueError(f"no scores are published for {name!r}; choose one of {', '.join(NAMES)}")
    return Config(
        algorithm=idql.Config(
            expectile=0.9,
            behavior_updates=3_000_000,
            critic_updates=1_500_000,
            behavior_batch_size=256,
            act=idql.Act(num_candidates=32),
        ),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=250_000,
    )
