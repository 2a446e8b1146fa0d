"""EDP on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/train.py --config=experiments/edp_pointmaze.py:medium --workdir=runs/edp

Time, 4 seeds on two CPU cores: 3 min, compiling 12 s.
Score on medium, collection seed 0, last checkpoint: 11.5 (seeds 8.3 to 14.2), success 92 %, 4 seeds x 64 episodes; cloning -1.0.
"""

from diffrl.algorithms import edp
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks and IQL's improvement, the paper's choice for mazes; rates and values as in iql_pointmaze.py."""
    return Config(
        algorithm=edp.Config(
            form="iql",
            learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            expectile=0.9,
            hidden_dims=(128, 128),
            critic_hidden_dims=(128, 128),
            num_updates=30_000,
            batch_size=128,
            act=edp.Act(num_candidates=10),
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
