"""QC: the selected action's law in closed form, its update against the equations written out, and what chunks are for."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import act, assert_trees_close, first_gradient, make_dataset, quick, random_batch, runs_of, train_stages

from diffrl.algorithms import qc
from diffrl.data.columns import attach, steps_ahead
from diffrl.data.dataset import Dataset
from diffrl.diffusion.flows import flow_grid, flow_map
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.value import bootstrap
from diffrl.registry import make
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------------- the best of N, exactly

MEAN, STD = 0.1, 0.1
NARROWED = 0.0617  # what ten of Euler's steps of the exact velocity make of a deviation of 0.1


def flow(noise: Array) -> Array:
    """The exact flow of N(m, s²), in ten steps: what is expected of z - a at x_t."""

    def velocity(x: Array, t: Array) -> Array:
        t = t[:1, None, None]
        variance = ((1.0 - t) * STD) ** 2 + t**2
        centred = x - (1.0 - t) * MEAN
        return t * centred / variance - (MEAN + (1.0 - t) * STD**2 * centred / variance)

    return flow_map(velocity, flow_grid(10), noise)


@pytest.mark.parametrize(
    ("count", "shift", "width"),
    [(2, 0.564, 0.83), (4, 1.03, 0.70), (8, 1.42, 0.61), (32, 2.07, 0.49), (64, 2.34, 0.45)],
)
def test_a_value_that_grows_selects_the_largest(count: int, shift: float, width: float) -> None:
    """Of N draws of N(m, A²): mean m + A c_N, deviation A k_N, whatever increasing function of the action Q is."""
    noise = jax.random.normal(jax.random.key(count), (count, 20_000, 1))
    found = np.asarray(quick(lambda noise: qc.best_of_flow(flow, lambda drawn: jnp.exp(drawn[..., 0]), noise))(noise))
    assert found.mean() == pytest.approx(MEAN + NARROWED * shift, abs=0.02 * NARROWED)
    assert found.std() == pytest.approx(NARROWED * width, abs=0.015 * NARROWED)


def test_candidates_are_valued_within_the_bounds() -> None:
    """Beyond them Q has been taught nothing: -3 and -1.5 are the same action."""
    noise = jnp.array([-3.0, 0.5, 0.2, -1.5])[:, None, None]
    found = qc.best_of_flow(lambda z: z, lambda drawn: -jnp.abs(drawn[..., 0] + 1.2), noise)
    np.testing.assert_array_equal(found, [[-1.0]])


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION_DIM, ACTION_DIM, ROWS, STEPS = 4, 2, 8, 3
CONFIG = qc.Config(
    hidden_dims=(16, 16),
    critic_hidden_dims=(12, 12),
    num_flow_steps=STEPS,
    num_critics=3,
    num_next_actions=5,
    pessimism=0.5,
    learning_rate=3e-2,
    act=qc.Act(num_candidates=5),
)
NETWORK = MLP((16, 16), ACTION_DIM, dense=xavier_dense, activation=nn.gelu)


@cache
def setup() -> tuple[Any, Any, Transition]:
    """Jitted update, a fresh state whose targets are far from the networks, and a batch."""
    algorithm = qc.make(CONFIG, Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    batch = random_batch(ROWS, OBSERVATION_DIM, ACTION_DIM)
    return quick(algorithm.stages[0].update), state.replace(target_critic_params=other.critic.params), batch


def q_values(params: Any, observation: Array, action: Array) -> Array:
    """`[3, B]`, each network by itself."""
    (stacked,) = params.values()
    critic = MLP((12, 12), 1, dense=xavier_dense, activation=nn.gelu, layer_norm="after")
    members = [jax.tree.map(lambda leaf, k=k: leaf[k], stacked) for k in range(3)]
    return jnp.stack([critic.apply({"params": member}, action, observation)[:, 0] for member in members])  # pyright: ignore


def bound(params: Any, observation: Array, action: Array) -> Array:
    q = q_values(params, observation, action)
    return q.mean(axis=0) - 0.5 * jnp.sqrt(((q - q.mean(axis=0)) ** 2).mean(axis=0))


def velocity(params: Any, x: Array, t: Array, observation: Array) -> Array:
    """What the network says of z - a at 1 - t, seen the other way."""
    return -NETWORK.apply({"params": params}, jnp.concatenate([x, 1.0 - t, observation], axis=-1))  # pyright: ignore


def chosen(state: Any, observation: Array, noise: Array) -> Array:
    """Row by row and candidate by candidate; time as in the paper, from noise to data."""
    best, value = jnp.zeros_like(noise[0]), jnp.full(len(observation), -jnp.inf)
    for z in noise:
        x = z
        for i in range(STEPS):
            x = x + velocity(state.behavior.params, x, jnp.full((len(x), 1), i / STEPS), observation) / STEPS
        x = jnp.clip(x, -1.0, 1.0)
        here = bound(state.critic.params, observation, x)
        best, value = jnp.where((here > value)[:, None], x, best), jnp.maximum(here, value)
    return best


def test_update_written_out() -> None:
    """Both steps, and that of the target critics, from what the networks were before."""
    update, state, batch = setup()
    key = jax.random.key(5)
    after, metrics = update(state, batch, key)
    next_key, flow_key = jax.random.split(key)

    @quick
    def expected_target(state: Any, noise: Array) -> Array:
        next_action = chosen(state, batch.next_observation, noise)
        next_value = bound(state.target_critic_params, batch.next_observation, next_action)
        return batch.reward + 0.99 * (1.0 - batch.terminal) * next_value

    target = expected_target(state, jax.random.normal(next_key, (5, ROWS, ACTION_DIM)))

    def critic_loss(params: Any) -> Array:
        return jnp.mean((q_values(params, batch.observation, batch.action) - target) ** 2)

    time_key, start_key = jax.random.split(flow_key)
    t = 1.0 - jax.random.uniform(time_key, (ROWS,))[:, None]
    x0 = jax.random.normal(start_key, batch.action.shape)

    def flow_loss(params: Any) -> Array:
        noised = (1.0 - t) * x0 + t * batch.action
        return jnp.mean((velocity(params, noised, t, batch.observation) - (batch.action - x0)) ** 2)

    expected = quick(jax.grad(critic_loss))(state.critic.params)
    assert_trees_close(first_gradient(after.critic), expected, rtol=1e-3, atol=1e-5)
    expected = quick(jax.grad(flow_loss))(state.behavior.params)
    assert_trees_close(first_gradient(after.behavior), expected, rtol=1e-3, atol=1e-5)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, state.critic.params)
    assert_trees_close(after.target_critic_params, average)
    assert float(metrics["critic/target"]) == pytest.approx(float(target.mean()), rel=1e-4)


def test_acting_is_what_targets_take() -> None:
    algorithm = qc.make(CONFIG, Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    _, state, batch = setup()
    key = jax.random.key(3)
    action, _ = quick(algorithm.act)(algorithm.policy(state), (), batch.observation, key)
    expected = quick(chosen)(state, batch.observation, jax.random.normal(key, (5, ROWS, ACTION_DIM)))
    np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- what chunks are for

S0, S1 = np.eye(2)


def bandit(size: int = 2000) -> Dataset:
    """Two steps, of which the second decides: 1 if its action is positive, as every other is."""
    action = np.random.default_rng(0).choice([-0.5, 0.5], (size, 2))
    reward = np.stack([np.zeros(size), action[:, 1] > 0.0], axis=1)
    states = np.broadcast_to(np.stack([S0, S1]), (size, 2, 2))
    following = np.broadcast_to(np.stack([S1, S0]), (size, 2, 2))
    terminal = np.tile([False, True], size)
    return make_dataset(states.reshape(-1, 2), action.reshape(-1, 1), reward.ravel(), following.reshape(-1, 2), terminal)


def test_only_a_critic_of_chunks_knows_the_later_actions() -> None:
    """γ = 1, two steps. Of n-step returns the first action tells nothing, ½ for each; of chunks the second tells all."""
    data = bandit()
    rows = attach(data, lambda dataset: steps_ahead(dataset, 2))[:]
    first, reward = rows.observation[:, 0] > 0.5, bootstrap(rows, 1.0).reward
    for sign in (-1.0, 1.0):
        assert float(reward[first & (sign * rows.action[:, 0] > 0.0)].mean()) == pytest.approx(0.5, abs=0.05)
    algorithm = make(qc.Config(), Spec.plain(2, 1), action_chunk=2)
    rows = attach(data, algorithm.columns)[:]
    reward, second = bootstrap(rows, 1.0).reward, rows.extras["action_chunk"][:, 1, 0]
    np.testing.assert_array_equal(reward[first], second[first] > 0.0)


@pytest.mark.slow
def test_the_best_of_n_chunks_succeeds() -> None:
    """With probability 1 - 2^{-N} through the second action; about the first nothing is chosen."""
    config = qc.Config(
        discount=1.0,
        learning_rate=3e-3,
        num_next_actions=1,
        num_flow_steps=5,
        hidden_dims=(48, 48),
        critic_hidden_dims=(24,),
        num_updates=1000,
        batch_size=128,
    )
    states = train_stages(make(config, Spec.plain(2, 1), action_chunk=2), runs_of(config), bandit())
    shares = []
    for count in (1, 2, 4):
        # The method's own choice, without the wrapper that carries it out: whole chunks.
        whole = qc.make(dataclasses.replace(config, act=qc.Act(num_candidates=count)), Spec.plain(2, 2))
        chunks = act(whole, states, jnp.broadcast_to(S0, (1000, 2)))[0]
        shares.append(np.mean(chunks > 0.0, axis=0))
    first, second = np.array(shares).T
    np.testing.assert_allclose(second, [0.5, 0.75, 0.9375], atol=0.07)
    np.testing.assert_allclose(first, first[0], atol=0.06)


def test_published_sizes() -> None:
    """512 × 4, chunks of five of the arm's five numbers, 55 observed: 81 inputs with the time, 80 without."""
    algorithm = make(qc.Config(), Spec.plain(55, 5), action_chunk=5)
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hparams)

    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    hidden = 3 * (512 * 512 + 512)
    assert count(state.behavior.params) == 81 * 512 + 512 + hidden + 512 * 25 + 25
    assert count(state.critic.params) == 2 * (80 * 512 + 512 + hidden + 4 * 2 * 512 + 512 + 1)
