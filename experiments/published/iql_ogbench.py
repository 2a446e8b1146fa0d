"""IQL on OGBench's manipulation sets (Park et al. 2025, arXiv 2502.02538, tables 2 and 5): 1 M updates of 256 x 4.

    python launch/collect.py --recipe=ogbench/cube-single-play-v0
    python launch/train.py --config=experiments/published/iql_ogbench.py:cube-single-play --workdir=runs/iql_cube
    python launch/evaluate.py --workdir=runs/iql_cube --episodes=50

Published success in %, 8 seeds x 50 episodes, of the default task (and of all five): cube-single 85 ± 8 (83), cube-double 1 ± 1
(7), scene 12 ± 3 (28), puzzle-3x3 2 ± 1 (9), puzzle-4x4 5 ± 2 (7).
Differs: the published networks are GELU with LayerNorm in the critics and a Gaussian of unit deviation; here they are the
method's own, ReLU and a learnt deviation, and the policy's rate falls along a cosine.
"""

from diffrl.algorithms import iql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import default_task

# β of the advantage weights.
SETTINGS = {"cube-single-play": 1.0, "cube-double-play": 0.3, "scene-play": 10.0, "puzzle-3x3-play": 10.0, "puzzle-4x4-play": 3.0}


def get_config(name: str = "cube-single-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's default task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    return Config(
        algorithm=iql.Config(expectile=0.9, beta=SETTINGS[name], hidden_dims=(256, 256, 256, 256)),
        dataset=DatasetConfig(
            id=f"diffrl/ogbench/{name}-v0",
            task=str(default_task(name.rsplit("-", 1)[0])),  # pyright: ignore[reportArgumentType]
            ogbench="1.1",
        ),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
