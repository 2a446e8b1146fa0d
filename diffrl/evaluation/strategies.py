"""The same updates, run three ways in one process: what the run axis gains over the loops people write.

H, the host loop: rows in the host's memory, a batch drawn by numpy, one compiled call per update.
S, the scan: data on the device, many updates of one run in one call.
R, the run axis: many runs of S in one program, over all devices.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import Config
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.evaluation.stage_cost import inputs, measure
from diffrl.registry import make
from diffrl.training.chunk import make_prepare
from diffrl.training.devices import make_mesh
from diffrl.training.runs import make_runs
from diffrl.training.train import init_states
from diffrl.types import Key, Metrics, Spec, State, Transition


class StrategyTime(NamedTuple):
    """Updates per second of one stage, one way."""

    stage: str
    strategy: str
    runs: int
    updates_per_second: float  # of all runs
    of_host_loop: float

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        rate = f"{self.updates_per_second:,.1f}"
        return self.stage, self.strategy, str(self.runs), rate, f"{self.of_host_loop:.2f}"


def compare(
    config: Config, spec: Spec, dataset: Dataset, run_counts: list[int], names: list[str], seconds: float, chunks: int
) -> Iterator[StrategyTime]:
    """Every stage (or those named) by H, S, and R for each number of runs; medians of `chunks` pieces of about `seconds`."""
    algorithm = make(config.algorithm, spec)
    dataset = attach(dataset, algorithm.columns)
    for stage in algorithm.stages:
        if names and stage.name not in names:
            continue
        host = _host_loop(algorithm, stage, config, dataset, seconds, chunks)
        yield StrategyTime(stage.name, "H", 1, host, 1.0)
        for strategy, count in [("S", 1), *(("R", count) for count in run_counts)]:
            config.num_seeds, config.sweep = count, ""
            mesh = make_mesh(count, jax.devices()[:1] if strategy == "S" else None)
            given = inputs(algorithm, stage, make_runs(config), dataset, mesh)
            rate = count * measure(stage, mesh, given, seconds, chunks).updates_per_second
            yield StrategyTime(stage.name, strategy, count, rate, rate / host)


def _host_loop(algorithm: Algorithm, stage: Stage, config: Config, dataset: Dataset, seconds: float, chunks: int) -> float:
    """Updates per second; metrics are fetched every thousand updates, as such loops do."""
    config.num_seeds, config.sweep = 1, ""
    runs = make_runs(config)
    own = make_prepare(stage, make_mesh(1, jax.devices()[:1]))(init_states(algorithm, runs), runs.keys, dataset)
    whole = dataset[jnp.arange(dataset.size)]
    fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    rows = jax.tree.map(np.asarray, fields | {"extras": whole.extras | {name: column[0] for name, column in own.items()}})
    state = jax.tree.map(lambda x: x[0], init_states(algorithm, runs))
    key = runs.keys[0]
    rng = np.random.default_rng(0)

    def update(state: State, batch: dict[str, Any], key: Key) -> tuple[State, Metrics]:
        return stage.update(state, Transition(**batch), jax.random.fold_in(key, state.step))

    compiled = jax.jit(update, donate_argnums=0)

    def piece(state: State, length: int) -> tuple[State, float]:
        began = time.perf_counter()
        metrics: Metrics = {}
        for i in range(length):
            index = rng.integers(0, dataset.size, stage.batch_size)
            state, metrics = compiled(state, jax.tree.map(lambda x: x[index], rows), key)  # noqa: B023
            if i % 1000 == 999:
                jax.device_get(metrics)
        jax.block_until_ready((state, metrics))
        return state, time.perf_counter() - began

    state, _ = piece(state, 2)
    state, elapsed = piece(state, 3)
    length = max(3, int(3 * seconds / elapsed))
    times = []
    for _ in range(chunks):
        state, elapsed = piece(state, length)
        times.append(elapsed)
    return length / statistics.median(times)
