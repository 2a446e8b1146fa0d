"""What a stage of training costs: memory by its compiled programs, which needs no array, and time by running a few chunks."""

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding

from diffrl.algorithm import Algorithm, Stage
from diffrl.data.dataset import Dataset
from diffrl.training.chunk import Columns, make_chunk, make_prepare
from diffrl.training.devices import RUN, SHARED, pad, padded_size, place
from diffrl.training.memory import tree_bytes
from diffrl.training.runs import Runs
from diffrl.training.train import init_states
from diffrl.types import State

LEAST, MOST = 8, 10_000  # updates of a timed chunk; in shorter ones the time of loading states would show


class Inputs(NamedTuple):
    """What a chunk is called with, placed on a mesh: arrays or their shapes."""

    states: State
    alive: Array
    keys: Array
    columns: Columns
    dataset: Dataset
    step: Array


class Measured(NamedTuple):
    """Of a stage with some number of runs in one program."""

    updates_per_second: float  # of each run
    program: Any  # compiled, of two updates
    compile_seconds: float
    second_compile_seconds: float  # what a second start of the same command takes: nan without a persistent cache
    memory_bytes: int  # of one device


def inputs(algorithm: Algorithm, stage: Stage, runs: Runs, dataset: Dataset, mesh: Mesh) -> Inputs:
    """Fresh states of all runs, and what the stage prepares for them; cost does not depend on how far they are trained."""
    size = padded_size(runs.size, mesh)
    states = place(pad(init_states(algorithm, runs), size), mesh, RUN)
    keys = place(pad(runs.keys, size), mesh, RUN)
    alive = place(jnp.ones(size, bool), mesh, RUN)
    shared = place(dataset, mesh, SHARED)
    return Inputs(states, alive, keys, make_prepare(stage, mesh)(states, keys, shared), shared, place(jnp.int32(0), mesh, SHARED))


def shapes(algorithm: Algorithm, stage: Stage, runs: Runs, dataset: Dataset, mesh: Mesh) -> Inputs:
    """`inputs` without any array; `dataset` may be shapes too."""
    size = padded_size(runs.size, mesh)

    def placed(tree: Any, spec: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    states = placed(jax.eval_shape(lambda: pad(jax.vmap(algorithm.init)(runs.keys, runs.hparams), size)), RUN)
    keys = placed(jax.eval_shape(lambda: pad(runs.keys, size)), RUN)
    alive = placed(jax.ShapeDtypeStruct((size,), bool), RUN)
    shared = placed(dataset, SHARED)
    columns = placed(jax.eval_shape(make_prepare(stage, mesh), states, keys, shared), RUN)
    return Inputs(states, alive, keys, columns, shared, placed(jax.ShapeDtypeStruct((), jnp.int32), SHARED))


def peak_bytes(chunk: Any, algorithm: Algorithm, stage: Stage, runs: Runs, given: Inputs, mesh: Mesh, num_policies: int) -> int:
    """Peak bytes on one device over a stage: in its chunks, in what it prepares, and where a checkpoint copies all states.

    Args:
        chunk: the stage's compiled chunk.
        algorithm, stage, runs, mesh: what is trained where.
        given: the chunk's inputs, or their shapes.
        num_policies: runs whose policies a checkpoint holds; more than `runs` where these stand for others.
    """
    peak = compiled_bytes(chunk)
    if stage.prepare is not None:
        prepare = make_prepare(stage, mesh).lower(given.states, given.keys, given.dataset)  # pyright: ignore
        peak = max(peak, compiled_bytes(prepare.compile()))
    devices = mesh.shape["run"]
    policies = jax.eval_shape(jax.vmap(algorithm.policy), given.states)
    state_bytes, policy_bytes = (tree_bytes(tree) // len(given.keys) for tree in (given.states, policies))
    # Runs that do not fill the devices evenly are copied to all of them.
    saved = runs.size * state_bytes // (1 if runs.size % devices else devices)
    saved += num_policies * policy_bytes // (1 if num_policies % devices else devices)
    if mesh.devices.flat[0].platform == "cpu":
        saved *= 2  # what is being written to disk lies in the same memory once more
    resident = tree_bytes((given.states, given.columns)) // devices + tree_bytes(given.dataset)
    return max(peak, resident + saved)


def measure(stage: Stage, mesh: Mesh, given: Inputs, seconds: float, chunks: int) -> Measured:
    """The median of some chunks of about `seconds`. Chunks take the states they get: `given` cannot be used again."""
    began = time.perf_counter()
    program = compile_chunk(stage, 2, mesh, given)  # XLA's analysis of a loop counts one pass; a single pass would be no loop
    compile_seconds = time.perf_counter() - began
    second = float("nan")
    if jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir:  # pyright: ignore
        jax.clear_caches()
        began = time.perf_counter()
        compile_chunk(stage, 2, mesh, given)
        second = time.perf_counter() - began
    length, chunk = 2, program
    while True:
        (_, elapsed), given = run_chunks(chunk, given, 2)
        if length >= LEAST and (elapsed > seconds / 3 or length >= MOST):
            break
        length = max(LEAST, 2 * length, min(int(length * seconds / elapsed), MOST))
        chunk = compile_chunk(stage, length, mesh, given)
    times, _ = run_chunks(chunk, given, chunks)
    return Measured(length / statistics.median(times), program, compile_seconds, second, compiled_bytes(program))


def prepare_seconds(stage: Stage, mesh: Mesh, given: Inputs) -> float:
    """Of what the stage computes over the data before it starts, compiled."""
    if stage.prepare is None:
        return 0.0
    arguments = (given.states, given.keys, given.dataset)
    prepare = make_prepare(stage, mesh).lower(*arguments).compile()  # pyright: ignore
    began = time.perf_counter()
    jax.block_until_ready(prepare(*arguments))
    return time.perf_counter() - began


def run_chunks(chunk: Any, given: Inputs, count: int) -> tuple[list[float], Inputs]:
    """Seconds of each of some chunks one after another, and the inputs afterwards."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        states, alive, _ = jax.block_until_ready(chunk(*given))
        times.append(time.perf_counter() - began)
        given = given._replace(states=states, alive=alive)
    return times, given


def compile_chunk(stage: Stage, length: int, mesh: Mesh, given: Inputs) -> Any:
    """The compiled program of a chunk for inputs of these shapes."""
    return make_chunk(stage, length, mesh).lower(*given).compile()


def compiled_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program on one device."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes
