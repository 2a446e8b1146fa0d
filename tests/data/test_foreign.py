"""Data from elsewhere are data and nothing else: nothing outside of the file is read, nothing hangs, nothing fills memory."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffrl import machine
from diffrl.data import foreign
from diffrl.data.dataset import DatasetError

SECRET = b"of the user\n"
Write = Callable[[h5py.File, Path], None]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET * 10)
    return path


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_group("a").create_dataset("x", (8,), "u1", external=[(str(secret), 0, 8)])


def external_link(file: h5py.File, secret: Path) -> None:
    file.create_group("a")["x"] = h5py.ExternalLink(str(secret), "/x")


def link_to_an_inner_file(file: h5py.File, secret: Path) -> None:
    """Behind a soft link, in a group of a group."""
    file.create_group("a/b")["x"] = h5py.ExternalLink("other.hdf5", "/")
    file["top"] = h5py.SoftLink("/a/b")


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (8,))
    file.create_group("a").create_virtual_dataset("x", layout)


@pytest.mark.parametrize("leads_out", [external_storage, external_link, link_to_an_inner_file, virtual])
def test_hdf5_that_leads_out_is_refused_by_name(
    leads_out: Callable[[h5py.File, Path], None], tmp_path: Path, secret: Path
) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["fine"] = np.zeros(3)
        leads_out(file, secret)
    with pytest.raises(DatasetError, match="lies in another file; copy the arrays themselves into one") as refused:
        foreign.hdf5("mine", path).__enter__()
    assert "x'" in str(refused.value)
    # The remedy: the arrays themselves.
    with h5py.File(tmp_path / "mended.hdf5", "w") as file:
        file["a/x"] = np.frombuffer(secret.read_bytes(), np.uint8)[:8]
    with foreign.hdf5("mine", tmp_path / "mended.hdf5") as file:
        assert file["a/x"][()].tobytes() == SECRET[:8]


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["a/x"] = np.arange(3)
        file["soft"], file["hard"], file["round"] = h5py.SoftLink("/a/x"), file["a"], h5py.SoftLink("/")
        file["dangling"] = h5py.SoftLink("/nowhere")
    with foreign.hdf5("mine", path) as file:
        assert file["soft"][1] == file["hard/x"][1] == 1


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"is not a file|is a directory"), foreign.hdf5("mine", path):
            pass


def test_what_a_file_declares_is_weighed_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 10**9)
    foreign.refuse_too_large("mine", 10**9)
    with pytest.raises(DatasetError, match=r"declares 24 GB of arrays, and 1 GB of memory are free: take a machine with more"):
        foreign.refuse_too_large("mine", 24 * 10**9)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "does not fit into the memory that is free"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not be read by this user"),
        (OSError("Unable to open file (unable to lock file, errno = 11, error message = 'x')"), "is being written by another"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "is being written by another"),
        (OSError("Unable to synchronously open file (file signature not found)"), "is damaged or incomplete"),
        (ValueError(), "is damaged or incomplete"),
        (DatasetError("its own words"), "its own words"),
    ],
)
def test_only_what_is_damaged_is_called_so(error: Exception, said: str) -> None:
    """What another program writes, or this user may not read, must not be deleted."""
    made = foreign.unreadable("mine", error, "fetch it anew")
    assert said in str(made)
    assert ("fetch it anew" in str(made)) == ("damaged" in said)
    assert "\n" not in str(made)


@pytest.mark.slow
def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    """As HDF5 itself says it; when the writer has ended it is read."""
    path = tmp_path / "data.hdf5"
    writer = h5py.File(path, "w")
    writer["x"] = np.zeros(3)
    writer.flush()
    reader = (
        "import sys; from pathlib import Path; from diffrl.data import foreign\n"
        "try:\n    with foreign.hdf5('mine', Path(sys.argv[1])) as file: print(len(file['x']))\n"
        "except OSError as error: print(foreign.unreadable('mine', error, 'fetch it anew'))"
    )

    def read() -> str:
        return subprocess.run(
            [sys.executable, "-c", reader, str(path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        assert read() == "dataset 'mine' is being written by another program: wait until that has ended"
    finally:
        writer.close()
    assert read() == "3"
