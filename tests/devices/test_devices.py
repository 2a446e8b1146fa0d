"""Runs over several devices (eight of the host's, see tests/conftest.py): the same numbers, and no communication."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_trees_close, make_dataset, runs_of

from diffrl.algorithms import srpo
from diffrl.data.dataset import Dataset
from diffrl.training.chunk import make_chunk
from diffrl.training.devices import RUN, SHARED, make_mesh, pad, padded_size, place
from diffrl.training.train import init_states
from diffrl.types import Spec

COLLECTIVES = re.compile(r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter")
CONFIG = srpo.Config(
    behavior_hidden_dim=16,
    behavior_blocks=1,
    critic_hidden_dims=(16, 16),
    policy_hidden_dims=(16,),
    behavior_batch_size=16,
    critic_batch_size=16,
    policy_batch_size=16,
    behavior_updates=10,
    critic_updates=10,
    policy_updates=10,
)
ALGORITHM = srpo.make(CONFIG, Spec.plain(3, 2))


@pytest.fixture(scope="module", autouse=True)
def _eight_devices() -> None:
    assert jax.device_count() == 8


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return make_dataset(rng.normal(size=(64, 3)), rng.uniform(-1, 1, (64, 2)), rng.normal(size=64), terminal=rng.random(64) < 0.2)


def chunk(num_runs: int, devices: list[jax.Device], stage: int) -> tuple[Any, Any, Any]:
    """Ten updates of a stage on these devices, as the trainer does it: returns states, metrics and the mesh."""
    runs = runs_of(CONFIG, num_runs)
    mesh = make_mesh(num_runs, devices)
    size = padded_size(num_runs, mesh)
    states = place(pad(init_states(ALGORITHM, runs), size), mesh, RUN)
    keys, data = place(pad(runs.keys, size), mesh, RUN), place(dataset(), mesh, SHARED)
    assert len(states.step.sharding.device_set) == min(num_runs, len(devices))
    results = make_chunk(ALGORITHM.stages[stage], 10, mesh)(states, keys, {}, data)
    assert all(leaf.shape[0] == size for leaf in jax.tree.leaves(results))
    return *jax.tree.map(lambda x: np.asarray(x)[:num_runs], results), mesh


@pytest.mark.parametrize("num_runs", [8, 6, 11])
def test_devices_do_not_change_results(num_runs: int) -> None:
    """As many runs as devices, fewer, and a number that does not divide (padded to 16): equal to one device."""
    for stage in (0, 1):
        states, metrics, mesh = chunk(num_runs, jax.devices(), stage)
        assert mesh.shape["run"] == min(8, num_runs)
        expected_states, expected_metrics, single = chunk(num_runs, jax.devices()[:1], stage)
        assert single.shape["run"] == 1
        assert_trees_close(states, expected_states, rtol=1e-4, atol=1e-5)
        assert_trees_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
        assert len(np.unique(metrics["loss"])) == num_runs


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
    runs, mesh = runs_of(CONFIG, 8), make_mesh(8)
    arguments = (place(init_states(ALGORITHM, runs), mesh, RUN), place(runs.keys, mesh, RUN), {}, place(dataset(), mesh, SHARED))
    text = make_chunk(ALGORITHM.stages[stage], 10, mesh).lower(*arguments).compile().as_text()
    assert "num_partitions=8" in text
    assert COLLECTIVES.findall(text) == []


def test_a_collective_would_be_seen() -> None:
    """The same search finds the all-reduce of a sum over the sharded axis."""
    mesh = make_mesh(8)
    text = jax.jit(lambda x: jnp.sum(x, axis=0)).lower(place(jnp.ones((8, 4)), mesh, RUN)).compile().as_text()
    assert COLLECTIVES.findall(text)
