r"""FQL on chunks of five actions, QC-FQL, on OGBench's single tasks (Li, Zhou, Levine 2025, arXiv 2507.07969).

    python launch/collect.py --recipe=ogbench/puzzle-3x3-play-v0
    python launch/train.py --config=experiments/published/qc_fql_ogbench.py:puzzle-3x3-play --workdir=runs/qc_fql_puzzle
    python launch/train.py --config=experiments/published/qc_fql_ogbench.py:scene-play --config.dataset.task=2 \
        --workdir=runs/qc_fql_scene_task2
    python launch/evaluate.py --workdir=runs/qc_fql_puzzle --step=all --episodes=50

In the authors' code: python main.py --env_name=puzzle-3x3-play-singletask-task1-v0 --sparse=True --horizon_length=5
--agent.actor_type=distill-ddpg --agent.alpha=300.

1 M updates of 512 x 4, two critics, γ 0.99; the mean over a chunk's numbers in the distillation, as α is meant. Rewards of puzzle
and scene are sparse, those of cubes minus the number out of place. Published success in %, 4 seeds x 50 episodes, of single
evaluations, the mean of all five tasks at 100,000 / 300,000 / 1 M updates: puzzle-3x3 40 / 96 / 64 (task 5 falls from 97 to 5
after 300,000), scene 47 / 81 / 86, cube-double 5 / 19 / 42, cube-triple 4 / 4 / 3. One action at a time, FQL with these rewards:
7 / 85 / 99, 21 / 55 / 52, 3 / 15 / 32, 0 / 0 / 2. Online, 1 M steps more: QC-FQL 100, 99, 100, 53.
Differs: what qc_ogbench.py says.
"""

from diffrl.algorithms import fql
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are, and α.
SETTINGS: dict[str, tuple[Reward, float]] = {
    "puzzle-3x3-play": ("sparse", 300.0),
    "scene-play": ("sparse", 300.0),
    "cube-double-play": ("dense", 300.0),
    "cube-triple-play": ("dense", 100.0),
}


def get_config(name: str = "puzzle-3x3-play") -> Config:
    """A dataset of `SETTINGS`, with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset.
    """
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    reward, alpha = SETTINGS[name]
    return Config(
        algorithm=fql.Config(alpha=alpha),
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=reward, ogbench="1.1"),
        action_chunk=5,
        num_seeds=4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
