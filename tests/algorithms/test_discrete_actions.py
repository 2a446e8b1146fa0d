"""Discrete actions of methods that know both kinds: cloning is a classifier, IQL's policy a weighted one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from support import discrete_spec, first_gradient, make_dataset, quick, random_batch, runs_of, train_stages

from diffrl.algorithms import bc, iql
from diffrl.learner import forward
from diffrl.networks.categorical import CategoricalPolicy, drawn
from diffrl.networks.ensembles import Value
from diffrl.networks.mlp import orthogonal_dense

ACTIONS, BATCH = 3, 8


def rows(size: int, observation_dim: int) -> Any:
    batch = random_batch(size, observation_dim, ACTIONS)
    return dataclasses.replace(batch, action=jax.nn.one_hot(jnp.arange(size) % ACTIONS, ACTIONS))


def test_cloning_comes_to_the_frequencies_of_actions() -> None:
    """In two states: the softmax is the share of each action, the loss its entropy, and what acts is the most frequent one."""
    counts = np.array([[6, 3, 1], [0, 2, 8]])
    state, action = (np.repeat(part, counts.ravel()) for part in (np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)))
    data = make_dataset(np.eye(2)[state], np.eye(3)[action], np.zeros(20))
    config = bc.Config(learning_rate=1e-2, hidden_dims=(16,), num_updates=600, batch_size=256)
    algorithm = bc.make(config, discrete_spec(2, 3))
    states = train_stages(algorithm, runs_of(config), data)
    policy = jax.tree.map(lambda x: x[0], states.policy.params)
    logits, _ = quick(algorithm.act)(policy, (), jnp.eye(2), jax.random.key(0))
    np.testing.assert_allclose(jax.nn.softmax(logits), counts / 10, atol=0.03)
    np.testing.assert_array_equal(np.argmax(logits, axis=1), [0, 2])


def test_cloning_in_a_box_is_as_it_was() -> None:
    """The loss is the squared error of a squashed output where actions are in a box, -log π of the softmax where they are not."""
    batch, config = rows(BATCH, 2), bc.Config(hidden_dims=(4,))
    discrete = discrete_spec(2, ACTIONS)
    for spec in (discrete, dataclasses.replace(discrete, num_actions=0)):
        algorithm = bc.make(config, spec)
        state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
        loss = quick(algorithm.stages[0].update)(state, batch, jax.random.key(1))[1]["policy/loss"]
        output, _ = quick(algorithm.act)(state.policy.params, (), batch.observation, jax.random.key(0))
        output, action = np.asarray(output), np.asarray(batch.action)
        expected = -(scipy.special.log_softmax(output, axis=1) * action).sum(axis=1)
        if not spec.num_actions:
            assert np.abs(output).max() < 1
            expected = ((output - action) ** 2).sum(axis=1)
        assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)


def test_a_draw_is_of_the_softmax() -> None:
    logits = jnp.array([[2.0, 0.0, -1.0]])
    found = np.bincount(np.argmax(drawn(jnp.repeat(logits, 20_000, axis=0), jax.random.key(0)), axis=1), minlength=3) / 20_000
    np.testing.assert_allclose(found, jax.nn.softmax(logits[0]), atol=0.012)


def test_the_weighted_policy_of_iql() -> None:
    """-E w log π(a | s): its value, and the gradient of the last bias, E w (π - a), in closed form."""
    config = iql.Config(hidden_dims=(8,), num_updates=4, beta=2.0)
    algorithm, batch = iql.make(config, discrete_spec(4, ACTIONS)), rows(BATCH, 4)
    state = quick(algorithm.init)(jax.random.key(0), jax.tree.map(jnp.float32, algorithm.hparams))
    after, metrics = quick(algorithm.stages[0].update)(state, batch, jax.random.key(1))

    @quick
    def known(state: Any, after: Any) -> Any:
        policy = CategoricalPolicy((8,), ACTIONS, orthogonal_dense)
        value = forward(Value((8,), dense=orthogonal_dense), after.value.params, batch.observation)
        return policy.mode(state.policy.params, batch.observation), value

    q = quick(lambda params: iql.lowest_q(iql.Critics((8,), 2, dense=orthogonal_dense), params, batch.observation, batch.action))
    logits, value = (np.asarray(part) for part in known(state, after))
    weight = np.minimum(np.exp(2.0 * (np.asarray(q(state.target_critic_params)) - value)), 100.0)
    action = np.asarray(batch.action)
    loss = -(weight * (scipy.special.log_softmax(logits, axis=1) * action).sum(axis=1)).mean()
    assert float(metrics["policy/loss"]) == pytest.approx(loss, rel=1e-4)
    bias = (weight[:, None] * (scipy.special.softmax(logits, axis=1) - action)).mean(axis=0)
    np.testing.assert_allclose(first_gradient(after.policy)["network"]["Dense_1"]["bias"], bias, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("expectile", "beta"), [(0.5, 1.0), (0.7, 3.0)])
def test_iql_on_one_step_problems(expectile: float, beta: float) -> None:
    """Two states whose actions end with rewards 0, ½ and 1, taken 5, 3 and 2 times in ten: Q is the reward, V its expectile, and
    π(a | s) ∝ π_b(a | s) e^{β (Q - V)}.
    """
    counts, reward = np.array([[5, 3, 2], [2, 3, 5]]), np.array([0.0, 0.5, 1.0])
    state, action = (np.repeat(part, counts.ravel()) for part in (np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)))
    data = make_dataset(np.eye(2)[state], np.eye(3)[action], reward[action])
    config = iql.Config(
        learning_rate=3e-3, tau=0.05, hidden_dims=(32,), expectile=expectile, beta=beta, num_updates=4000, batch_size=256
    )
    algorithm = iql.make(config, discrete_spec(2, 3))
    states = jax.tree.map(lambda x: x[0], train_stages(algorithm, runs_of(config), data))
    value = np.full(2, 0.5)
    for _ in range(500):  # Σ_a n_a |τ - 1{Q < V}| (Q - V) = 0
        side = counts * np.where(reward > value[:, None], expectile, 1 - expectile)
        value = (side * reward).sum(axis=1) / side.sum(axis=1)
    learnt = forward(Value((32,), dense=orthogonal_dense), states.value.params, jnp.eye(2))
    np.testing.assert_allclose(learnt, value, atol=0.03)
    logits, _ = algorithm.act(algorithm.policy(states), (), jnp.eye(2), jax.random.key(0))
    odds = counts * np.exp(beta * (reward - value[:, None]))
    np.testing.assert_allclose(jax.nn.softmax(logits), odds / odds.sum(axis=1, keepdims=True), atol=0.04)
