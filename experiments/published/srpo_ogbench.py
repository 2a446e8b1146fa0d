"""SRPO on OGBench's manipulation sets (Park et al. 2025, arXiv 2502.02538, tables 2 and 5), whose authors wrote it anew on IDQL's
networks: the only published table of SRPO on data that anyone can make again.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/srpo_ogbench.py:cube-single-play --workdir=runs/srpo_cube
    python launch/evaluate.py --workdir=runs/srpo_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, of the default task (and of all five): cube-single 82 ± 16 (80), cube-double 0 ± 0
(2), scene 2 ± 2 (20), puzzle-3x3 0 ± 0 (18), puzzle-4x4 7 ± 4 (10).
Differs: the behaviour is trained first, for as many updates as the table's, 1 M, in batches of 256 and not beside the policy.
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

# β, of the authors' grid 0.001 to 3.
SETTINGS = {"cube-single-play": 0.03, "cube-double-play": 0.1, "scene-play": 0.1, "puzzle-3x3-play": 0.1, "puzzle-4x4-play": 0.1}


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's default task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    return Config(
        algorithm=srpo.Config(
            beta=SETTINGS[name],
            expectile=0.9,
            behavior_updates=1_000_000,
            critic_updates=1_000_000,
            policy_updates=1_000_000,
            behavior_batch_size=256,
        ),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
