"""ReBRAC on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
python launch/train.py --config=experiments/rebrac_pointmaze.py:medium --workdir=runs/rebrac
"""

from diffrl.algorithms import rebrac
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks; rate, discount and tau of iql_pointmaze.py, chosen for 30,000 updates."""
    return Config(
        algorithm=rebrac.Config(
            policy_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            policy_penalty=0.1,
            critic_penalty=0.01,
            hidden_dims=(128, 128),
            critic_hidden_dims=(128, 128),
            num_updates=30_000,
            batch_size=256,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=5_000,
    )
