r"""Diffusion-QL on AntMaze at its published size (Wang, Hunt, Zhou 2023; the authors' code): 1 M updates, 256 × 3.

    python launch/train.py --config=experiments/diffusion_ql_antmaze.py:medium-play \
        --config.dataset.download=true --config.num_seeds=5 --workdir=runs/dql_antmaze

The paper's table 1, on D4RL -v0 and of each seed's best evaluation of 100 episodes: umaze 93.4, umaze-diverse 66.2,
medium-play 76.6, medium-diverse 78.6, large-play 46.4, large-diverse 56.6; scores of neighbouring checkpoints differ by tens.
Minari's antmaze sets are a new collection of the same tasks.

Rewards are (r - 1/2)·4. Where the table has max-Q backup an update draws ten next actions.
"""

from typing import NamedTuple

from diffrl.algorithms import diffusion_ql
from diffrl.config import Config, DatasetConfig


class Settings(NamedTuple):
    """Of one dataset."""

    policy_learning_rate: float
    eta: float
    max_q_backup: bool
    max_gradient_norm: float


SETTINGS = {
    "umaze": Settings(3e-4, 0.5, False, 2.0),
    "umaze-diverse": Settings(3e-4, 2.0, True, 3.0),
    "medium-play": Settings(1e-3, 2.0, True, 2.0),
    "medium-diverse": Settings(3e-4, 3.0, True, 1.0),
    "large-play": Settings(3e-4, 4.5, True, 10.0),
    "large-diverse": Settings(3e-4, 3.5, True, 7.0),
}


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets of the authors' table.

    Raises:
        ValueError: the authors have no settings for this dataset.
    """
    if dataset not in SETTINGS:
        raise ValueError(f"no settings are published for {dataset!r}; choose one of {', '.join(SETTINGS)}")
    return Config(
        algorithm=diffusion_ql.Config(**SETTINGS[dataset]._asdict(), num_updates=1_000_000),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_factor=4.0, reward_shift=-2.0),
        num_seeds=5,
        updates_per_chunk=5_000,
        checkpoint_every=50_000,
    )
