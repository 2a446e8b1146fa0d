"""Gaussian behaviour cloning on PointMaze with one fixed goal, acting by the mean.

python launch/train.py --config=experiments/gaussian_bc_pointmaze.py:medium --workdir=runs/gaussian_bc
python launch/evaluate.py --workdir=runs/gaussian_bc --step=last --act=deterministic=false

Time, 4 seeds on two CPU cores: 15 s, compiling 1 s.
Score on medium, collection seed 0, last checkpoint: -1.3 [-1.6, -1.0], success 12 %, 4 seeds x 64 episodes (JAX maze).
"""

from diffrl.algorithms import gaussian_bc
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """The network of bc_pointmaze.py; the second command samples instead."""
    return Config(
        algorithm=gaussian_bc.Config(learning_rate=1e-3, hidden_dims=(128, 128), num_updates=20_000),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
