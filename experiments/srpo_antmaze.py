r"""SRPO on AntMaze at its published size (Chen et al. 2024, table 1; values of the authors' code).

    python launch/train.py --config=experiments/srpo_antmaze.py:medium-play \
        --config.dataset.download=true --workdir=runs/srpo_antmaze

Expectile 0.9, reward - 1, four-layer policy, Q gradient normalised. The β belong to D4RL's -v2 data; Minari's antmaze sets
are a new collection of the same tasks.
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig

BETA = {
    "umaze": 0.02,
    "umaze-diverse": 0.04,
    "medium-play": 0.08,
    "medium-diverse": 0.05,
    "large-play": 0.06,
    "large-diverse": 0.05,
}


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets of the paper's table.

    Raises:
        ValueError: the authors' code has no β for this dataset.
    """
    if dataset not in BETA:
        raise ValueError(f"no β is published for {dataset!r}; choose one of {', '.join(BETA)}")
    return Config(
        algorithm=srpo.Config(
            beta=BETA[dataset], expectile=0.9, normalize_q_gradient=True, policy_hidden_dims=(256, 256, 256, 256)
        ),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_shift=-1.0),
        num_seeds=6,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
