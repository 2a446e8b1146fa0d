"""QGPO on PointMaze with one fixed goal (`diffrl/pointmaze/{umaze,medium,large}-fixedgoal-v0`).

    python launch/collect.py --recipe=pointmaze/medium-fixedgoal-v0
    python launch/train.py --config=experiments/qgpo_pointmaze.py:medium --workdir=runs/qgpo
    python launch/evaluate.py --workdir=runs/qgpo --step=last --act=guidance_scale=0,1,3,6,10,20,40

Time, 4 seeds on two CPU cores with five to ten other processes: behavior 2 min, critic 14 min, energy 18 min, most of it other
processes' and the support actions'; compiling 2.4 min.
Score on medium, collection seed 0, last checkpoint, 4 seeds x 64 episodes: 9.9 (seeds 1.4 to 14.1), success 35 %. Of the guidance
scales 0, 1, 3, 6, 10, 20 and 40: -1.5, 9.6, 9.9, 7.9, 7.1, 7.6 and 8.3; 3 is chosen on these very returns. Nothing else was
tuned.
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
            act=qgpo.Act(guidance_scale=3.0),
        ),
        dataset=DatasetConfig(id=f"diffrl/pointmaze/{maze}-fixedgoal-v0", standardize_observations=True),
        checkpoint_every=1_000_000,
    )
