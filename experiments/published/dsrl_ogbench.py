r"""DSRL on chunks of five actions on OGBench's single tasks (curves released with QAM): 1 M updates of 512 x 4, ten critics.

    python launch/collect.py --recipe=ogbench/scene-play-v0
    python launch/train.py --config=experiments/published/dsrl_ogbench.py:scene-play --workdir=runs/dsrl_scene
    python launch/train.py --config=experiments/published/dsrl_ogbench.py:scene-play --config.dataset.task=4 \
        --workdir=runs/dsrl_scene_task4
    python launch/evaluate.py --workdir=runs/dsrl_scene --step=all --episodes=50

A flow that another training made, as those of qc_ogbench.py and qc_fql_ogbench.py on the same data, and that is left as it is:

    python launch/train.py --config=experiments/published/dsrl_ogbench.py:scene-play \
        --config.init_from.workdir=runs/qc_fql_scene \
        --config.init_from.fields="('behavior',)" --config.algorithm.train_behavior=false --workdir=runs/dsrl_frozen

Rewards of puzzle and scene are sparse, those of cubes minus the number out of place. Published success in %, 12 seeds x 50
episodes, of single evaluations, the mean of all five tasks at 100,000 / 300,000 / 1 M updates (and of tasks 1 to 5 at 100,000):
scene 86 ± 8 / 100 / 99 (99 57 86 100 90), puzzle-3x3 14 ± 7 / 87 ± 9 / 87 ± 9 (53 17 1 0 0), cube-double 5 ± 2 / 34 ± 14 / 74 ± 4
(20 2 2 0 1), cube-triple 0 / 1 / 1. After 500,000 steps online: 100, 87, 99, 0.
Differs: the made sets agree with the published ones in distribution; actions of the data are not moved by 1e-5 off the bounds; of
chunks what `diffrl.action_chunks.in_chunks` says; rows that the code leaves out of the flow's loss are in it.
"""

from diffrl.algorithms import dsrl
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are, and b.
SETTINGS: dict[str, tuple[Reward, float]] = {
    "puzzle-3x3-play": ("sparse", 1.0),
    "scene-play": ("sparse", 0.4),
    "cube-double-play": ("dense", 1.0),
    "cube-triple-play": ("dense", 1.4),
}


def get_config(name: str = "scene-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    reward, noise_bound = SETTINGS[name]
    return Config(
        algorithm=dsrl.Config(noise_bound=noise_bound),
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=reward, ogbench="1.1"),
        action_chunk=5,
        num_seeds=12,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
