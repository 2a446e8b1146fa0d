"""SRPO on PointMaze with one fixed goal.

python launch/train.py --config=experiments/srpo_pointmaze.py:medium --workdir=runs/srpo
"""

from diffrl.algorithms import srpo
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    return Config(
        algorithm=srpo.Config(
            beta=0.1,
            expectile=0.9,
            normalize_q_gradient=True,
            behavior_hidden_dim=128,
            behavior_blocks=2,
            critic_hidden_dims=(256, 256),
            policy_hidden_dims=(256, 256),
            behavior_updates=20_000,
            critic_updates=20_000,
            policy_updates=10_000,
            behavior_batch_size=256,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
