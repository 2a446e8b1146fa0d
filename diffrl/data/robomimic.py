"""robomimic's HDF5 files (Mandlekar et al. 2021): a group for every demonstration, observations in parts."""

import re
from typing import Any

import numpy as np

from diffrl.data import foreign, names, parts
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import DatasetError, Source

_DEMONSTRATION = re.compile(r"demo_(\d+)")


def recognise(file: Any) -> bool:
    """Whether an open file is robomimic's: `data/demo_0`, …."""
    data = file.get("data")
    return hasattr(data, "keys") and any(_DEMONSTRATION.fullmatch(name) for name in data)


def read(id: str, file: Any, keys: tuple[str, ...]) -> Source:
    """All demonstrations, in the order of their numbers.

    Each ends with a timeout where it does not end with a terminal; `dones` are terminals, as robomimic's own methods take them
    (1 at success, at a demonstration's end, or at both: as its file was made). `next_obs` are used where they are there. A file
    without rewards is for imitation.

    Args:
        id: name of the data.
        file: the open file.
        keys: parts of the observation to put together, in this order; () for all that are vectors, in alphabetical order.

    Raises:
        DatasetError: there are no such keys, they are no vectors, or a part is missing.
    """
    numbered = {int(match[1]): file["data"][name] for name in file["data"] if (match := _DEMONSTRATION.fullmatch(name))}
    demonstrations = [numbered[number] for number in sorted(numbered)]
    first = demonstrations[0]
    if not hasattr(first, "keys") or not hasattr(first.get("obs"), "keys"):
        raise DatasetError(
            f"dataset {id!r}: {first.name} has no obs. robomimic's dataset_states_to_obs.py makes them from a simulator's states"
        )
    there = {name: _is_vector(value) for name, value in first["obs"].items()}
    chosen = parts.choose(id, there, keys)
    action = [_array(id, one, "actions") for one in demonstrations]

    def whole(name: str) -> np.ndarray:
        found = [_array(id, one, name, len(own)) for one, own in zip(demonstrations, action, strict=True)]
        if len({value.shape[1:] for value in found}) > 1:
            raise DatasetError(f"dataset {id!r}: {name} has rows of different lengths, by demonstration")
        return np.concatenate(found)

    number = np.repeat(np.arange(len(action)), [len(own) for own in action])
    observation, widths = parts.together({key: whole(f"obs/{key}") for key in chosen})
    arrays = {"observation": observation, "action": whole("actions"), "episode_start": np.diff(number, prepend=-1) != 0}
    arrays |= {part: whole(name) for part, name in (("reward", "rewards"), ("terminal", "dones")) if name in first}
    if "next_obs" in first:
        arrays["next_observation"], _ = parts.together({key: whole(f"next_obs/{key}") for key in chosen})
    source = from_arrays(**names.arguments(id, arrays), id=id)
    count = f"{len(demonstrations):,} demonstrations, {len(source.transitions.reward):,} of {len(number):,} rows"
    return source._replace(
        observation_keys=chosen,
        observation_parts=widths,
        description=f"robomimic file, {count}, {parts.described(there, chosen)}",
    )


def _is_vector(value: Any) -> bool:
    """Whether an entry holds a number or a vector for every step; further groups, text and images do not."""
    return getattr(value, "dtype", np.dtype("V")).kind in "biuf" and value.ndim in (1, 2)


def _array(id: str, demonstration: Any, name: str, rows: int | None = None) -> np.ndarray:
    value = demonstration.get(name)
    if not getattr(value, "shape", ()):
        raise DatasetError(f"dataset {id!r}: {demonstration.name} has no array {name}")
    if rows is not None and len(value) != rows:
        raise DatasetError(f"dataset {id!r}: {demonstration.name} has {len(value)} rows of {name} and {rows} actions")
    foreign.refuse_too_large(id, value.nbytes)
    return value[()]
