"""What a file holds, read from its tables of contents alone: for files that no loader understands."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MOST = 40  # arrays that are listed


class Array(NamedTuple):
    """An array in a file; `dtype` is "object" where it could be read only by running a pickle, which is never done."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def contents(path: Path) -> list[Array]:
    """The arrays of an .npz or HDF5 file, without reading any; the first of a directory's .npz files stands for it.

    Returns:
        At most 40; none where the file is neither, or damaged.
    """
    if path.is_dir():
        return next((contents(file) for file in sorted(path.glob("*.npz"))), [])
    if not path.is_file():
        return []
    try:
        return (_npz if zipfile.is_zipfile(path) else _hdf5)(path)[:_MOST]
    except Exception:  # of a damaged file, or without h5py; the loader has said what is wrong
        return []


def _npz(path: Path) -> list[Array]:
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(member)
            found.append(Array(name.removesuffix(".npy"), shape, str(dtype)))
    return found


def _hdf5(path: Path) -> list[Array]:
    import h5py

    found = []

    def note(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            found.append(Array(name, tuple(item.shape or ()), str(item.dtype)))
        return True if len(found) >= _MOST else None

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found
