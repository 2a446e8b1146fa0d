"""The least time a program can take: its arithmetic, memory traffic and launches, against the machine's rates.

The counts are what XLA's compiled program states of itself; the rates are measured on this machine.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffrl.training.devices import RUN, make_mesh, place

# Instructions that name or reshape memory and launch nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(")


def kernels(compiled_text: str) -> int:
    """Kernels that the longest loop of a compiled program launches per pass: of a chunk, per update.

    Counts the loop body's fusions, products, copies and calls to libraries, following calls, loops within it (times their trip
    counts where XLA knows them) and the longest branch of conditionals. On a GPU each is a launch, on a CPU a task.
    """
    computations: dict[str, list[str]] = {}
    name = ""
    for line in compiled_text.splitlines():
        if (header := _HEADER.match(line)) and not line.startswith(" "):
            name = header[2]
            computations[name] = []
        elif name:
            computations[name].append(line)

    def named(key: str, line: str) -> str:
        found = re.search(rf"{key}=%?([\w.\-]+)", line)
        return found[1] if found else ""

    def count(name: str) -> int:
        return sum(cost(line) for line in computations.get(name, ()))

    def cost(line: str) -> int:
        found = _INSTRUCTION.match(line)
        if not found or found[1] in _FREE:
            return 0
        if found[1] == "while":
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            return (int(trips[1]) if trips else 1) * count(named("body", line))
        if found[1] == "call":
            # XLA's CPU backend wraps a kernel that it shares out over threads in a call of its own.
            return max(count(named("to_apply", line)), 1)
        if found[1] == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            two = [named(f"{truth}_computation", line) for truth in ("true", "false")]
            return 1 + max(count(name) for name in (branches[1].replace("%", "").split(", ") if branches else two))
        return 1

    loops = [named("body", line) for lines in computations.values() for line in lines if " while(" in line]
    return max((count(body) for body in loops), default=0)


def bytes_accessed(compiled: Any) -> float:
    """Bytes that one device's program reads and writes, as XLA counts them: what caches spare is counted too."""
    return float(compiled.cost_analysis()["bytes accessed"])


def flops(compiled: Any) -> float:
    """FLOPs of one device's program, as XLA counts them; products dominate."""
    return float(compiled.cost_analysis()["flops"])


def matmul_rate(size: int = 2048) -> float:
    """Best float32 FLOP/s of dependent square products running on all devices at once."""
    count = jax.device_count()
    mesh = make_mesh(count)
    x = place(jnp.full((count, size, size), 1.0 / size), mesh, RUN)
    body = jax.vmap(lambda m: jax.lax.fori_loop(0, 4, lambda _, y: y @ m, m))
    product = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=RUN, out_specs=RUN))
    return count * 4 * 2.0 * size**3 / min(timed(lambda: product(x), 5))


def copy_rate(megabytes: int = 256) -> float:
    """Best bytes/s, read and written, of a pass over arrays far larger than any cache, on all devices at once."""
    count = jax.device_count()
    mesh = make_mesh(count)
    x = place(jnp.zeros((count, megabytes * 250_000)), mesh, RUN)
    # The result takes the argument's memory: fresh pages would cost more than the copy.
    copy = jax.jit(jax.shard_map(lambda x: x + 1.0, mesh=mesh, in_specs=RUN, out_specs=RUN), donate_argnums=0)
    held = [x]

    def again() -> Any:
        held[0] = copy(held[0])
        return held[0]

    return 2.0 * x.nbytes / min(timed(again, 5))


def rates() -> tuple[float, float]:
    """`matmul_rate` and `copy_rate`."""
    return matmul_rate(), copy_rate()


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of some calls, after one that is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return times
