"""Behaviour cloning on D4RL's maze2d-{umaze,medium,large}-v1 with CORL's settings (configs/offline/bc/maze2d).

    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=d4rl
    python launch/train.py --config=experiments/published/bc_maze2d.py:umaze --workdir=runs/bc_umaze
    python launch/evaluate.py --workdir=runs/bc_umaze --episodes=100

CORL's table (last checkpoint, 4 seeds x 100 episodes, mean ± std): umaze 0.4 ± 8.7, medium 0.8 ± 3.3, large 2.3 ± 4.4.
What differs is said in iql_maze2d.py.
"""

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig
from diffrl.data.minari import dataset_path


def get_config(maze: str = "umaze") -> Config:
    """Mean squared error, tanh output: nothing to learn from wanderings, which is what this row shows."""
    return Config(
        algorithm=bc.Config(learning_rate=3e-4, hidden_dims=(256, 256), num_updates=1_000_000, batch_size=256),
        dataset=DatasetConfig(
            id=f"{dataset_path(f'diffrl/d4rl/maze2d-{maze}-v1')}.hdf5",
            env_id=f"maze2d-{maze}-v1",
            standardize_observations=True,
        ),
        num_seeds=4,
        checkpoint_every=100_000,
    )
