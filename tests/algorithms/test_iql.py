"""IQL: its values on a problem with known ones, and its update against the paper's equations written out."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    assert_trees_close,
    far_apart,
    first_gradient,
    make_dataset,
    quick,
    random_batch,
    runs_of,
    train_stages,
    trees_equal,
)

from diffrl.algorithms import iql
from diffrl.data.dataset import Dataset
from diffrl.networks.mlp import MLP, orthogonal_dense
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------------------ a chain, exactly

STATES, DISCOUNT, FORWARD = 4, 0.9, 0.5  # the behaviour goes towards the goal half of the time
EXPECTILES = (0.5, 0.7, 0.95, 0.99)


def chain() -> Dataset:
    """States at 1 … STATES steps from the goal, one-hot; action +1 goes closer, -1 goes back (or stays at the far end).

    Every step costs 1, also the one that enters the terminal goal. One row per state and action: FORWARD is a half.
    """
    eye = np.eye(STATES + 1)
    rows = [(k, a, k - 1 if a > 0 else min(k + 1, STATES)) for k in range(1, STATES + 1) for a in (1.0, -1.0)]
    k, action, following = (np.array(column) for column in zip(*rows, strict=True))
    return make_dataset(eye[k], action[:, None], -np.ones(len(rows)), eye[following], terminal=following == 0)


def exact_values(tau: float) -> np.ndarray:
    """V(1 … STATES) with V(s) the τ-expectile over the behaviour's actions of Q(s, a) = -1 + γ V(s')."""
    value = np.zeros(STATES + 1)
    up, down = tau * FORWARD, (1 - tau) * (1 - FORWARD)  # the better action is forward
    for _ in range(2000):
        backward = np.append(value[2:], value[STATES])
        new = (up * (-1 + DISCOUNT * value[:STATES]) + down * (-1 + DISCOUNT * backward)) / (up + down)
        value = np.append(0.0, new)
    return value[1:]


@cache
def learnt_values() -> np.ndarray:
    """V `[expectiles, STATES]` from the library's chunks: all expectiles in one program, the second half at a lower rate."""
    sweep = "expectile=" + ",".join(map(str, EXPECTILES))
    config = iql.Config(
        learning_rate=3e-3, discount=DISCOUNT, tau=0.05, hidden_dims=(32, 32), num_updates=2500, batch_size=64, beta=1.0
    )
    algorithm, runs, dataset = iql.make(config, Spec.plain(STATES + 1, 1)), runs_of(config, sweep=sweep), chain()
    states = train_stages(algorithm, runs, dataset)
    slower = dataclasses.replace(states.hparams, learning_rate=jnp.full(len(EXPECTILES), 2e-4))
    states = train_stages(algorithm, runs, dataset, states.replace(hparams=slower))
    observation = jnp.eye(STATES + 1)[1:]
    return np.asarray(jax.vmap(lambda params: value_of(params, observation, (32, 32)))(states.value.params))


def value_of(params: Any, observation: jax.Array, hidden: tuple[int, ...] = (16, 16)) -> jax.Array:
    (inner,) = params.values()
    return MLP(hidden, 1, dense=orthogonal_dense).apply({"params": inner}, observation)[:, 0]


def test_exact_values_have_the_known_limits() -> None:
    """The reference itself: τ = .5 solves the behaviour's linear equations, τ → 1 gives -(1 - γᵏ)/(1 - γ)."""
    moves = np.zeros((STATES, STATES))
    for k in range(1, STATES + 1):
        if k > 1:
            moves[k - 1, k - 2] += FORWARD
        moves[k - 1, min(k + 1, STATES) - 1] += 1 - FORWARD
    np.testing.assert_allclose(exact_values(0.5), np.linalg.solve(np.eye(STATES) - DISCOUNT * moves, -np.ones(STATES)), rtol=1e-6)
    np.testing.assert_allclose(exact_values(1 - 1e-9), optimal(), rtol=1e-6)


def optimal() -> np.ndarray:
    return -(1 - DISCOUNT ** np.arange(1, STATES + 1)) / (1 - DISCOUNT)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(EXPECTILES)))
def test_values_of_a_chain(index: int) -> None:
    """V reaches the fixed point of expectile regression: at τ = .5 the value of the behaviour (Kostrikov et al., theorem 3's
    premise).
    """
    np.testing.assert_allclose(learnt_values()[index], exact_values(EXPECTILES[index]), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_values_approach_the_optimum() -> None:
    """As τ grows V rises to -(1 - γᵏ)/(1 - γ) and not above it: from far off at .5 to within 4 % at .99."""
    gap = np.max(np.abs(learnt_values() - optimal()), axis=1)
    assert np.all(np.diff(gap) < 0)
    assert gap[0] > 2.0
    assert gap[-1] < 0.04 * np.abs(optimal()).max() + 0.05
    assert np.all(learnt_values() < optimal() + 0.1)


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION, ACTION, BATCH = 4, 2, 8
CONFIG = iql.Config(hidden_dims=(16, 16), learning_rate=3e-2, num_updates=4)


@cache
def setup() -> tuple[Any, Any, Transition]:
    """Jitted update, a state whose target critics are far from the online ones, and a batch."""
    algorithm = iql.make(CONFIG, Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params)
    return quick(algorithm.stages[0].update), state, random_batch(BATCH, OBSERVATION, ACTION)


def q_values(params: Any, batch: Transition) -> jax.Array:
    """`[2, B]`, from two separate networks."""
    (stacked,) = params.values()
    inputs = jnp.concatenate([batch.action, batch.observation], axis=-1)
    members = [jax.tree.map(lambda x, k=k: x[k], stacked) for k in range(2)]
    network = MLP((16, 16), 1, dense=orthogonal_dense)
    return jnp.stack([network.apply({"params": member}, inputs)[:, 0] for member in members])


def test_update_follows_the_authors_order() -> None:
    """V on the old target; the policy on the new V and the old target; Q on the new V; then the target (eq. 5 to 7)."""
    update, state, batch = setup()
    after, metrics = update(state, batch, jax.random.key(0))
    old_target = jnp.min(q_values(state.target_critic_params, batch), axis=0)

    def value_loss(params: Any) -> jax.Array:
        u = old_target - value_of(params, batch.observation)
        return jnp.mean(jnp.abs(0.7 - (u < 0)) * u**2)

    def policy_loss(params: Any, value: Any) -> jax.Array:
        weight = jnp.minimum(jnp.exp(3.0 * (old_target - value_of(value, batch.observation))), 100.0)
        mean = MLP((16, 16), ACTION, output_activation=jnp.tanh, dense=orthogonal_dense).apply(
            {"params": params["network"]}, batch.observation
        )
        log_prob = jax.scipy.stats.norm.logpdf(batch.action, mean, jnp.exp(params["log_std"])).sum(axis=-1)
        return -jnp.mean(weight * log_prob)

    def critic_loss(params: Any, value: Any) -> jax.Array:
        y = batch.reward + 0.99 * (1.0 - batch.terminal) * value_of(value, batch.next_observation)
        q = q_values(params, batch)
        return jnp.mean((q[0] - y) ** 2) + jnp.mean((q[1] - y) ** 2)

    old, new = state.value.params, after.value.params
    assert_trees_close(first_gradient(after.value), quick(jax.grad(value_loss))(old), rtol=1e-3, atol=1e-5)
    for learner, initial, loss, name in (
        (after.policy, state.policy.params, policy_loss, "policy/loss"),
        (after.critic, state.critic.params, critic_loss, "critic/loss"),
    ):
        gradient = quick(jax.grad(loss))(initial, new)
        assert far_apart(gradient, quick(jax.grad(loss))(initial, old))
        assert_trees_close(first_gradient(learner), gradient, rtol=1e-3, atol=1e-4)
        assert float(metrics[name]) == pytest.approx(float(loss(initial, new)), rel=1e-3)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)


def test_weights_are_clipped_at_100() -> None:
    """min(exp(β A), 100): with a value far below every Q all weights are 100."""
    update, state, batch = setup()
    lower = jax.tree.map(jnp.zeros_like, state.value.params)
    q = jax.tree.map(jnp.zeros_like, state.target_critic_params)
    (name,) = q
    q[name]["Dense_2"]["bias"] = jnp.full_like(q[name]["Dense_2"]["bias"], 50.0)
    state = state.replace(value=state.value.replace(params=lower), target_critic_params=q)
    assert float(update(state, batch, jax.random.key(0))[1]["policy/advantage_weight"]) == 100.0


def test_timeouts_bootstrap_and_terminals_do_not() -> None:
    """Toggling timeouts changes no bit of the update; making all rows terminal makes the target the reward alone."""
    update, state, batch = setup()
    reference = update(state, batch, jax.random.key(0))[0]
    assert trees_equal(update(state, batch.replace(timeout=~batch.timeout), jax.random.key(0))[0], reference)

    ended, metrics = update(state, batch.replace(terminal=jnp.ones(BATCH, bool)), jax.random.key(0))
    assert float(metrics["critic/loss"]) == pytest.approx(
        float(sum(jnp.mean((q - batch.reward) ** 2) for q in q_values(state.critic.params, batch))), rel=1e-4
    )
    assert not trees_equal(ended.critic.params, reference.critic.params)


def test_policy_rate_falls_to_zero() -> None:
    """The policy's cosine ends at num_updates: one more update leaves the policy bit-equal while V and Q go on."""
    update, state, batch = setup()
    for k in range(CONFIG.num_updates):
        before, (state, _) = state, update(state, batch, jax.random.key(k))
        assert not trees_equal(before.policy.params, state.policy.params)
    after, _ = update(state, batch, jax.random.key(9))
    assert trees_equal(after.policy.params, state.policy.params)
    assert not trees_equal(after.value.params, state.value.params)
    assert not trees_equal(after.critic.params, state.critic.params)
