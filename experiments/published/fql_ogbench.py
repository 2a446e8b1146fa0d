r"""FQL on OGBench's single tasks (Park et al. 2025, tables 2, 3 and 6): 1 M updates of 512 x 4, ten flow steps.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/fql_ogbench.py:cube-single-play --workdir=runs/fql_cube
    python launch/train.py --config=experiments/published/fql_ogbench.py:cube-single-play --config.dataset.task=4 \
        --workdir=runs/fql_cube_task4
    python launch/evaluate.py --workdir=runs/fql_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, the mean of the evaluations at 800,000, 900,000 and 1 M updates ± std over seeds,
of the default task, on which α was tuned (and of all five): cube-single 97 ± 2 (96), cube-double 36 ± 6 (29), scene 76 ± 9
(56), puzzle-3x3 16 ± 5 (30), puzzle-4x4 11 ± 3 (17), antmaze-large 80 ± 8 (79), antmaze-giant 4 ± 5 (9), humanoidmaze-medium 19
± 12 (58), humanoidmaze-large 7 ± 6 (4). With dense rewards: other papers' sparse ones do not compare.
The mazes' sets come from trained agents: download antmaze-large-navigate-v0.npz and its like from the benchmark into this
folder.
Differs: the made sets agree with the published ones in distribution; actions of the data are not moved by 1e-5 off the bounds.
"""

from diffrl.algorithms import fql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

# α, γ, and what targets take over the two critics.
SETTINGS: dict[str, tuple[float, float, fql.Aggregate]] = {
    "antmaze-large-navigate": (10.0, 0.99, "min"),
    "antmaze-giant-navigate": (10.0, 0.995, "min"),
    "humanoidmaze-medium-navigate": (30.0, 0.995, "mean"),
    "humanoidmaze-large-navigate": (30.0, 0.995, "mean"),
    "cube-single-play": (300.0, 0.99, "mean"),
    "cube-double-play": (300.0, 0.99, "mean"),
    "scene-play": (300.0, 0.99, "mean"),
    "puzzle-3x3-play": (1000.0, 0.99, "mean"),
    "puzzle-4x4-play": (1000.0, 0.99, "mean"),
}


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's default task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    alpha, discount, aggregate = SETTINGS[name]
    made = "maze" not in name
    return Config(
        algorithm=fql.Config(alpha=alpha, discount=discount, aggregate=aggregate),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0" if made else f"{name}-v0.npz",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
