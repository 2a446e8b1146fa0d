"""D4RL's HDF5 files (Fu et al. 2020), read without its package."""

from pathlib import Path
from typing import Any

import numpy as np

from diffrl.data.arrays import flags, from_arrays
from diffrl.data.d4rl_names import env_id_of
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.env_id import env_spec_of

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")


def load(id: str, *, max_episode_steps: int | None = None) -> Source:
    """Read a file as D4RL's `qlearning_dataset(terminate_on_end=False)` does, with terminal and timeout kept apart.

    Where the file has `next_observations` they are used and every row is kept. Otherwise the next observation is the
    following row's, and the last row of an episode that ended by timeout is dropped (see `arrays.from_arrays`); a terminal
    in a row that is a timeout too, or in the file's last, which D4RL's loop leaves out, is kept. `timeouts` end episodes and
    never cut the bootstrap; in maze2d's files they mark where the goal moved. A file with neither is cut every
    `max_episode_steps`. A file of maze2d under D4RL's name (maze2d-umaze-sparse-v1.hdf5) is of that environment.

    Args:
        id: path of the file; also the dataset's name.
        max_episode_steps: time limit of the environment, for files that record neither timeouts nor next observations.

    Raises:
        DatasetError: the file does not exist, is damaged, lacks an array or has one of a wrong shape, or nothing says
            where episodes were cut.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError(f"dataset {id!r} is read with h5py, which is not installed: pip install 'diffrl[envs]'") from None
    path = Path(id).expanduser()
    try:
        with h5py.File(path, "r") as file:
            arrays = _read(id, file)
    except (OSError, KeyError, RuntimeError) as error:
        # What is wrong with a file, with a link in it, and with a part of it.
        raise DatasetError(f"dataset {id!r} is damaged, cut short or no HDF5 file ({error}): fetch it anew") from error
    if "timeouts" not in arrays and "next_observations" not in arrays:
        arrays["timeouts"] = _timeouts(id, arrays, max_episode_steps)
    source = from_arrays(
        observation=arrays["observations"],
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=arrays["terminals"],
        timeout=arrays.get("timeouts"),
        next_observation=arrays.get("next_observations"),
        id=id,
    )
    how = "its own next observations" if "next_observations" in arrays else "the following row as next observation"
    kept = len(source.transitions.reward)
    description = f"D4RL HDF5 file, {kept:,} of {len(arrays['rewards']):,} rows, with {how}"
    env_id = env_id_of(id)
    return source._replace(description=description, env_spec=env_spec_of(env_id) if env_id else None)


def _read(id: str, file: Any) -> dict[str, np.ndarray]:
    there = sorted(file.keys())
    missing = [name for name in _REQUIRED if name not in there]
    if missing:
        hint = ". It looks like a Minari file: name that dataset by its Minari id" if "episode_0" in there else ""
        found = ", ".join(there[:20]) or "nothing"
        raise DatasetError(f"dataset {id!r} has no {', '.join(missing)}; there are {found}{hint}")
    groups = [name for name in (*_REQUIRED, *_OPTIONAL) if name in there and not hasattr(file[name], "shape")]
    if groups:
        raise DatasetError(f"dataset {id!r}: {', '.join(groups)} holds no array but further groups")
    arrays = {name: np.asarray(file[name][()]) for name in (*_REQUIRED, *_OPTIONAL) if name in there}
    for name in ("rewards", "terminals", "timeouts"):
        # Some early files hold these as columns.
        if name in arrays and arrays[name].shape[1:] == (1,):
            arrays[name] = arrays[name][:, 0]
    return arrays


def _timeouts(id: str, arrays: dict[str, np.ndarray], max_episode_steps: int | None) -> np.ndarray:
    terminal = flags(id, "terminals", arrays["terminals"])
    if max_episode_steps is None:
        raise DatasetError(
            f"dataset {id!r} has neither timeouts nor next_observations, so nothing says where its episodes were cut: give "
            "dataset.env_id, whose time limit does"
        )
    row = np.arange(len(terminal))
    after_terminal = np.append(False, terminal)[: len(terminal)]
    step = row - np.maximum.accumulate(np.where(after_terminal, row, 0))
    return (step + 1) % max_episode_steps == 0
