r"""IFQL, which is IDQL with a flow, on OGBench's single tasks (Park et al. 2025, tables 2 and 5): 1 M updates of 512 x 4.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/ifql_ogbench.py:cube-single-play --workdir=runs/ifql_cube
    python launch/evaluate.py --workdir=runs/ifql_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, the mean of the evaluations at 800,000, 900,000 and 1 M updates ± std over seeds,
of the default task (and of all five): cube-single 73 ± 3 (79), cube-double 9 ± 5 (14), scene 0 ± 0 (30), puzzle-3x3 0 ± 0 (19),
puzzle-4x4 21 ± 11 (25); of all five alone: antmaze-large 28, antmaze-giant 3, humanoidmaze-medium 60, humanoidmaze-large 11.
The mazes' sets come from trained agents: download antmaze-large-navigate-v0.npz and its like from the benchmark into this
folder.
Differs: what fql_ogbench.py says; Q's target asks V after its step of the same update, and the target critics follow the
critics after theirs, where the code takes both before.
"""

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

DISCOUNT = {
    "antmaze-large-navigate": 0.99,
    "antmaze-giant-navigate": 0.995,
    "humanoidmaze-medium-navigate": 0.995,
    "humanoidmaze-large-navigate": 0.995,
    "cube-single-play": 0.99,
    "cube-double-play": 0.99,
    "scene-play": 0.99,
    "puzzle-3x3-play": 0.99,
    "puzzle-4x4-play": 0.99,
}


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `DISCOUNT`, with its environment's default task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in DISCOUNT:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(DISCOUNT)}")

    made = "maze" not in name
    return Config(
        algorithm=idql.Config(
            clone="flow",
            discount=DISCOUNT[name],
            expectile=0.9,
            ema_decay=0.0,
            cosine=False,
            critic_hidden_dims=(512, 512, 512, 512),
            critic_activation="gelu",
            layer_norm=True,
            judge="online",
            behavior_updates=1_000_000,
            critic_updates=1_000_000,
            behavior_batch_size=256,
            act=idql.Act(num_candidates=32, num_denoising_steps=10),
        ),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0" if made else f"{name}-v0.npz",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
