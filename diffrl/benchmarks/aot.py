"""Stages compiled ahead of time for TPU slices that are not there: whether they compile, fit, and talk to one another.

`jax[tpu]` brings the compiler; no chip is needed. Counts are the compiled program's own, times what the makers' data sheets
promise: the time is a floor, no measurement.
"""

import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from diffrl.benchmarks import limits
from diffrl.benchmarks.stages import Problem
from diffrl.config import Config, ConfigError
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.registry import make
from diffrl.training.cost import compile_chunk, peak_bytes, shapes
from diffrl.training.devices import make_mesh
from diffrl.training.memory import tree_bytes
from diffrl.training.runs import make_runs

# A line's kind of collective and its groups: {{0,1},{2,3}}, or [2,2]<=[4] for the numbers 0 to 3 in that shape, with T(1,0)
# behind it where they are transposed first.
COLLECTIVE = re.compile(
    r"= .*? (all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
    r".*?(?:replica_groups|source_target_pairs)=(\{\{[\d,{}]*\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)"
)


class Chip(NamedTuple):
    """What the maker promises of one chip: bfloat16 FLOP/s, bytes/s of its memory, and its size in bytes."""

    flops: float
    bandwidth: float
    memory: float


# cloud.google.com/tpu/docs: v5e, v5p, v6e.
CHIPS = {"v5e": Chip(197e12, 819e9, 16e9), "v5p": Chip(459e12, 2_765e9, 95e9), "v6e": Chip(918e12, 1_640e9, 32e9)}


class AheadOfTime(NamedTuple):
    """One stage on one slice; all counts are of one chip."""

    topology: str
    method: str
    stage: str
    runs: int
    batch_devices: int
    compile_seconds: float
    collectives: dict[str, int]  # among the chips of one run
    crossing: list[str]  # kinds of those between runs
    memory_bytes: int  # its peak over the stage, a checkpoint's copy included
    fitting_runs: int  # that the slice's memory holds, if each took as much as those compiled do
    flops_per_update: float  # of the runs that a chip advances together
    bytes_per_update: float
    kernels_per_update: int
    seconds_per_update: float  # the larger of arithmetic and memory traffic at the promised rates
    bound: str

    def cells(self) -> tuple[str, ...]:
        """For a table whose heads are `COLUMNS`."""
        return (
            self.topology,
            self.method,
            self.stage,
            f"{self.runs}" + (f" × {self.batch_devices}" if self.batch_devices > 1 else ""),
            f"{self.compile_seconds:.0f}",
            ", ".join([f"{count} {name}" for name, count in self.collectives.items()]) or "none",
            ", ".join(self.crossing) or "none",
            f"{self.memory_bytes / 1e6:,.0f}",
            f"{self.fitting_runs:,}",
            f"{self.flops_per_update / 1e9:,.2f}",
            f"{self.bytes_per_update / 1e6:,.1f}",
            str(self.kernels_per_update),
            f"{self.seconds_per_update * 1e6:,.0f}",
            self.bound,
        )


COLUMNS = ("topology", "method", "stage", "runs", "compile s", "collectives", "between runs", "MB/chip", "runs that fit")
COLUMNS += ("GFLOP/update", "MB/update", "kernels/update", "floor µs/update", "bound by")


def chips(topology: str) -> list[Any]:
    """The devices of a slice such as "v5e:2x4".

    Raises:
        ConfigError: there is no such slice, or no compiler for it.
    """
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ConfigError(f"--topology={topology}: known chips are {', '.join(CHIPS)}, as in v5e:2x4")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"--topology={topology}: {first} (the compiler comes with pip install 'diffrl[tpu]')") from error


def collectives(text: str) -> Iterator[tuple[str, np.ndarray]]:
    """Kind and groups `[groups, members]` of devices of every collective operation in a compiled program's text."""
    for line in text.splitlines():
        if found := COLLECTIVE.search(line):
            kind, groups = found.groups()
            if groups.startswith("{"):
                yield kind, np.array([[int(device) for device in group.split(",")] for group in groups[2:-2].split("},{")])
                continue
            shape, source, order = re.fullmatch(r"\[(.*)\]<=\[(.*?)\](?:T\((.*)\))?", groups).groups()  # pyright: ignore
            shape, source = ([int(size) for size in sizes.split(",")] for sizes in (shape, source))
            devices = np.arange(math.prod(source)).reshape(source)
            yield kind, (devices if order is None else devices.transpose([int(axis) for axis in order.split(",")])).reshape(shape)


def crossing(text: str, batch_devices: int) -> list[str]:
    """Kinds of the collectives in which devices of different runs take part; none is promised."""
    return [kind for kind, groups in collectives(text) if (groups // batch_devices != groups[:, :1] // batch_devices).any()]


def ahead_of_time(
    topology: str, name: str, config: Config, problem: Problem, num_runs: int, batch_devices: int = 1, names: tuple[str, ...] = ()
) -> Iterator[AheadOfTime]:
    """Compile every stage of a config for a slice, and what a stage prepares.

    Args:
        topology: a slice.
        name: for the results.
        problem: sizes of the data.
        num_runs: on the slice together.
        batch_devices: chips that share a run's batch.
        names: of the stages; empty for all.

    Raises:
        ConfigError: as for `chips`.
        Exception: whatever the compiler refuses.
    """
    devices, chip = chips(topology), CHIPS[topology.partition(":")[0]]
    algorithm = make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
    dataset: Dataset = jax.eval_shape(lambda: attach(problem.dataset(), algorithm.columns))
    runs, mesh = make_runs(dataclasses.replace(config, num_seeds=num_runs, sweep="")), make_mesh(num_runs, devices, batch_devices)
    rows = mesh.shape["run"]
    for stage in algorithm.stages:
        if names and stage.name not in names:
            continue
        began = time.perf_counter()
        with jax.default_matmul_precision(config.matmul_precision):
            given = shapes(algorithm, stage, runs, dataset, mesh)
            program = compile_chunk(stage, 2, mesh, given)
            held = peak_bytes(program, algorithm, stage, runs, given, mesh, num_runs)
        seconds = time.perf_counter() - began
        shared = tree_bytes(dataset)
        each = (held - shared) / (len(given.keys) // rows)  # bytes of a run on its chip
        flops, moved = limits.flops(program), limits.bytes_accessed(program)
        text = program.as_text()
        yield AheadOfTime(
            topology=topology,
            method=name,
            stage=stage.name,
            runs=num_runs,
            batch_devices=batch_devices,
            compile_seconds=seconds,
            collectives=dict(Counter(kind for kind, _ in collectives(text))),
            crossing=crossing(text, batch_devices),
            memory_bytes=held,
            fitting_runs=rows * int((chip.memory - shared) / each),
            flops_per_update=flops,
            bytes_per_update=moved,
            kernels_per_update=limits.kernels(text),
            seconds_per_update=max(flops / chip.flops, moved / chip.bandwidth),
            bound="arithmetic" if flops / chip.flops > moved / chip.bandwidth else "memory",
        )
