"""Runs over several devices (eight of the host's, see tests/conftest.py): the same numbers, and no communication."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from support import assert_trees_close, chosen, make_dataset, quick_compilation, runs_of

from diffrl.algorithms import diffusion_bc, srpo
from diffrl.data.dataset import Dataset
from diffrl.training.chunk import CACHE_BYTES, make_chunk, runs_together
from diffrl.training.devices import RUN, SHARED, make_mesh, pad, padded_size, place
from diffrl.training.memory import tree_bytes
from diffrl.training.train import init_states
from diffrl.types import Spec

COLLECTIVES = re.compile(r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter")
SPEC = Spec.plain(3, 2)
# Few leaves (the padding of each is a program of its own) but all kinds of randomness: batches, times, noise.
SMALL = diffusion_bc.Config(hidden_dim=8, num_blocks=0, num_updates=10, batch_size=16)
LARGE = srpo.Config(
    behavior_hidden_dim=16, behavior_blocks=1, critic_hidden_dims=(16,), policy_hidden_dims=(16,), behavior_batch_size=16
)
RUNS = 11


@pytest.fixture(scope="module", autouse=True)
def _eight_devices() -> Iterator[None]:
    assert jax.device_count() == 8
    with quick_compilation():
        yield


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return make_dataset(rng.normal(size=(64, 3)), rng.uniform(-1, 1, (64, 2)), rng.normal(size=64), terminal=rng.random(64) < 0.2)


@cache
def fresh() -> tuple[Any, jax.Array]:
    """Initial states and keys of all runs."""
    runs = runs_of(SMALL, RUNS)
    return jax.device_get(init_states(diffusion_bc.make(SMALL, SPEC), runs)), runs.keys


def train(num_runs: int, devices: list[jax.Device]) -> tuple[Any, Any, Mesh]:
    """Ten updates of the first runs on these devices, as the trainer does it: states, metrics and the mesh."""
    states, keys = jax.tree.map(lambda x: x[:num_runs], fresh())
    mesh = make_mesh(num_runs, devices)
    size = padded_size(num_runs, mesh)
    states, keys = place(jax.jit(pad, static_argnums=1)((states, keys), size), mesh, RUN)
    assert len(states.step.sharding.device_set) == min(num_runs, len(devices))
    chunk = make_chunk(diffusion_bc.make(SMALL, SPEC).stages[0], 10, mesh)
    alive = place(jnp.ones(size, bool), mesh, RUN)
    states, _, metrics = chunk(states, alive, keys, {}, *place((dataset(), jnp.int32(0)), mesh, SHARED))
    results = states, metrics
    assert all(leaf.shape[0] == size for leaf in jax.tree.leaves(results))
    return *jax.tree.map(lambda x: np.asarray(x)[:num_runs], results), mesh


@cache
def train_on_all(num_runs: int) -> tuple[Any, Any, Mesh]:
    return train(num_runs, jax.devices())


@pytest.mark.parametrize("num_runs", chosen([8, 6, RUNS], 1))
def test_devices_do_not_change_results(num_runs: int) -> None:
    """As many runs as devices, fewer, and a number that does not divide (padded to 16): equal to one device."""
    states, metrics, mesh = train_on_all(num_runs)
    assert mesh.shape["run"] == min(8, num_runs)
    expected_states, expected_metrics, single = train(num_runs, jax.devices()[:1])
    assert single.shape["run"] == 1
    assert_trees_close(states, expected_states, rtol=1e-4, atol=1e-5)
    assert_trees_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    assert len(np.unique(metrics["behavior/loss"])) == num_runs


@pytest.mark.parametrize("together", chosen([1, 2, 3, 6], 0, 1))
def test_taking_turns_does_not_change_results(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six runs of one device one, two, three and all at a time: equal to a device for each."""
    state_bytes = tree_bytes(fresh()[0]) // RUNS
    monkeypatch.setattr("diffrl.training.chunk.CACHE_BYTES", together * state_bytes)
    assert runs_together(state_bytes, 6, make_mesh(1)) == together
    states, metrics, _ = train(6, jax.devices()[:1])
    expected_states, expected_metrics, _ = train_on_all(6)
    assert_trees_close(states, expected_states, rtol=1e-4, atol=1e-5)
    assert_trees_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    assert len(np.unique(metrics["behavior/loss"])) == 6


def test_how_many_runs_advance_together() -> None:
    """A divisor, so that no second program is needed for a rest; one where it already overflows the cache; at most all."""
    mesh = make_mesh(1)
    large, small = CACHE_BYTES, 10
    assert [runs_together(large, n, mesh) for n in (1, 2, 7, 32)] == [1, 1, 1, 1]
    assert [runs_together(small, n, mesh) for n in (1, 7, 32)] == [1, 7, 32]
    assert runs_together(CACHE_BYTES // 5, 32, mesh) == 4


def test_padding() -> None:
    """Eleven runs on eight devices take sixteen places, the last filled with copies; keys can be padded too."""
    mesh = make_mesh(11)
    assert padded_size(11, mesh) == 16
    assert padded_size(8, mesh) == 8
    assert padded_size(6, make_mesh(6)) == 6
    padded = pad({"x": jnp.arange(11), "key": jax.random.split(jax.random.key(0), 11)}, 16)
    np.testing.assert_array_equal(padded["x"], [*range(11), *[10] * 5])
    data = np.asarray(jax.random.key_data(padded["key"]))
    assert data.shape[0] == 16
    assert (data[10:] == data[10]).all()


@pytest.mark.parametrize("stage", range(3))
def test_training_needs_no_communication(stage: int) -> None:
    """The compiled program of every stage, sharded over eight devices, contains no collective operation."""
    algorithm, runs, mesh = srpo.make(LARGE, SPEC), runs_of(LARGE, 8), make_mesh(8)
    states = jax.eval_shape(jax.vmap(algorithm.init), runs.keys, runs.hparams)

    def on(sharding: NamedSharding, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    split, shared = NamedSharding(mesh, RUN), NamedSharding(mesh, SHARED)
    # Lowering rebuilds the arguments with descriptions in place of arrays, which the run-time type checks do not know.
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        own = on(split, (states, jnp.ones(8, bool), runs.keys))
        arguments = *own, {}, *on(shared, (dataset(), jnp.int32(0)))
        text = make_chunk(algorithm.stages[stage], 10, mesh).lower(*arguments).compile().as_text()
    finally:
        jaxtyping.config.update("jaxtyping_disable", checks)
    assert "num_partitions=8" in text
    assert COLLECTIVES.findall(text) == []


def test_a_collective_would_be_seen() -> None:
    """The same search finds the all-reduce of a sum over the sharded axis."""
    mesh = make_mesh(8)
    text = jax.jit(lambda x: jnp.sum(x, axis=0)).lower(place(jnp.ones((8, 4)), mesh, RUN)).compile().as_text()
    assert COLLECTIVES.findall(text)


def test_several_hosts_place_within_a_chunk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each builds its own part of an array, which is a transfer that is meant."""
    mesh, tree = make_mesh(2, jax.devices()[:2]), (np.arange(2), np.int32(3), jax.random.key(0))
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with jax.transfer_guard("disallow"):
        placed = place(tree, mesh, SHARED)
    np.testing.assert_array_equal(placed[0], [0, 1])
    assert int(placed[1]) == 3
