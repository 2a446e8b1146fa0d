"""The train chunk: `jit(shard_map over devices (vmap over runs (scan over updates)))`. All training time is spent here.

On an accelerator all runs of a device advance together. On a CPU they take turns, a few at a time for a whole chunk: as many as
have their states in a core's cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Stage
from diffrl.data.dataset import Dataset
from diffrl.data.sampling import uniform
from diffrl.learner import norms, watched
from diffrl.training.devices import BATCH, RUN, SHARED, map_runs
from diffrl.training.memory import tree_bytes
from diffrl.training.runs import PREPARE
from diffrl.types import Key, Metrics, State, Transition

CACHE_BYTES = 2**19  # of states that advance together on a CPU: with more a core's cache overflows, with less nothing is gained

Columns = dict[str, Array]
Chunk = Callable[[State, Array, Array, Columns, Dataset, Array], tuple[State, Array, Metrics]]


def make_chunk(stage: Stage, num_updates: int, mesh: Mesh, log_norms: bool = False) -> Chunk:
    """Compile-once function that advances all runs by `num_updates` updates of a stage.

    The result maps (states, alive, keys, columns, dataset, step) to (states, alive, metrics): states `[R, ...]` are donated,
    `alive` `[R]` says which runs have not diverged, keys are one per run `[R]`, columns are what the stage prepared
    `[R, N, ...]`, the dataset and its own columns `[N, ...]` are shared; a batch's `extras` hold both. `step` is the number of
    updates before the chunk. Metrics are means over the chunk `[R]`, and `finite`, the share of updates whose metrics were all
    finite.

    Randomness is counted: update number t of a run draws from fold_in(key of the run, t), so results do not depend on
    how updates are cut into chunks nor on which runs share the program. The counter is the chunk's: every update finds it in
    `state.step`, one for all runs, so that what hangs on it is a branch for all of them and no diverged run can shift another.

    With `log_norms` metrics hold the norms of each network that the stage trains, as `learner.norms` has them.

    Where the mesh has several devices on its axis `batch`, each run's batch is split over them: the program is the same, and
    XLA's partitioner averages the gradients.
    """
    split_batch = mesh.shape["batch"] > 1

    def runs(
        states: State, alive: Array, keys: Array, columns: Columns, dataset: Dataset, step: Array
    ) -> tuple[State, Array, Metrics]:
        def chunk(state: State, alive: Array, key: Key, columns: Columns) -> tuple[State, Array, Metrics]:
            def body(carry: tuple[State, Array], count: Array) -> tuple[tuple[State, Array], Metrics]:
                state, alive = carry
                batch_key, update_key = jax.random.split(jax.random.fold_in(key, count))
                batch = draw(stage, dataset, columns, batch_key)
                if split_batch:
                    batch = jax.lax.with_sharding_constraint(batch, BATCH)
                state, alive, metrics = advance(stage, state, alive, batch, update_key, count, log_norms)
                return (state, alive), metrics

            counts = step + jnp.arange(num_updates, dtype=jnp.int32)
            (state, alive), metrics = jax.lax.scan(body, (state, alive), counts)
            return state, alive, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

        together = runs_together(tree_bytes(states) // len(alive), len(alive), mesh)
        given = (states, alive, keys, columns)
        if together == 1:
            # Without a run axis: an axis of one would make XLA's products on a CPU up to 1.6 times slower.
            return jax.lax.map(lambda run: chunk(*run), given)  # pyright: ignore
        if together == len(alive):
            return jax.vmap(chunk)(*given)
        return jax.lax.map(lambda run: chunk(*run), given, batch_size=together)  # pyright: ignore

    mapped = map_runs(runs, mesh, (RUN, RUN, RUN, RUN, SHARED, SHARED))
    return jax.jit(mapped, donate_argnums=0)


def advance(
    stage: Stage, state: State, alive: Array, batch: Transition, key: Key, count: Array, log_norms: bool = False
) -> tuple[State, Array, Metrics]:
    """One update of one run that is frozen where it diverges.

    Args:
        count: updates before this one.
        log_norms: add the norms of `learner.norms` to the metrics. They freeze no run.

    Returns:
        the state, whether the run is still alive, and metrics with `finite`.
    """
    counted = dataclasses.replace(state, step=count)
    given, seen = (watched(counted) if log_norms else counted), {}
    after, metrics = stage.update(given, batch, key)
    if log_norms:
        after, seen = norms(after, given)
    after, alive, finite = freeze(after, counted, alive, metrics)
    return dataclasses.replace(after, step=state.step + 1), alive, metrics | seen | {"finite": finite}


def draw(stage: Stage, dataset: Dataset, columns: Columns, key: Key) -> Transition:
    """A batch of a stage of one run, as the stage draws it; `extras` holds the dataset's columns and the run's own."""
    rows = dataclasses.replace(dataset, columns=dataset.columns | columns)
    return (stage.batch or uniform)(rows, key, stage.batch_size)


def runs_together(state_bytes: int, num_runs: int, mesh: Mesh) -> int:
    """How many of a device's runs advance together.

    On an accelerator that is all. On a CPU it is the largest divisor of their number whose states fit into a core's cache: with
    32 runs to a core, networks 32 to 256 wide train 1.2 to 1.6 times as fast as with all together.

    Args:
        state_bytes: size of one run's state.
        num_runs: runs on each device.
        mesh: the devices.

    Returns:
        A divisor of `num_runs`.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return num_runs
    most = max(1, CACHE_BYTES // state_bytes)
    return max(n for n in range(1, min(most, num_runs) + 1) if num_runs % n == 0)


def freeze(after: State, before: State, alive: Array, metrics: Metrics) -> tuple[State, Array, Array]:
    """A run whose metrics stop being finite keeps its last state for good.

    Returns:
        the state, whether the run is still alive, and whether this update's metrics were finite, as 0 or 1.
    """
    finite = jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))
    alive = alive & finite
    # What an update leaves alone is the very same array; choosing between it and itself would cost a copy.
    state = jax.tree.map(lambda new, old: new if new is old else jnp.where(alive, new, old), after, before)
    return state, alive, finite.astype(jnp.float32)


def make_prepare(stage: Stage, mesh: Mesh) -> Callable[[State, Array, Dataset], Any]:
    """(states, keys, dataset) -> the stage's columns `[R, N, ...]`; an empty dictionary where it prepares nothing."""

    def prepare(state: State, key: Key, dataset: Dataset) -> Columns:
        if stage.prepare is None:
            return {}
        return stage.prepare(state, dataset, jax.random.fold_in(key, PREPARE))

    return jax.jit(map_runs(jax.vmap(prepare, in_axes=(0, 0, None)), mesh, (RUN, RUN, SHARED)))
