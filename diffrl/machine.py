"""What this process may use of the machine: cores, memory, a home."""

import os
import resource
import tempfile
from pathlib import Path

from diffrl.errors import UserError


def cores() -> int:
    """Cores that this process may use, which containers and schedulers make less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that this process may still take: the least of the machine's, every control group's around it, and its own limit."""
    available = _number(Path("/proc/meminfo"), "MemAvailable:")
    free = [available * 1024] if available is not None else []
    for folder, limit, used in _groups():
        most, now = _number(folder / limit), _number(folder / used)
        free += [most - now] if most is not None and now is not None else []
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _number(Path("/proc/self/statm"))
    if most != resource.RLIM_INFINITY and pages is not None:
        free.append(most - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(free, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[tuple[Path, str, str]]:
    """Folders of this process's control groups and those around them, with the names of limit and use, of version 1 and 2."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    found = []
    for _, controllers, group in [*lines, ["0", "", "/"], ["0", "memory", "/"]]:
        if controllers and "memory" not in controllers.split(","):
            continue
        inner = Path(group.lstrip("/"))
        for part in (inner, *inner.parents):
            if controllers:
                found.append((root / "memory" / part, "memory.limit_in_bytes", "memory.usage_in_bytes"))
            else:
                found.append((root / part, "memory.max", "memory.current"))
    return list(dict.fromkeys(found))


def _number(path: Path, word: str = "") -> int | None:
    """The number after a word of a file, or at its start."""
    try:
        text = path.read_text()
    except OSError:
        return None
    number = text.partition(word)[2].split() if word else text.split()
    return int(number[0]) if number and number[0].isdigit() else None


def cache_folder() -> Path:
    """Where compiled programs persist: XDG_CACHE_HOME, or the user's cache; for a user without a home, a folder of his own."""
    if configured := os.environ.get("XDG_CACHE_HOME"):
        return Path(configured).expanduser() / "diffrl"
    try:
        return Path.home() / ".cache" / "diffrl"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"diffrl-{os.getuid()}"


def datasets_folder() -> Path:
    """Where Minari keeps datasets: MINARI_DATASETS_PATH, or `.minari/datasets` in the user's home.

    Raises:
        UserError: the user has no home, and nothing else is set.
    """
    try:
        configured = os.environ.get("MINARI_DATASETS_PATH")
        return Path(configured).expanduser() if configured else Path.home() / ".minari" / "datasets"
    except RuntimeError as error:
        raise UserError(f"no place for datasets ({error}): set MINARI_DATASETS_PATH to a directory") from None
