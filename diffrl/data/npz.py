"""Files of numpy: OGBench's, and plain ones, singly or as a directory of episodes."""

from pathlib import Path
from typing import Any

import numpy as np

from diffrl.data import ogbench
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.episodes import joined

_REQUIRED = ("observation", "action", "reward", "terminal")
_OPTIONAL = ("timeout", "next_observation")
_BOUNDS = ("action_low", "action_high")


def load_file(id: str) -> Source:
    """Read one .npz file.

    Arrays are named as the arguments of `arrays.from_arrays`, in singular or plural (`observation` or `observations`, …),
    and mean what they mean there; `action_low`, `action_high` and `num_actions` may be among them. OGBench's files are read as
    `ogbench.arguments` says.

    Args:
        id: path of the file; also the dataset's name.

    Raises:
        DatasetError: the file does not exist, is damaged, lacks an array or has one of a wrong shape.
    """
    return _source(id, _read(id, Path(id).expanduser()))


def load_directory(id: str) -> Source:
    """Read all .npz files of a directory in the order of their names, each as `load_file` does.

    The end of a file ends an episode, so that a file may hold one episode or several.

    Raises:
        DatasetError: as `load_file`, naming the file; there is none; or two have different sizes or bounds.
    """
    paths = sorted(Path(id).expanduser().glob("*.npz"))
    if not paths:
        raise DatasetError(f"dataset {id!r} is a directory without .npz files")
    parts = [_source(str(path), _read(str(path), path)) for path in paths]
    first = parts[0]
    for part in parts[1:]:
        for name in ("observation", "action"):
            here, there = (getattr(one.transitions, name).shape[1] for one in (part, first))
            if here != there:
                raise DatasetError(f"dataset {part.id!r}: {name} has {here} numbers a row, that of {first.id!r} has {there}")
        if part.discrete != first.discrete or part.num_actions != first.num_actions:
            raise DatasetError(f"dataset {part.id!r} has discrete actions where {first.id!r} has not, or another number of them")
        if not all(np.array_equal(getattr(part, name), getattr(first, name)) for name in _BOUNDS):
            raise DatasetError(f"dataset {part.id!r} has other action bounds than {first.id!r}")
    found = joined([part.recorded for part in parts])
    description, rewarded = f"{len(paths):,} files, {len(found.rows.reward):,} rows", all(part.rewarded for part in parts)
    return first._replace(recorded=found, id=id, rewarded=rewarded, description=description)


def _source(id: str, arrays: dict[str, np.ndarray]) -> Source:
    known: dict[str, Any] = {name: arrays[name] for name in (*_BOUNDS, "num_actions") if name in arrays}
    if ogbench.recognise(set(arrays)):
        kind, given = "OGBench file", ogbench.arguments(id, arrays)
    else:
        kind, given = "npz file", _plain(id, arrays)
    source = from_arrays(**given, **known, id=id)
    kept, rows = len(source.transitions.reward), len(given["reward"])
    rewarded = bool({"reward", "rewards"} & set(arrays))
    return source._replace(rewarded=rewarded, description=f"{kind}, {kept:,} of {rows:,} rows")


def _plain(id: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {}
    for name in (*_REQUIRED, *_OPTIONAL):
        found = [key for key in (name, f"{name}s") if key in arrays]
        if len(found) == 2:
            raise DatasetError(f"dataset {id!r} has both {name} and {name}s")
        if found:
            given[name] = arrays[found[0]]
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise DatasetError(f"dataset {id!r} has no {', '.join(missing)} (or in plural); there are {there}")
    return given


def _read(id: str, path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: numpy leaves a file open that turns out not to be a whole archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("one array without a name")
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        # Numpy and zipfile have no type of their own for a file they cannot read, and many others.
        raise DatasetError(f"dataset {id!r} is damaged, cut short or no .npz file ({error}): write or fetch it anew") from error
