"""Diffusion-QL on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/train.py --config=experiments/diffusion_ql_pointmaze.py:medium --workdir=runs/dql

Time, 4 seeds on two CPU cores: 6 min 46 s, compiling 17 s.
Score on medium, collection seed 0, last checkpoint: 9.2 (seeds 0.3 to 21.0), success 33 %, 4 seeds x 64 episodes; cloning -1.0.
"""

from diffrl.algorithms import diffusion_ql
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks; rates and discount of iql_pointmaze.py, η of the paper's locomotion, nothing tuned here."""
    return Config(
        algorithm=diffusion_ql.Config(
            policy_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            hidden_dims=(128, 128),
            critic_hidden_dims=(128, 128),
            num_updates=30_000,
            batch_size=128,
            act=diffusion_ql.Act(num_candidates=10),
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
