"""Files on the user's disk: written inside their folder, whole or not at all, never through a link; read where they are files.

A workdir, a report or a dataset may come from elsewhere, with links in it that point anywhere. So every write walks from a root,
the directory that the user named, to the folder of the file, and follows no link on the way.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from diffrl.errors import UserError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
LONGEST_NAME = 255  # bytes, of every usual file system


def slug(text: str, longest: int = 80) -> str:
    """A name made from data: letters, digits, dots, dashes and underscores, the same for the same text.

    What had to be changed ends in a hash of the text, so that different texts keep different names.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    if plain == text and 0 < len(plain) <= longest:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, [plain[: longest - len(digest) - 1].strip("-."), digest]))


def directory(name: str | Path) -> Path:
    """A directory as a user names it, with ~ for a home.

    Raises:
        UserError: files cannot be written there under that name: it is no UTF-8, a part of it is too long, or it has a character
            that the checkpoints' library takes for another.
    """
    path = Path(name)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: {error}; write the whole path") from None
    try:
        parts = path.absolute().parts
    except FileNotFoundError:
        raise UserError(f"{name}: the working directory was removed: change to another one") from None
    for part in parts:
        try:
            too_long = len(part.encode()) > LONGEST_NAME
        except UnicodeEncodeError:
            raise UserError(f"{part!r} is no name in UTF-8: use another directory") from None
        if too_long:
            raise UserError(f"{part[:40]!r}… is a name of more than {LONGEST_NAME} bytes: use a shorter one")
        if found := set(part) & set("[]\\\0"):
            raise UserError(f"{str(path)!r} has a {min(found)!r}, with which checkpoints cannot be read again: use another name")
    return path


def below(name: str) -> bool:
    """Whether a relative path that was read from a file stays below the folder it is put to."""
    parts = Path(name).parts
    fits = all(len(part.encode(errors="surrogatepass")) <= LONGEST_NAME for part in parts) and "\0" not in name
    return bool(parts) and fits and not Path(name).is_absolute() and ".." not in parts


def opened(path: Path) -> IO[bytes]:
    """A regular file, open for reading. A pipe or a device, on which a read could wait for ever, is refused.

    Raises:
        OSError: it is none, or cannot be opened; the error names it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(*((errno.EISDIR, "is a directory") if stat.S_ISDIR(kind) else (errno.EINVAL, "is not a file")), str(path))
    return os.fdopen(descriptor, "rb")


def write(path: Path, content: bytes | Callable[[IO[bytes]], object], root: Path | None = None) -> None:
    """Write a file beside its place and move it there: a reader, or a start after a crash, sees the old file or the new one.

    Args:
        content: bytes, or a function that writes to an open file.
        root: a directory above it that is trusted, as the user named it; its own by default. Missing folders are made.

    Raises:
        OSError: it cannot be written, or there is a link on the way; the error names it. Nothing half-written stays.
    """
    with _folder_of(path, root) as (folder, name):
        half = f".{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(half, flags, 0o666, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(half, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(half, dir_fd=folder)
            raise
        _sync(folder)


def extend(path: Path, root: Path | None = None) -> IO[bytes]:
    """A file open for appending, made where it is missing; see `write`."""
    with _folder_of(path, root) as (folder, name):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "a+b")


def inside(path: Path, root: Path) -> Path:
    """A path that a library is to write to: no link stands on the way to it or in its place, and its folder is made.

    Raises:
        OSError: there is a link, or the folder cannot be made.
    """
    with _folder_of(path, root):
        return path


@contextlib.contextmanager
def _folder_of(path: Path, root: Path | None) -> Iterator[tuple[int, str]]:
    """The folder that a file's name stands in, open, reached from the root without following a link; and the name."""
    root = path.parent if root is None else root
    *between, name = path.relative_to(root).parts
    if ".." in (*between, name):
        raise OSError(errno.EINVAL, "leads out of its folder", str(path))
    place = root
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = os.open(root, _FOLDER)
        try:
            for part in between:
                place /= part
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
                _refuse_link(folder, part, place)
                below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            place = path
            _refuse_link(folder, name, place)
            yield folder, name
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno is None:  # of a library that writes, in its own words
            raise
        raise OSError(error.errno, error.strerror, str(place)) from error  # those of open folders name no place


def _refuse_link(folder: int, name: str, place: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            said = f"will not write through the link {name!r}; put what it points to in its place"
            raise OSError(errno.ELOOP, said, str(place))


def _sync(folder: int) -> None:
    """So that the name is there after a loss of power; some file systems cannot."""
    with contextlib.suppress(OSError):
        os.fsync(folder)
