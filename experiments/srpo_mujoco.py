r"""SRPO on locomotion at its published size (Chen et al. 2024, tables 1 and 2): 2.0 M + 1.5 M + 1.0 M updates.

    python launch/train.py --config=experiments/srpo_mujoco.py:halfcheetah-medium --config.dataset.download=true \
        --config.num_seeds=6 --workdir=runs/srpo_halfcheetah

The paper's β belong to D4RL's -v2 data. Minari's sets of the same name were made by other policies (its "hopper medium" is
near D4RL's expert): sweep β there (--config.sweep="beta=0.01,0.02,0.05,0.1,0.2,0.5") and do not expect the paper's scores.
Time: `make bench` measures every stage of this file on your machine; BUILD.md has the figures of ours.
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig

BETA = {
    "halfcheetah-medium-expert": 0.01,
    "halfcheetah-medium": 0.2,
    "halfcheetah-medium-replay": 0.2,
    "hopper-medium-expert": 0.01,
    "hopper-medium": 0.05,
    "hopper-medium-replay": 0.2,
    "walker2d-medium-expert": 0.1,
    "walker2d-medium": 0.05,
    "walker2d-medium-replay": 0.5,
}


def get_config(dataset: str = "halfcheetah-medium") -> Config:
    """One of the nine locomotion datasets of the paper's table.

    Raises:
        ValueError: the paper has no β for this dataset.
    """
    if dataset not in BETA:
        raise ValueError(f"no β is published for {dataset!r}; choose one of {', '.join(BETA)}")
    task, quality = dataset.split("-", 1)
    return Config(
        algorithm=srpo.Config(beta=BETA[dataset], expectile=0.7),
        dataset=DatasetConfig(id=f"mujoco/{task}/{quality}-v0", reward_scale="return_range"),
        num_seeds=6,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
