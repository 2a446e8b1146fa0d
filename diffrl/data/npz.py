"""Files of numpy: OGBench's, and plain ones, singly or as a directory of episodes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from diffrl import files
from diffrl.data import foreign, names, ogbench
from diffrl.data.arrays import from_arrays
from diffrl.data.contents import instead
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.mix import joined

_REMEDY = ("write or fetch it anew", "damaged, cut short or no .npz file")
_BOUNDS = ("action_low", "action_high")


def load_file(id: str) -> Source:
    """Read one .npz file.

    Arrays are named as the arguments of `arrays.from_arrays`, or otherwise (`names.NAMES`), and mean what they mean there;
    `action_low`, `action_high` and `num_actions` may be among them. OGBench's files are read as `ogbench.arguments` says.

    Args:
        id: path of the file; also the dataset's name.

    Raises:
        DatasetError: the file does not exist, is damaged, lacks an array or has one of a wrong shape.
    """
    return _source(id, Path(id).expanduser())


def load_directory(id: str) -> Source:
    """Read all .npz files of a directory in the order of their names, each as `load_file` does.

    The end of a file ends an episode, so that a file may hold one episode or several.

    Raises:
        DatasetError: as `load_file`, naming the file; there is none; or two do not fit together.
    """
    paths = sorted(Path(id).expanduser().glob("*.npz"))
    if not paths:
        raise DatasetError(
            f"dataset {id!r} is a directory without .npz files, and neither a LeRobot dataset (meta/info.json) nor one of Minari "
            "(data/metadata.json)"
        )
    parts = [_source(str(path), path) for path in paths]
    source = joined(id, parts)
    return source._replace(description=f"{len(paths):,} files, {len(source.transitions.reward):,} rows")


class _Members(Mapping[str, Any]):
    """The arrays of an archive, each read when it is asked for: what else is in there costs nothing."""

    def __init__(self, id: str, archive: Any) -> None:
        self._id, self._archive = id, archive

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._archive.files:
            raise KeyError(name)
        try:
            stored = name if name in self._archive.zip.namelist() else f"{name}.npy"
            foreign.refuse_too_large(self._id, self._archive.zip.getinfo(stored).file_size)
            return self._archive[name]
        except Exception as error:  # numpy and zipfile have no type of their own for what they cannot read, and many others
            raise foreign.unreadable(self._id, error, *_REMEDY) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.files)

    def __len__(self) -> int:
        return len(self._archive.files)


def _source(id: str, path: Path) -> Source:
    try:
        file = files.opened(path)
    except OSError as error:
        raise foreign.unreadable(id, error, *_REMEDY) from error
    # Opened here: numpy leaves a file open that turns out not to be a whole archive.
    with file:
        try:
            if not is_zipfile(file):  # numpy would take it for a pickle, and say how to run it
                raise ValueError(instead(path) or "no archive of arrays, as numpy.savez writes")
            file.seek(0)
            arrays = _Members(id, np.load(file, allow_pickle=False))
        except Exception as error:  # see `_Members`
            raise foreign.unreadable(id, error, *_REMEDY) from error
        return _of_arrays(id, arrays)


def _of_arrays(id: str, arrays: _Members) -> Source:
    known: dict[str, Any] = {name: arrays[name] for name in (*_BOUNDS, "num_actions") if name in arrays}
    if ogbench.recognise(set(arrays)):
        kind, given = "OGBench file", ogbench.arguments(id, arrays)
    else:
        found = names.recognised(id, arrays)
        kind, given = "npz file", names.arguments(id, {part: arrays[name] for part, name in found.items()})
    source = from_arrays(**given, **known, id=id)
    kept, rows = len(source.transitions.reward), len(given["action"])
    return source._replace(description=f"{kind}, {kept:,} of {rows:,} rows")
