r"""IFQL on chunks of five actions, QC-IFQL, on OGBench's single tasks (Li, Zhou, Levine 2025, arXiv 2507.07969).

    python launch/collect.py --recipe=ogbench/puzzle-3x3-play-v0
    python launch/train.py --config=experiments/published/qc_ifql_ogbench.py:puzzle-3x3-play --workdir=runs/qc_ifql_puzzle
    python launch/train.py --config=experiments/published/qc_ifql_ogbench.py:scene-play --config.dataset.task=2 \
        --workdir=runs/qc_ifql_scene_task2
    python launch/evaluate.py --workdir=runs/qc_ifql_puzzle --step=all --episodes=50

1 M updates of 512 x 4, two critics, 32 candidates, expectile 0.9. Rewards of puzzle and scene are sparse, those of cubes minus
the number out of place. Published success in %, 4 seeds x 50 episodes, of single evaluations, the mean of all five tasks at
100,000 / 300,000 / 1 M updates (and of tasks 1 to 5 at 100,000): puzzle-3x3 79 / 100 / 100 (100 100 46 63 85), scene 84 / 80 /
84 (97 91 66 92 73), cube-double 2 / 6 / 12, cube-triple 0 / 0 / 0. One action at a time, ifql_ogbench.py with these rewards:
puzzle-3x3 5 / 81 / 98, scene 22 / 38 / 72, cube-double 2 / 12 / 12.
Differs: what ifql_ogbench.py says; of chunks what `diffrl.action_chunks.in_chunks` says.
"""

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are.
SETTINGS: dict[str, Reward] = {
    "puzzle-3x3-play": "sparse",
    "scene-play": "sparse",
    "cube-double-play": "dense",
    "cube-triple-play": "dense",
}


def get_config(name: str = "puzzle-3x3-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    return Config(
        algorithm=idql.Config(
            clone="flow",
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
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=SETTINGS[name], ogbench="1.1"),
        action_chunk=5,
        num_seeds=4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
