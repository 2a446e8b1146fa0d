"""Behaviour cloning on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

    python launch/train.py --config=experiments/bc_pointmaze.py:medium --workdir=runs/bc

Time, 4 seeds on two CPU cores: 18 s, compiling 1 s.
Score on medium, collection seed 0, last checkpoint: -1.3 [-1.8, -0.7], success 11 %, 4 seeds x 64 episodes (JAX maze).
"""

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """The baseline: regression onto undirected play goes nowhere in particular."""
    return Config(
        algorithm=bc.Config(learning_rate=1e-3, hidden_dims=(128, 128), num_updates=20_000),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
