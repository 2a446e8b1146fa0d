"""IQL on the 25 human demonstrations of D4RL's door (door-human), with CORL's settings (configs/offline/iql/door).

    python launch/train.py --config=experiments/published/iql_door.py:door-human.hdf5 --workdir=runs/iql_door
    python launch/evaluate.py --workdir=runs/iql_door --episodes=10

CORL's table (last checkpoint, 4 seeds x 10 episodes, mean ± std): 3.3 ± 1.8.
Differs: CORL drops out a tenth of the policy's units in training, adds 1e-3 to the standard deviations that observations are
divided by, learns from the actions as recorded where these are clipped to the bounds, and evaluates in D4RL's own environment,
which AdroitHandDoor-v1 has been ported from.
"""

from diffrl.algorithms import iql
from diffrl.config import Config, DatasetConfig


def get_config(path: str = "door-human.hdf5") -> Config:
    """The rewards as they are; `path` is D4RL's file, or another of its form."""
    return Config(
        algorithm=iql.Config(expectile=0.8, beta=3.0, num_updates=1_000_000),
        dataset=DatasetConfig(id=path, env_id="AdroitHandDoor-v1", standardize_observations=True, clip_actions=True),
        num_seeds=4,
        checkpoint_every=100_000,
    )
