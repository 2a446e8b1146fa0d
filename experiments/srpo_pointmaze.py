"""SRPO on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

    python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
    python launch/train.py --config=experiments/srpo_pointmaze.py:medium --workdir=runs/srpo

Time, 4 seeds on two shared CPU cores: behavior 44 s, critic 87 s, policy 30 s, compiling 7 s.
Score on medium, collection seed 0, last checkpoint: 38.2 [29.7, 47.7] over seeds 0 to 15 (13 to 88), success 89 %, 64 episodes
each (JAX maze); the authors' code on the same rows: 39.9 (one seed).

Chosen on medium data of collection seed 1 by evaluation return, 2 to 4 seeds each: beta over .02, .05, .1, .15, .2, .3, .5, 1, 3
and the three weightings (vds and stable alike, score needs larger beta), all with the Q gradient normalised; critic updates
20,000 and 32,000 (success rises). Discount, rate and tau for the short budget come from IQL's sweep. umaze and large use
medium's values and were not tuned.
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks: 8,000 + 30,000 + 9,000 updates of four seeds take minutes on two cores."""
    return Config(
        algorithm=srpo.Config(
            beta=0.2,
            learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            expectile=0.9,
            normalize_q_gradient=True,
            behavior_hidden_dim=64,
            behavior_blocks=2,
            dropout_rate=0.0,
            critic_hidden_dims=(128, 128),
            policy_hidden_dims=(128, 128),
            behavior_updates=8_000,
            critic_updates=30_000,
            policy_updates=9_000,
            behavior_batch_size=256,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=3_000,
    )
