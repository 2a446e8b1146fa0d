r"""IDQL on AntMaze at its published size (Hansen-Estruch et al. 2023, appendix E): expectile 0.9, 32 candidates, rewards - 1.

    python launch/train.py --config=experiments/idql_antmaze.py:medium-play --config.dataset.download=true \
        --config.num_seeds=10 --workdir=runs/idql_antmaze
    python launch/train.py --config=experiments/idql_antmaze.py:simplified/medium-play --workdir=runs/idql_simplified

Published on D4RL -v0, 10 seeds (IDQL-A): umaze 94.0, umaze-diverse 80.2, medium-play 84.5, medium-diverse 84.8, large-play
63.5, large-diverse 67.9. Later papers quote them beside scores of -v2.
Differs: Minari's antmaze sets are a new collection of the same tasks, with -v1 in their names; what idql_mujoco.py says.
"""

from diffrl.algorithms import idql
from diffrl.config import Config, DatasetConfig

DATASETS = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")


def get_config(dataset: str = "medium-play") -> Config:
    """One of the six AntMaze datasets; "simplified/" before it for the settings of the later code."""
    settings, _, dataset = dataset.rpartition("/")
    if settings not in ("", "simplified") or dataset not in DATASETS:
        raise ValueError(f"{dataset!r} is none of {', '.join(DATASETS)}, or of these after simplified/")
    algorithm = idql.Config(expectile=0.9, act=idql.Act(num_candidates=32))
    if settings == "simplified":
        algorithm = idql.Config(
            expectile=0.9,
            weight_decay=1e-4,
            activation="swish",
            num_frequencies=64,
            time_dim=256,
            normalize_value_input=True,
            critic_updates=3_000_000,
            behavior_batch_size=512,
            critic_batch_size=512,
            act=idql.Act(num_candidates=64),
        )
    return Config(
        algorithm=algorithm,
        dataset=DatasetConfig(id=f"D4RL/antmaze/{dataset}-v1", reward_shift=-1.0),
        updates_per_chunk=5_000,
        checkpoint_every=100_000,
    )
