r"""QGPO on AntMaze at its published size (Lu et al. 2023): K = 32, β_Q = 20, rewards - 1.

    python launch/train.py --config=experiments/qgpo_antmaze.py:medium-play --config.dataset.download=true \
        --workdir=runs/qgpo_antmaze
    python launch/evaluate.py --workdir=runs/qgpo_antmaze --step=last --act=guidance_scale=1,1.5,2,2.5,3,4

Published on D4RL of a version that is not stated, 5 seeds, 100 episodes a seed: umaze 96.4, umaze-diverse 74.4, medium-play
83.6, medium-diverse 83.8, large-play 66.6, large-diverse 64.8. The guidance scales are not published: 2.5 is from the middle of
the code's sweep, above.
Differs: Minari's antmaze sets are a new collection of the same tasks, with -v1 in their names; what qgpo_mujoco.py says. The
support actions of a million rows take 1 GB for each seed.
"""

from diffrl.algorithms import qgpo
from diffrl.config import Config, DatasetConfig

DATASETS = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets.

    Raises:
        ValueError: another one.
    """
    if dataset not in DATASETS:
        raise ValueError(f"{dataset!r} is none of {', '.join(DATASETS)}")
    return Config(
        algorithm=qgpo.Config(num_support_actions=32, backup_beta=20.0, act=qgpo.Act(guidance_scale=2.5)),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_shift=-1.0),
        num_seeds=1,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
