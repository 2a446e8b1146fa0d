"""D4RL's names of its files (DATASET_URLS of d4rl/infos.py), and the tasks and environments they stand for."""

import re
from pathlib import PurePath

from diffrl.envs.maze2d import registry as maze2d

# Files are called hopper_medium-v2.hdf5, maze2d-umaze-sparse-v1.hdf5, pen-v0_demos_clipped.hdf5, Ant_maze_u-maze_noisy_….hdf5.
_CHANGES = (
    (r"\.(hdf5|h5|npz)$", ""),
    (r"_", "-"),
    (r"-v\d+(?=-|$)", ""),
    (r"-sparse$", ""),
    (r"^ant-maze-", "antmaze-"),
    (r"^mini-kitchen-", "kitchen-"),
    (r"^walker-", "walker2d-"),
)


def task_of(id: str) -> str:
    """The task in a file's or a dataset's name, as D4RL's environments are called, without version: "hopper-medium"."""
    name = PurePath(id).name.lower()
    for pattern, replacement in _CHANGES:
        name = re.sub(pattern, replacement, name)
    return name


def env_id_of(id: str) -> str:
    """The environment that a file of D4RL's name is of, where it is one known under D4RL's own name; else ""."""
    found = f"{task_of(id)}-v1"
    return found if found in maze2d.ENV_IDS and re.search(r"-v1\b", PurePath(id).name) else ""
