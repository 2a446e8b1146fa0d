"""How much memory a program may still take, and how much arrays take."""

import os
from pathlib import Path
from typing import Any

import jax


def free_bytes() -> int:
    """The memory of one device; where the devices are a host's cores, what the host has left for all of them."""
    total = None if on_host() else (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return _host_memory() if total is None else total


def on_host() -> bool:
    """Whether all devices share the host's memory, as its cores do."""
    return jax.local_devices()[0].platform == "cpu"


def _host_memory() -> int:
    """Bytes that this process may still take: of the host, or of its container where that is less."""
    available = _read(Path("/proc/meminfo"), "MemAvailable:")
    total = _read(Path("/sys/fs/cgroup/memory.max"))
    used = _read(Path("/sys/fs/cgroup/memory.current"))
    candidates = [available * 1024] if available is not None else []
    candidates += [total - used] if total is not None and used is not None else []
    return min(candidates, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _read(path: Path, word: str = "") -> int | None:
    """The number after a word of a file, or at its start."""
    try:
        text = path.read_text()
    except OSError:
        return None
    number = text.partition(word)[2].split() if word else text.split()
    return int(number[0]) if number and number[0].isdigit() else None


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
