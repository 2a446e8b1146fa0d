"""SRPO on PointMaze with one fixed goal.

python launch/train.py --config=experiments/srpo_pointmaze.py:medium --workdir=runs/srpo
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
