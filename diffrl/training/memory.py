"""How much memory a program may still take, and how much arrays take."""

from typing import Any

import jax

from diffrl import machine


def free_bytes() -> int:
    """The memory of one device; where the devices are a host's cores, what the host has left for all of them."""
    total = None if on_host() else (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return machine.free_memory() if total is None else total


def on_host() -> bool:
    """Whether all devices share the host's memory, as its cores do."""
    return jax.local_devices()[0].platform == "cpu"


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
