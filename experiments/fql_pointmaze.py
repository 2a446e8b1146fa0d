"""FQL on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
python launch/train.py --config=experiments/fql_pointmaze.py:medium --workdir=runs/fql
"""

from diffrl.algorithms import fql
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks; rate, discount and tau of iql_pointmaze.py, chosen for 30,000 updates."""
    return Config(
        algorithm=fql.Config(
            alpha=1.0,
            learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            normalize_q=True,
            hidden_dims=(128, 128),
            critic_hidden_dims=(128, 128),
            num_updates=30_000,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
