"""What a file holds, read from its first bytes and its table of contents alone: for files that no loader understands."""

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


def instead(path: Path) -> str:
    """What stands in a file's place where a download went wrong, in words; "" where it is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip()
    except OSError:
        return ""
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS to a file that was not fetched, as `git lfs pull` does"
    return "it is a page of the web" if head.startswith(b"<") else ""


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
