r"""EDP with IQL's improvement on AntMaze at its published size (Kang et al. 2023): 2 M updates, 256 × 3, 1,000 levels.

    python launch/train.py --config=experiments/edp_antmaze.py:medium-play \
        --config.dataset.download=true --config.num_seeds=5 --workdir=runs/edp_antmaze

Rewards are r - 1. Expectile 0.7 and β = 3 are the code's defaults; whether the paper's AntMaze has others is not known (IQL's
own are 0.9 and 10). No chain is sampled in training; acting takes 50 candidates of 15 evaluations. The paper's table could
not be read, so no score is quoted. The code clips the data's actions to ±0.999. Minari's antmaze sets are a new collection of
D4RL's -v0 tasks.
"""

from diffrl.algorithms import edp
from diffrl.config import Config, DatasetConfig

# Of Diffusion-QL: all that the code takes from its table.
MAX_GRADIENT_NORM = {
    "umaze": 2.0,
    "umaze-diverse": 3.0,
    "medium-play": 2.0,
    "medium-diverse": 1.0,
    "large-play": 10.0,
    "large-diverse": 7.0,
}


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets.

    Raises:
        ValueError: there are no settings for this dataset.
    """
    if dataset not in MAX_GRADIENT_NORM:
        raise ValueError(f"no settings are published for {dataset!r}; choose one of {', '.join(MAX_GRADIENT_NORM)}")
    return Config(
        algorithm=edp.Config(form="iql", max_gradient_norm=MAX_GRADIENT_NORM[dataset]),
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_shift=-1.0),
        num_seeds=5,
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
