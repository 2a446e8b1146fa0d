"""QGPO on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
python launch/train.py --config=experiments/qgpo_pointmaze.py:medium --workdir=runs/qgpo
python launch/evaluate.py --workdir=runs/qgpo --step=last --act=guidance_scale=1,2,4,8
"""

from diffrl.algorithms import qgpo
from diffrl.config import Config, DatasetConfig


def get_config(maze: str = "medium") -> Config:
    """Small networks, and IQL's discount and rate for a short budget."""
    return Config(
        algorithm=qgpo.Config(
            learning_rate=1e-3,
            critic_learning_rate=1e-3,
            energy_learning_rate=1e-3,
            discount=0.98,
            tau=0.02,
            backup_beta=20.0,
            support_denoising_steps=7,
            behavior_hidden_dims=(64, 32),
            critic_hidden_dims=(128, 128),
            energy_hidden_dims=(128, 128),
            behavior_updates=6_000,
            critic_updates=20_000,
            energy_updates=6_000,
            behavior_batch_size=128,
            batch_size=128,
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=1_000_000,
    )
