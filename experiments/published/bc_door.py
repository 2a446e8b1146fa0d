"""Behaviour cloning on the 25 human demonstrations of D4RL's door (door-human), with CORL's settings (configs/offline/bc/door).

    python launch/train.py --config=experiments/published/bc_door.py:door-human.hdf5 --workdir=runs/bc_door
    python launch/evaluate.py --workdir=runs/bc_door --episodes=10

CORL's table (last checkpoint, 4 seeds x 10 episodes, mean ± std): 2.3 ± 4.0.
What differs is said in iql_door.py.
"""

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig


def get_config(path: str = "door-human.hdf5") -> Config:
    """Mean squared error, tanh output; `path` is D4RL's file, or another of its form."""
    return Config(
        algorithm=bc.Config(learning_rate=3e-4, hidden_dims=(256, 256), num_updates=1_000_000, batch_size=256),
        dataset=DatasetConfig(id=path, env_id="AdroitHandDoor-v1", standardize_observations=True, clip_actions=True),
        num_seeds=4,
        checkpoint_every=100_000,
    )
