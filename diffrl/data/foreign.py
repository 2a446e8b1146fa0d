"""Files from elsewhere are data and nothing else: what leads out of them, hangs or fills memory is refused before it is read."""

import errno
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffrl import files, machine
from diffrl.data.dataset import DatasetError


@contextmanager
def hdf5(id: str, path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading; all of its arrays lie in it.

    Args:
        id: of the dataset, for the message.

    Raises:
        DatasetError: it has links to other files, or arrays that are stored in others.
        OSError: it is no file that can be opened.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError(f"dataset {id!r} is read with h5py, which is not installed: pip install 'diffrl[envs]'") from None
    files.opened(path).close()
    with h5py.File(path, "r") as file:
        if (name := _leads_out(file)) is not None:
            raise DatasetError(f"dataset {id!r}: {name!r} in {path} lies in another file; copy the arrays themselves into one")
        yield file


def _leads_out(file: Any) -> str | None:
    """The first name in an HDF5 file that stands for something outside of it."""
    h5py: Any = importlib.import_module("h5py")  # whose lower levels type checkers do not see

    def link(name: bytes, info: Any) -> str | None:
        return name.decode(errors="replace") if info.type == h5py.h5l.TYPE_EXTERNAL else None

    def array(name: bytes, info: Any) -> str | None:
        if info.type != h5py.h5o.TYPE_DATASET:
            return None
        made = h5py.h5d.open(file.id, name).get_create_plist()
        outside = made.get_external_count() > 0 or made.get_layout() == h5py.h5d.VIRTUAL
        return name.decode(errors="replace") if outside else None

    return file.id.links.visit(link, info=True) or h5py.h5o.visit(file.id, array, info=True)


def refuse_too_large(id: str, size: int) -> None:
    """Refuse to read what does not fit into memory; a file may declare any size.

    Raises:
        DatasetError: so many bytes are more than what is free.
    """
    free = machine.free_memory()
    if size > free:
        raise DatasetError(
            f"dataset {id!r} declares {size / 1e9:,.3g} GB of arrays, and {free / 1e9:,.3g} GB of memory are free: take a "
            "machine with more, or fewer rows"
        )


def unreadable(id: str, error: BaseException, remedy: str, damaged: str = "damaged or incomplete") -> DatasetError:
    """What went wrong in reading, and what to do; only what is neither busy, closed to this user, nor too large is damaged.

    Args:
        remedy: for a file that is damaged.
        damaged: what such a file is called.
    """
    if isinstance(error, DatasetError):
        return error
    said = str(error)
    number = getattr(error, "errno", None) or next((int(match) for match in re.findall(r"errno = (\d+)", said)), 0)
    if isinstance(error, MemoryError):
        return DatasetError(f"dataset {id!r} does not fit into the memory that is free: take a machine with more, or fewer rows")
    if number in (errno.EACCES, errno.EPERM):
        return DatasetError(f"dataset {id!r} may not be read by this user: its owner can allow it (chmod a+r)")
    if number in (errno.EAGAIN, errno.EBUSY) or "unable to lock file" in said:
        return DatasetError(f"dataset {id!r} is being written by another program: wait until that has ended")
    first = said.splitlines()[0] if said else repr(error)
    return DatasetError(f"dataset {id!r} is {damaged} ({first[:300]}): {remedy}")
