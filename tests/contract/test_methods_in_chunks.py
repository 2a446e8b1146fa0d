"""Registered methods that act in chunks: their values, chunks of one, and that every method takes them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ACTION, BATCH, OBSERVATION, dataset, shrink
from support import chosen, make_dataset, quick_compilation, runs_of, train_stages, trees_equal, unchecked

from diffrl.action_chunks import in_chunks
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.learner import forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import Linear, orthogonal_dense
from diffrl.registry import REGISTRY, make
from diffrl.training.chunk import draw
from diffrl.types import Spec

BOX = [name for name, method in REGISTRY.items() if "box" in method.actions]  # a chunk is of vectors
# Of the methods whose values are compared, the layers of their critics.
BOOTSTRAPPED = {"iql": orthogonal_dense, "sac": Linear}


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    with quick_compilation():
        yield


def single_steps(name: str) -> Any:
    """A small config of the method that looks one step ahead."""
    config = shrink(REGISTRY[name].config())
    for field in ("n_step", "model_horizon"):
        if hasattr(config, field):
            setattr(config, field, 1)
    return config


def distances(far: int) -> Dataset:
    """From `far` steps down to the goal, a reward of -1 each, whatever is done; states one-hot, many episodes."""
    k = np.tile(np.arange(far, 0, -1), 200)
    eye, rng = np.eye(far + 1), np.random.default_rng(0)
    return make_dataset(eye[k], rng.uniform(-1, 1, (len(k), 1)), -np.ones(len(k)), eye[k - 1], k == 1)


@pytest.mark.parametrize("name", chosen([*BOOTSTRAPPED], 0))
def test_values_are_those_of_single_steps(name: str) -> None:
    """Q(s, chunk) = -(1 - γ^D) / (1 - γ), D steps from the goal, for two discounts in one program. With γ in place of γ³ as the
    weight of the value after a chunk, it would be -4.4 at D = 6 and γ = .8 where -3.69 is right.
    """
    config = shrink(REGISTRY[name].config())
    changes = {
        "tau": 0.1,
        "num_updates": 1000,
        "batch_size": 64,
        "hidden_dims": (32, 32),
        "n_step": 1,
        "expectile": 0.5,
        "initial_entropy_weight": 1e-8,
    }
    changes |= {field.name: 3e-3 for field in dataclasses.fields(config) if field.name.endswith("learning_rate")}
    fields = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{field: value for field, value in changes.items() if field in fields})
    algorithm = make(config, Spec.plain(7, 1), action_chunk=3)
    states = train_stages(algorithm, runs_of(config, sweep="discount=0.8,0.5"), distances(6))
    critics, chunk = Critics((32, 32), 2, dense=BOOTSTRAPPED[name]), jnp.zeros((6, 3))
    q = jax.vmap(lambda params: jnp.mean(forward(critics, params, jnp.eye(7)[1:], chunk), axis=0))(states.critic.params)
    steps, discount = np.arange(1, 7), np.array([[0.8], [0.5]])
    np.testing.assert_allclose(q, -(1 - discount**steps) / (1 - discount), atol=0.15)


@pytest.mark.parametrize("name", chosen(BOX, BOX.index("qc")))
def test_a_method_of_single_steps_is_one_of_chunks_of_one(name: str) -> None:
    """An update of every stage in the wrapper, bit for bit. Batches are drawn outside: fused with an update, they round it."""
    config, spec, key = single_steps(name), Spec.plain(OBSERVATION, ACTION), jax.random.key(0)
    found = []
    for algorithm in (REGISTRY[name].make(config, spec), in_chunks(REGISTRY[name].make(config, spec), spec, 1)):
        data = attach(dataset(), algorithm.columns)
        state = jax.jit(algorithm.init)(key, algorithm.hparams)
        for stage in algorithm.stages:
            columns = {} if stage.prepare is None else jax.jit(stage.prepare)(state, data, key)
            state, _ = jax.jit(stage.update)(state, draw(stage, data, columns, key), key)
        found.append(state)
    assert trees_equal(*found)


@pytest.mark.parametrize("name", chosen(BOX, *map(BOX.index, ("dac", "fql", "iql", "qc", "srpo"))))
def test_every_method_takes_chunks(name: str) -> None:
    """Two updates of every stage keep the state's shapes, and it acts in single steps; nothing is computed for that."""
    algorithm = make(single_steps(name), Spec.plain(OBSERVATION, ACTION), action_chunk=2)
    data, key = attach(dataset(), algorithm.columns), jax.random.key(0)

    def trained() -> Any:
        state = algorithm.init(key, algorithm.hparams)
        fresh = state
        for stage in algorithm.stages:
            columns = {} if stage.prepare is None else stage.prepare(state, data, key)
            for _ in range(2):
                batch = draw(stage, data, columns, key)
                assert batch.observation.shape == (BATCH, OBSERVATION)
                state, _ = stage.update(state, batch, key)
        policy = algorithm.policy(state)
        carry = algorithm.init_carry(policy, 5)
        action, after = algorithm.act(policy, carry, jnp.zeros((5, OBSERVATION)), key)
        assert algorithm.explore is not None
        explored, _ = algorithm.explore(policy, after, jnp.zeros((5, OBSERVATION)), key)
        return fresh, state, carry, after, action, explored

    with unchecked():
        fresh, state, carry, after, action, explored = jax.eval_shape(trained)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), fresh) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), carry) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    assert action.shape == explored.shape == (5, ACTION)
