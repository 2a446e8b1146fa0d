"""The train chunk: `jit(shard_map over devices (vmap over runs (scan over updates)))`. All training time is spent here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Stage
from diffrl.data.dataset import Dataset
from diffrl.training.devices import RUN, SHARED
from diffrl.training.runs import PREPARE
from diffrl.types import Key, Metrics, State

Columns = dict[str, Array]
Chunk = Callable[[State, Array, Columns, Dataset], tuple[State, Metrics]]


def make_chunk(stage: Stage, num_updates: int, mesh: Mesh) -> Chunk:
    """Compile-once function that advances all runs by `num_updates` updates of a stage.

    The result maps (states, keys, columns, dataset) to (states, metrics): states `[R, ...]` are donated, keys are one
    per run `[R]`, columns are what the stage prepared `[R, N, ...]`, the dataset and its own columns `[N, ...]` are shared;
    a batch's `extras` hold both. Metrics are means over the
    chunk `[R]`, and `finite`, the share of updates whose metrics were all finite.

    Randomness is counted: update number t of a run draws from fold_in(key of the run, t), so results do not depend on
    how updates are cut into chunks nor on which runs share the program. Rows are drawn uniformly with replacement.
    """

    def chunk(state: State, key: Key, columns: Columns, dataset: Dataset) -> tuple[State, Metrics]:
        def body(state: State, _: None) -> tuple[State, Metrics]:
            batch_key, update_key = jax.random.split(jax.random.fold_in(key, state.step))
            index = jax.random.randint(batch_key, (stage.batch_size,), 0, dataset.size)
            shared = dataset[index]
            own = {name: column[index] for name, column in columns.items()}
            batch = dataclasses.replace(shared, extras=shared.extras | own)
            state, metrics = stage.update(state, batch, update_key)
            finite = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
            return state, metrics | {"finite": finite.astype(jnp.float32)}

        state, metrics = jax.lax.scan(body, state, length=num_updates)
        return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

    runs = jax.vmap(chunk, in_axes=(0, 0, 0, None))
    mapped = jax.shard_map(runs, mesh=mesh, in_specs=(RUN, RUN, RUN, SHARED), out_specs=RUN)
    return jax.jit(mapped, donate_argnums=0)


def make_prepare(stage: Stage, mesh: Mesh) -> Callable[[State, Array, Dataset], Any]:
    """(states, keys, dataset) -> the stage's columns `[R, N, ...]`; an empty dictionary where it prepares nothing."""

    def prepare(state: State, key: Key, dataset: Dataset) -> Columns:
        if stage.prepare is None:
            return {}
        return stage.prepare(state, dataset, jax.random.fold_in(key, PREPARE))

    mapped = jax.shard_map(jax.vmap(prepare, in_axes=(0, 0, None)), mesh=mesh, in_specs=(RUN, RUN, SHARED), out_specs=RUN)
    return jax.jit(mapped)
