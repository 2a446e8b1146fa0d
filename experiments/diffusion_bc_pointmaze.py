"""Diffusion behaviour cloning on PointMaze with one fixed goal.

python launch/train.py --config=experiments/diffusion_bc_pointmaze.py:medium --workdir=runs/diffusion_bc
"""

from diffrl.algorithms import diffusion_bc
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """The network of the SRPO experiment's first stage."""
    return Config(
        algorithm=diffusion_bc.Config(learning_rate=1e-3, hidden_dim=128, num_blocks=2, num_updates=10_000, batch_size=256),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
