"""The same updates run as most training code runs them, to say what the compiled loop and the run axis gain.

There are three ways. The host loop has its rows in the host's memory, draws a batch with numpy and makes one compiled call per
update. The two others are the trainer's own program: the scan trains one run on one device, with the data there and many
updates in one call; runs are many of these in one program over all devices.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.algorithm import Algorithm, Stage
from diffrl.data.dataset import Dataset
from diffrl.training.chunk import make_prepare
from diffrl.training.devices import make_mesh
from diffrl.training.runs import Runs
from diffrl.training.train import init_states
from diffrl.types import Key, Metrics, State, Transition


def host_loop(algorithm: Algorithm, stage: Stage, runs: Runs, dataset: Dataset, seconds: float, chunks: int) -> float:
    """Updates per second of one run by the host loop: the median of `chunks` pieces of about `seconds`.

    Metrics are fetched every thousand updates, as such loops do.

    Args:
        runs: a single one.
        dataset: with its columns.
    """
    own = make_prepare(stage, make_mesh(1, jax.devices()[:1]))(init_states(algorithm, runs), runs.keys, dataset)
    whole = dataset[jnp.arange(dataset.size)]
    fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    rows = jax.tree.map(np.asarray, fields | {"extras": whole.extras | {name: column[0] for name, column in own.items()}})
    state = jax.tree.map(lambda x: x[0], init_states(algorithm, runs))
    key = runs.keys[0]
    rng = np.random.default_rng(0)

    def update(state: State, batch: dict[str, Any], key: Key) -> tuple[State, Metrics]:
        state, metrics = stage.update(state, Transition(**batch), jax.random.fold_in(key, state.step))
        return dataclasses.replace(state, step=state.step + 1), metrics

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
