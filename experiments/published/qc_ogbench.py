r"""QC and BFN on OGBench's single tasks (Li, Zhou, Levine 2025, arXiv 2507.07969): 1 M updates of 512 x 4, two critics.

    python launch/collect.py --recipe=ogbench/puzzle-3x3-play-v0
    python launch/train.py --config=experiments/published/qc_ogbench.py:puzzle-3x3-play --workdir=runs/qc_puzzle
    python launch/train.py --config=experiments/published/qc_ogbench.py:scene-play --config.dataset.task=2 \
        --workdir=runs/qc_scene_task2
    python launch/train.py --config=experiments/published/qc_ogbench.py:scene-play,bfn --workdir=runs/bfn_scene
    python launch/evaluate.py --workdir=runs/qc_puzzle --step=all --episodes=50

In the authors' code: python main.py --env_name=puzzle-3x3-play-singletask-task1-v0 --sparse=True --horizon_length=5
--agent.actor_type=best-of-n --agent.actor_num_samples=64; BFN is --horizon_length=1 --agent.actor_num_samples=4.

Rewards of puzzle and scene are sparse, those of cubes minus the number out of place. Published success in %, 4 seeds x 50
episodes, of single evaluations, the mean of all five tasks at 100,000 / 300,000 / 1 M updates (and of tasks 1 to 5 at 100,000).
QC: puzzle-3x3 98 / 100 / 100 (100 100 97 95 100), scene 58 / 74 / 82 (98 97 47 57 0), cube-double 12 / 38 / 66 (46 2 5 2 4),
cube-triple 2 / 5 / 5. BFN: puzzle-3x3 24 / 99 / 96 (72 28 14 10 1), scene 56 / 77 / 87, cube-double 5 / 38 / 67, cube-triple
1 / 1 / 6. Online, 1 M steps more: QC 100, 99, 98, 64; BFN 100, 99, 80, 23.
A target draws as many candidates as acting, each by ten passes through the flow: 140 GFLOP an update with 32 of them.
Differs: the made sets agree with the published ones in distribution; actions of the data are not moved by 1e-5 off the bounds;
of chunks what `diffrl.action_chunks.in_chunks` says.
"""

from diffrl.algorithms import qc
from diffrl.config import Config, DatasetConfig
from diffrl.envs.ogbench.tasks import Reward

# What rewards are, and QC's N; BFN's is 4.
SETTINGS: dict[str, tuple[Reward, int]] = {
    "puzzle-3x3-play": ("sparse", 64),
    "scene-play": ("sparse", 32),
    "cube-double-play": ("dense", 32),
    "cube-triple-play": ("dense", 32),
}


def get_config(cell: str = "puzzle-3x3-play") -> Config:
    """`DATASET` or `DATASET,bfn`, a dataset of `SETTINGS` with its environment's first task.

    Raises:
        ValueError: no settings are published for this dataset, or it is neither form.
    """
    name, _, form = cell.partition(",")
    if name not in SETTINGS:
        raise ValueError(f"no settings are published for {name!r}; choose one of {', '.join(SETTINGS)}")
    if form not in ("", "bfn"):
        raise ValueError(f"{form!r} is no form of it: {name} is QC, and {name},bfn is BFN")
    reward, count = SETTINGS[name]
    count = 4 if form else count
    return Config(
        algorithm=qc.Config(num_next_actions=count, act=qc.Act(num_candidates=count)),
        dataset=DatasetConfig(id=f"diffrl/ogbench/{name}-v0", task="1", reward=reward, ogbench="1.1"),
        action_chunk=1 if form else 5,
        num_seeds=4,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
