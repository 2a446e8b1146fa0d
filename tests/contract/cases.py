"""Every registered method, small: its states, its compiled chunks, and what a chunk of them leaves; made once for all tests."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from support import make_dataset, runs_of, spec_for

from diffrl.algorithm import Algorithm, Stage
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.registry import REGISTRY, make
from diffrl.training.chunk import make_chunk, make_prepare
from diffrl.training.devices import RUN, SHARED, make_mesh, place
from diffrl.training.runs import INIT, Runs
from diffrl.types import Spec

OBSERVATION, ACTION, ROWS, BATCH = 3, 2, 64, 16
UPDATES, CHUNKS, RUNS = 10, 16, 5


def shrink(config: Any) -> Any:
    """The same method, small: widths, depths, batches and updates are known by the names of their fields."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            shrink(value)
        elif field.name.endswith("updates"):
            setattr(config, field.name, CHUNKS * UPDATES)  # learning rates may end with the stage
        elif field.name.endswith("batch_size"):
            setattr(config, field.name, BATCH)
        elif field.name.endswith("hidden_dims"):
            setattr(config, field.name, (16,))
        elif field.name.endswith("hidden_dim"):
            setattr(config, field.name, 16)
        elif field.name.endswith("blocks"):
            setattr(config, field.name, 1)
        elif field.name == "sigma_min":
            setattr(config, field.name, 0.3)  # of a few hundred updates only large noise can be told from data
        elif field.name.endswith("layers"):
            setattr(config, field.name, 1)
        elif field.name.endswith(("heads", "window")):
            setattr(config, field.name, 2)
        elif field.name.endswith("steps") or field.name in ("horizon", "num_iterations", "model_horizon"):
            setattr(config, field.name, 3)
    return config


class Case(NamedTuple):
    """A shrunk method, its fresh states `[RUNS]` and, per stage, the states before it and the results of one chunk."""

    config: Any
    algorithm: Algorithm
    runs: Runs
    before: dict[str, Any]
    after: dict[str, Any]
    metrics: dict[str, Any]


@cache
def dataset(discrete: bool = False) -> Dataset:
    """One-step problems (every row is terminal), so that values are regressions onto rewards too."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(ROWS, OBSERVATION))
    action = np.tanh(observation[:, :ACTION] + 0.1 * rng.normal(size=(ROWS, ACTION)))
    reward, action = action.sum(axis=1), np.eye(ACTION)[action.argmax(axis=1)] if discrete else action
    return make_dataset(observation, action, reward, rng.normal(size=(ROWS, OBSERVATION)), terminal=True)


@cache
def data_of(name: str) -> Dataset:
    """Of actions that the method can have, with the columns it declares."""
    return attach(dataset(spec_of(name).num_actions > 0), case_of(name).columns)


def copy(tree: Any) -> Any:
    """Chunks donate their states, and a device may share a NumPy array's memory."""
    return jax.tree.map(np.copy, tree)


@cache
def chunk_of(name: str, stage: str, num_runs: int, num_updates: int) -> Any:
    """The compiled chunk on one device; shared, since compilation is what these tests spend their time on.

    Arguments are placed on the mesh as the trainer places them: elsewhere they would be another program. States come and go as
    NumPy arrays, of which a slice or a comparison needs no program at all.
    """
    (found,) = [s for s in case_of(name).stages if s.name == stage]
    mesh = make_mesh(num_runs, jax.devices()[:1])
    prepare, chunk = make_prepare(found, mesh), make_chunk(found, num_updates, mesh)

    def arguments(states: Any, keys: jax.Array) -> tuple[Any, ...]:
        step = place(states.step[0], mesh, SHARED)
        states, keys, data = place(copy(states), mesh, RUN), place(keys, mesh, RUN), place(data_of(name), mesh, SHARED)
        return states, place(jnp.ones(num_runs, bool), mesh, RUN), keys, prepare(states, keys, data), data, step

    def run(states: Any, keys: jax.Array) -> tuple[Any, Any]:
        given = arguments(states, keys)
        with jax.transfer_guard("disallow"):  # as in the trainer: tracing a chunk makes no array on the host either
            states, _, metrics = chunk(*given)
        return jax.device_get((states, metrics))

    run.chunk, run.arguments = chunk, arguments
    return run


def spec_of(name: str) -> Spec:
    return spec_for(name, OBSERVATION, ACTION)


@cache
def case_of(name: str) -> Algorithm:
    return make(shrink(REGISTRY[name].config()), spec_of(name))


@cache
def init_of(name: str) -> Any:
    """What the trainer's `init_states` compiles, compiled once."""
    init = jax.jit(jax.vmap(case_of(name).init))
    return lambda runs: jax.device_get(init(jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys), runs.hparams))


@cache
def trained(name: str) -> Case:
    """All stages, one chunk of UPDATES each, RUNS seeds in one program."""
    config, algorithm = shrink(REGISTRY[name].config()), case_of(name)
    runs = runs_of(config, RUNS)
    states = init_of(name)(runs)
    before, after, metrics = {}, {}, {}
    for stage in algorithm.stages:
        before[stage.name] = states
        states, metrics[stage.name] = chunk_of(name, stage.name, RUNS, UPDATES)(states, runs.keys)
        after[stage.name] = states
    return Case(config, algorithm, runs, before, after, metrics)


def run_of(tree: Any, run: int) -> Any:
    """One run, its axis kept."""
    return jax.tree.map(lambda x: x[run : run + 1], tree)


def stage_of(name: str, stage: str) -> Stage:
    (found,) = [s for s in case_of(name).stages if s.name == stage]
    return found
