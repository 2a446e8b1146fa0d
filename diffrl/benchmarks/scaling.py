"""How time and memory of one stage grow with runs, rows, batch and width; and what data cost that come in slabs."""

import copy
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from diffrl.benchmarks.stages import Problem
from diffrl.config import Config
from diffrl.data.columns import attach
from diffrl.registry import make
from diffrl.training.cost import compile_chunk, inputs, measure
from diffrl.training.devices import make_mesh
from diffrl.training.runs import make_runs
from diffrl.training.slabs import Slabs, Whole

AXES: dict[str, tuple[int, ...]] = {
    "runs": (1, 2, 4, 8, 16, 32, 64, 128),
    "rows": (10_000, 100_000, 1_000_000, 4_000_000),
    "batch": (16, 64, 256, 1024, 4096),
    "width": (32, 64, 128, 256, 512, 1024),
}
RUNS = 4  # on the axes of rows, batch and width


class Point(NamedTuple):
    """One stage at one value of an axis, everything else as its config has it."""

    axis: str
    value: int
    updates_per_second: float  # of all runs together
    memory_bytes: int  # of all devices

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return self.axis, f"{self.value:,}", f"{self.updates_per_second:,.1f}", f"{self.memory_bytes / 1e6:,.0f}"


class SlabTime(NamedTuple):
    """The same stage with all rows on the device, and with slabs read from a file: pairs of pieces, one after the other."""

    stage: str
    rows: int
    slab_rows: int
    updates_per_slab: int
    resident_per_second: float  # updates, median
    slabs_per_second: float
    ratio: float  # of slabs to resident, median over pairs

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        sizes = (f"{self.rows:,}", f"{self.slab_rows:,}", f"{self.updates_per_slab:,}")
        return (self.stage, *sizes, f"{self.resident_per_second:,.2f}", f"{self.slabs_per_second:,.2f}", f"{self.ratio:.3f}")


def curves(config: Config, problem: Problem, seconds: float, chunks: int) -> Iterator[Point]:
    """The config's first stage along every axis of `AXES`."""
    for axis, values in AXES.items():
        for value in values:
            changed, sized, count = copy.deepcopy(config), problem, value if axis == "runs" else RUNS
            if axis == "rows":
                sized = problem._replace(rows=value)
            elif axis != "runs":
                resize(changed.algorithm, axis, value)
            algorithm = make(changed.algorithm, sized.spec(changed.algorithm), changed.action_chunk)
            mesh = make_mesh(count)
            runs = make_runs(dataclasses.replace(changed, num_seeds=count, sweep=""))
            given = inputs(algorithm, algorithm.stages[0], runs, attach(sized.dataset(), algorithm.columns), mesh)
            cost = measure(algorithm.stages[0], mesh, given, seconds, chunks)
            yield Point(axis, value, count * cost.updates_per_second, cost.memory_bytes * mesh.size)


def resize(method: object, axis: str, value: int) -> None:
    """Give all networks of a method's config this width, or all its stages this batch, or this number of updates."""
    ends = {"width": "hidden_dim", "batch": "batch_size", "updates": "_updates"}
    for name, old in vars(method).items():
        if name.endswith(ends[axis]):
            setattr(method, name, value)
        elif axis == "width" and name.endswith("hidden_dims"):
            setattr(method, name, (value,) * len(old))


def slabs(config: Config, problem: Problem, slab_rows: int, seconds: float, pairs: int) -> SlabTime:
    """The first stage of one run, resident and in slabs; every piece is at least one slab and lasts about `seconds`."""
    algorithm = make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
    stage, runs, mesh = algorithm.stages[0], make_runs(dataclasses.replace(config, num_seeds=1, sweep="")), make_mesh(1)
    dataset = jax.device_get(attach(problem.dataset(), algorithm.columns))
    per_slab = max(1, slab_rows // stage.batch_size)  # updates, and those of a chunk
    with tempfile.TemporaryDirectory() as directory:
        stores: list[Whole | Slabs] = [Whole(dataset, mesh), Slabs(dataset, slab_rows, mesh, Path(directory))]
        given = [inputs(algorithm, stage, runs, each, mesh) for each in (dataset, jax.tree.map(lambda x: x[:slab_rows], dataset))]
        chunks = [compile_chunk(stage, per_slab, mesh, one) for one in given]
        for store in stores:
            store.begin(stage, per_slab)

        def pair(first: int, count: int) -> list[float]:
            """Seconds of chunks `first` … `first + count - 1`, either way."""
            elapsed = []
            for i, store in enumerate(stores):
                began = time.perf_counter()
                for update in range(first * per_slab, (first + count) * per_slab, per_slab):
                    states, alive, _ = chunks[i](*given[i]._replace(dataset=store.at(update)))
                    given[i] = given[i]._replace(states=states, alive=alive)
                jax.block_until_ready(given[i].states)
                elapsed.append(time.perf_counter() - began)
            return elapsed

        pair(0, 1)
        count = max(1, round(seconds / min(pair(1, 1))))
        times = [pair(2 + i * count, count) for i in range(pairs)]
        for store in stores:
            store.close()
    ratio = statistics.median(resident / streamed for resident, streamed in times)
    resident, streamed = (count * per_slab / statistics.median(column) for column in zip(*times, strict=True))
    return SlabTime(stage.name, problem.rows, slab_rows, per_slab, resident, streamed, ratio)
