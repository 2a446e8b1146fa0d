"""HDF5 files: D4RL's (Fu et al. 2020), read without its package, plain ones of the same form, and robomimic's."""

from pathlib import Path
from typing import Any

import numpy as np

from diffrl.data import foreign, names, robomimic
from diffrl.data.arrays import flags, from_arrays
from diffrl.data.contents import instead
from diffrl.data.d4rl_names import env_id_of
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.env_id import env_spec_of


def load(id: str, *, max_episode_steps: int | None = None, observation_keys: tuple[str, ...] = ()) -> Source:
    """Read a file of arrays as D4RL's `qlearning_dataset(terminate_on_end=False)` does, with terminal and timeout kept apart.

    Where the file has `next_observations` they are used and every row is kept. Otherwise the next observation is the
    following row's, and the last row of an episode that ended by timeout is dropped (see `arrays.from_arrays`); a terminal
    in a row that is a timeout too, or in the file's last, which D4RL's loop leaves out, is kept. `timeouts` end episodes and
    never cut the bootstrap; in maze2d's files they mark where the goal moved. A file with terminals alone is cut every
    `max_episode_steps`. A file of maze2d under D4RL's name (maze2d-umaze-sparse-v1.hdf5) is of that environment. Other names
    of the arrays: `names.NAMES`. robomimic's files are read as `robomimic.read` says.

    Args:
        id: path of the file; also the dataset's name.
        max_episode_steps: time limit of the environment, for files that record neither timeouts nor next observations.
        observation_keys: of robomimic's files; () for all that are vectors.

    Raises:
        DatasetError: the file does not exist, is damaged, lacks an array or has one of a wrong shape, or nothing says
            where episodes were cut.
    """
    path = Path(id).expanduser()
    try:
        with foreign.hdf5(id, path) as file:
            if robomimic.recognise(file):
                return robomimic.read(id, file, observation_keys)
            if observation_keys:
                raise DatasetError(f"dataset {id!r}: observation keys were given, but a file of arrays has none")
            arrays = _read(id, file)
    except (OSError, KeyError, RuntimeError, MemoryError) as error:
        # What is wrong with a file, with a link in it, and with a part of it.
        why = ValueError(found) if (found := instead(path)) else error
        raise foreign.unreadable(id, why, "fetch it anew", "damaged, cut short or no HDF5 file") from error
    given = names.arguments(id, arrays)
    if "timeout" not in given and "next_observation" not in given:
        given["timeout"] = _timeouts(id, given["terminal"], max_episode_steps)
    source = from_arrays(**given, id=id)
    how = "its own next observations" if "next_observation" in given else "the following row as next observation"
    kept = len(source.transitions.reward)
    description = f"D4RL HDF5 file, {kept:,} of {len(given['action']):,} rows, with {how}"
    env_id = env_id_of(id)
    return source._replace(description=description, env_spec=env_spec_of(env_id) if env_id else None)


def _read(id: str, file: Any) -> dict[str, np.ndarray]:
    if "episode_0" in file:
        raise DatasetError(f"dataset {id!r} looks like a Minari file: name that dataset by its Minari id")
    found = names.recognised(id, file.keys())
    groups = [name for name in found.values() if not hasattr(file[name], "shape")]
    if groups:
        raise DatasetError(f"dataset {id!r}: {', '.join(groups)} holds no array but further groups")
    foreign.refuse_too_large(id, sum(file[name].nbytes for name in found.values()))
    return {part: np.asarray(file[name][()]) for part, name in found.items()}


def _timeouts(id: str, terminals: np.ndarray, max_episode_steps: int | None) -> np.ndarray:
    terminal = flags(id, "terminal", terminals)
    if max_episode_steps is None:
        raise DatasetError(
            f"dataset {id!r} has neither timeouts nor next_observations, so nothing says where its episodes were cut: give "
            "dataset.env_id, whose time limit does"
        )
    row = np.arange(len(terminal))
    after_terminal = np.append(False, terminal)[: len(terminal)]
    step = row - np.maximum.accumulate(np.where(after_terminal, row, 0))
    return (step + 1) % max_episode_steps == 0
