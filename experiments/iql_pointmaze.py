"""IQL on PointMaze with one fixed goal.

python launch/train.py --config=experiments/iql_pointmaze.py:medium --workdir=runs/iql
"""

from diffrl.algorithms import iql
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Expectile and temperature are the paper's for mazes."""
    return Config(
        algorithm=iql.Config(hidden_dims=(256, 256), expectile=0.9, temperature=10.0, num_updates=20_000),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
