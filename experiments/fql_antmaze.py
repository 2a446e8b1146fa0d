r"""FQL on AntMaze at its published size (Park et al. 2025, tables 3 and 6; the commands of the authors' README).

    python launch/train.py --config=experiments/fql_antmaze.py:medium-play --config.dataset.download=true \
        --workdir=runs/fql_antmaze
    python launch/evaluate.py --workdir=runs/fql_antmaze --episodes=50

Published on D4RL -v2, 500,000 updates, last checkpoint, 8 seeds x 50 episodes, mean ± std: umaze 96 ± 2, umaze-diverse 89 ± 5,
medium-play 78 ± 7, medium-diverse 71 ± 13, large-play 84 ± 7, large-diverse 83 ± 4.
Differs: Minari's antmaze sets are a new collection of the same tasks; actions of the data are not moved by 1e-5 off the bounds.
"""

from diffrl.algorithms import fql
from diffrl.config import Config, DatasetConfig

ALPHA = {
    "umaze": 10.0,
    "umaze-diverse": 10.0,
    "medium-play": 10.0,
    "medium-diverse": 10.0,
    "large-play": 3.0,
    "large-diverse": 3.0,
}


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets; rewards - 1, the mean of both target critics.

    Raises:
        ValueError: no α is published for this dataset.
    """
    if dataset not in ALPHA:
        raise ValueError(f"no α is published for {dataset!r}; choose one of {', '.join(ALPHA)}")
    return Config(
        algorithm=fql.Config(alpha=ALPHA[dataset], num_updates=500_000),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_shift=-1.0),
        num_seeds=8,
        updates_per_chunk=1_000,
        checkpoint_every=100_000,
    )
