"""IQL on D4RL's maze2d-{umaze,medium,large}-v1 with CORL's settings (github.com/tinkoff-ai/CORL, configs/offline/iql/maze2d).

    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=d4rl
    python launch/train.py --config=experiments/published/iql_maze2d.py:umaze --workdir=runs/iql_umaze
    python launch/evaluate.py --workdir=runs/iql_umaze --episodes=100

CORL's table (last checkpoint, 4 seeds x 100 episodes, mean ± std): umaze 42.1 ± 0.6, medium 34.9 ± 2.7, large 61.7 ± 3.5.
Differs: CORL adds 1e-3 to the standard deviations that observations are divided by, and evaluates all its seeds' checkpoints from
the same 100 starts.
"""

from diffrl.algorithms import iql
from diffrl.config import Config, DatasetConfig
from diffrl.data.minari import dataset_path


def get_config(maze: str = "umaze") -> Config:
    """The rewards as they are; expectile 0.7 and the weights' inverse temperature of 3 are the method's defaults."""
    return Config(
        algorithm=iql.Config(
            learning_rate=3e-4, discount=0.99, tau=0.005, hidden_dims=(256, 256), num_updates=1_000_000, batch_size=256
        ),
        dataset=DatasetConfig(
            id=f"{dataset_path(f'diffrl/d4rl/maze2d-{maze}-v1')}.hdf5",
            env_id=f"maze2d-{maze}-v1",
            standardize_observations=True,
        ),
        num_seeds=4,
        checkpoint_every=100_000,
    )
