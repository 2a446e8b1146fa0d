"""FQL: optima of its policy's loss in closed form, its update against the equations written out, and two modes."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import act, assert_trees_close, first_gradient, make_dataset, quick, random_batch, runs_of, train_stages, trees_equal

from diffrl.algorithms import fql
from diffrl.config import ConfigError, validate_method
from diffrl.learner import forward
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------- the policy's loss, exactly

BATCH, ACTION = 5, 3
KEYS = jax.random.split(jax.random.key(0), 8)
FLOW_ACTION = 0.3 * jax.random.uniform(KEYS[0], (BATCH, ACTION), minval=-1.0)
OBSERVATION, NOISE = jnp.zeros((BATCH, 2)), jax.random.normal(KEYS[1], (BATCH, ACTION))
SLOPE = jnp.array([0.4, -0.3, 0.2])


class Free(nn.Module):
    """A policy that says one trainable action for each row, whatever it sees."""

    @nn.compact
    def __call__(self, noise: Array, observation: Array) -> Array:
        return self.param("action", nn.initializers.zeros, (BATCH, ACTION))


class Linear(nn.Module):
    """Q_1 = 1.5 ⟨q, a⟩ + 7 and Q_2 = 0.5 ⟨q, a⟩ - 7, whose mean is ⟨q, a⟩."""

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        value = action @ SLOPE
        return jnp.stack([1.5 * value + 7.0, 0.5 * value - 7.0])


class Quadratic(nn.Module):
    """Q = -(k/2) ‖a - c‖² with k = 2 and c = (.5, -.5, 0), twice."""

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        value = -jnp.sum((action - jnp.array([0.5, -0.5, 0.0])) ** 2, axis=-1)
        return jnp.stack([value, value])


def loss(critics: nn.Module, action: Array, alpha: float, normalize_q: bool = False) -> Array:
    """Of a policy that says this."""
    return fql.policy_loss({"action": action}, Free(), critics, {}, OBSERVATION, NOISE, FLOW_ACTION, alpha, normalize_q)[0]


def slope(critics: nn.Module, action: Array, alpha: float, normalize_q: bool = False) -> Array:
    return quick(jax.grad(lambda action: loss(critics, action, alpha, normalize_q)))(action)


@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_optimum_of_a_linear_value(alpha: float) -> None:
    """μ = F + d q / (2α): the square's mean is taken over action dimensions too. With their sum it would be q / (2α)."""
    optimum = FLOW_ACTION + ACTION * SLOPE / (2.0 * alpha)
    assert np.all(np.abs(optimum) < 1.0)
    np.testing.assert_allclose(slope(Linear(), optimum, alpha), 0.0, atol=1e-6)
    assert np.abs(slope(Linear(), FLOW_ACTION + SLOPE / (2.0 * alpha), alpha)).max() > 0.03


@pytest.mark.parametrize("alpha", [0.03, 1.0, 30.0])
def test_optimum_of_a_quadratic_value(alpha: float) -> None:
    """μ = ((2α/d) F + k c) / ((2α/d) + k): from c at small α to F at large."""
    pull, k, c = 2.0 * alpha / ACTION, 2.0, jnp.array([0.5, -0.5, 0.0])
    optimum = (pull * FLOW_ACTION + k * c) / (pull + k)
    np.testing.assert_allclose(slope(Quadratic(), optimum, alpha), 0.0, atol=1e-6)
    assert float(jnp.max(jnp.abs(optimum - (c if alpha < 1.0 else FLOW_ACTION)))) < (0.02 if alpha == 0.03 else 0.6)


def test_gradient_against_finite_differences() -> None:
    """In double precision, at an action partly beyond the bounds."""
    with jax.enable_x64(True):
        action = jnp.asarray(np.random.default_rng(0).uniform(-1.4, 1.4, (BATCH, ACTION)))
        gradient = jax.grad(lambda action: loss(Quadratic(), action, 2.0))(action)
        for i, j in ((0, 0), (1, 2), (4, 1)):
            step = jnp.zeros_like(action).at[i, j].set(1e-5)
            difference = (loss(Quadratic(), action + step, 2.0) - loss(Quadratic(), action - step, 2.0)) / 2e-5
            np.testing.assert_allclose(gradient[i, j], difference, rtol=1e-4, atol=1e-9)


def test_beyond_the_bounds_distillation_alone_acts() -> None:
    """The clip lets no gradient of Q through; the pull back is 2α (μ - F) / (B d)."""
    action = jnp.full((BATCH, ACTION), 1.2)
    np.testing.assert_array_equal(slope(Linear(), action, 0.0), 0.0)
    np.testing.assert_allclose(slope(Linear(), action, 5.0), 10.0 * (action - FLOW_ACTION) / (BATCH * ACTION), rtol=1e-5)


def test_normalised_values_have_no_scale() -> None:
    """λ = 1 / mean |Q|, Q the critics' mean: a thousand times larger values give the same gradient, without it another."""

    class Larger(nn.Module):
        @nn.compact
        def __call__(self, observation: Array, action: Array) -> Array:
            return 1000.0 * Quadratic()(observation, action)

    action = jnp.full((BATCH, ACTION), 0.2)
    expected = slope(Quadratic(), action, 0.0) / jnp.mean(jnp.abs(Quadratic().apply({}, OBSERVATION, action)))
    np.testing.assert_allclose(slope(Quadratic(), action, 0.0, normalize_q=True), expected, rtol=1e-5)
    np.testing.assert_allclose(slope(Larger(), action, 0.0, normalize_q=True), expected, rtol=1e-4)
    np.testing.assert_allclose(slope(Larger(), action, 0.0), 1000.0 * slope(Quadratic(), action, 0.0), rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION_DIM, ACTION_DIM, ROWS = 4, 2, 8
CONFIG = fql.Config(hidden_dims=(16, 16), critic_hidden_dims=(12, 12), num_flow_steps=3, learning_rate=3e-2)
NETWORK = MLP((16, 16), ACTION_DIM, dense=xavier_dense, activation=nn.gelu)


@cache
def setup() -> tuple[Any, Any, Transition]:
    """Jitted update, a fresh state whose targets are far from the networks, and a batch."""
    algorithm = fql.make(CONFIG, Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params)
    batch = random_batch(ROWS, OBSERVATION_DIM, ACTION_DIM)
    return quick(algorithm.stages[0].update), state, batch


def changed(state: Any, **hparams: float) -> Any:
    """The state with other hyper-parameters."""
    values = {name: jnp.float32(value) for name, value in hparams.items()}
    return state.replace(hparams=dataclasses.replace(state.hparams, **values))


def q_values(params: Any, observation: Array, action: Array) -> Array:
    """`[2, B]`, each network written out: dense, GELU, LayerNorm."""
    (stacked,) = params.values()
    inputs = jnp.concatenate([action, observation], axis=-1)
    found = []
    for k in range(2):
        x, member = inputs, jax.tree.map(lambda leaf, k=k: leaf[k], stacked)
        for layer in range(2):
            x = nn.gelu(x @ member[f"Dense_{layer}"]["kernel"] + member[f"Dense_{layer}"]["bias"])
            centred = x - x.mean(axis=-1, keepdims=True)
            x = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
            x = x * member[f"LayerNorm_{layer}"]["scale"] + member[f"LayerNorm_{layer}"]["bias"]
        found.append((x @ member["Dense_2"]["kernel"] + member["Dense_2"]["bias"])[:, 0])
    return jnp.stack(found)


def policy(params: Any, noise: Array, observation: Array) -> Array:
    return NETWORK.apply({"params": params}, jnp.concatenate([noise, observation], axis=-1))  # pyright: ignore


def written_out(state: Any, batch: Transition, key: Any, aggregate: Any) -> dict[str, Any]:
    """Gradients of the three networks, from the parameters before the update; time as in the paper, from noise to data."""
    next_key, flow_key, noise_key = jax.random.split(key, 3)
    noise = jax.random.normal(next_key, batch.action.shape)
    next_action = jnp.clip(policy(state.policy.params, noise, batch.next_observation), -1.0, 1.0)
    next_q = aggregate(q_values(state.target_critic_params, batch.next_observation, next_action), axis=0)
    target = batch.reward + 0.99 * (1.0 - batch.terminal) * next_q

    def critic_loss(params: Any) -> Array:
        return jnp.mean((q_values(params, batch.observation, batch.action) - target) ** 2)

    def velocity(params: Any, x: Array, t: Array) -> Array:
        """What the network says of z - x_0 at 1 - t, seen the other way."""
        inputs = jnp.concatenate([x, 1.0 - t, batch.observation], axis=-1)
        return -NETWORK.apply({"params": params}, inputs)  # pyright: ignore

    time_key, start_key = jax.random.split(flow_key)
    t = 1.0 - jax.random.uniform(time_key, (ROWS,))[:, None]
    x0 = jax.random.normal(start_key, batch.action.shape)

    def flow_loss(params: Any) -> Array:
        noised = (1.0 - t) * x0 + t * batch.action
        return jnp.mean((velocity(params, noised, t) - (batch.action - x0)) ** 2)

    z = jax.random.normal(noise_key, batch.action.shape)
    x = z
    for i in range(3):
        x = x + velocity(state.behavior.params, x, jnp.full((ROWS, 1), i / 3.0)) / 3.0
    flow_action = jnp.clip(x, -1.0, 1.0)

    def policy_loss(params: Any) -> Array:
        action = policy(params, z, batch.observation)
        q = jnp.mean(q_values(state.critic.params, batch.observation, jnp.clip(action, -1.0, 1.0)), axis=0)
        return state.hparams.alpha * jnp.mean((action - flow_action) ** 2) - jnp.mean(q)

    return {
        "critic": quick(jax.grad(critic_loss))(state.critic.params),
        "behavior": quick(jax.grad(flow_loss))(state.behavior.params),
        "policy": quick(jax.grad(policy_loss))(state.policy.params),
    }


def gradients(state: Any) -> dict[str, Any]:
    """What Adam saw in its first step."""
    return {name: first_gradient(getattr(state, name)) for name in ("critic", "behavior", "policy")}


@pytest.mark.parametrize("aggregate", ["mean", pytest.param("min", marks=pytest.mark.slow)])
def test_update_written_out(aggregate: fql.Aggregate) -> None:
    """All three steps, and that of the target critics, from what the networks were before."""
    update, state, batch = setup()
    if aggregate == "min":
        algorithm = fql.make(dataclasses.replace(CONFIG, aggregate="min"), Spec.plain(OBSERVATION_DIM, ACTION_DIM))
        update = quick(algorithm.stages[0].update)
    after, metrics = update(state, batch, jax.random.key(5))
    expected = written_out(state, batch, jax.random.key(5), fql.AGGREGATES[aggregate])
    for name, found in gradients(after).items():
        assert_trees_close(found, expected[name], rtol=1e-3, atol=1e-5)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, state.critic.params)
    assert_trees_close(after.target_critic_params, average)
    assert float(metrics["policy/loss"]) == pytest.approx(
        10.0 * float(metrics["policy/distillation"]) - float(metrics["policy/q"]), rel=1e-5
    )


def test_no_loss_reaches_a_foreign_network() -> None:
    """α changes the policy's gradient alone; other critics change that of the flow in no bit."""
    update, state, batch = setup()
    key = jax.random.key(5)
    usual, weak = (gradients(update(changed(state, alpha=alpha), batch, key)[0]) for alpha in (10.0, 1.0))
    assert trees_equal(usual["critic"], weak["critic"])
    assert trees_equal(usual["behavior"], weak["behavior"])
    assert not trees_equal(usual["policy"], weak["policy"])
    other = state.replace(critic=state.critic.replace(params=state.target_critic_params))
    found = gradients(update(other, batch, key)[0])
    assert trees_equal(found["behavior"], usual["behavior"])
    assert not trees_equal(found["policy"], usual["policy"])


def test_two_equal_critics_have_the_loss_of_one() -> None:
    """The mean over critics, not their sum."""
    update, state, batch = setup()
    (name,) = state.critic.params
    twice = {name: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), state.critic.params[name])}
    ended = batch.replace(terminal=jnp.ones(ROWS, bool))
    _, metrics = update(state.replace(critic=state.critic.replace(params=twice)), ended, jax.random.key(0))
    one = jnp.mean((q_values(twice, batch.observation, batch.action)[0] - batch.reward) ** 2)
    assert float(metrics["critic/loss"]) == pytest.approx(float(one), rel=1e-4)


def test_timeouts_bootstrap_and_terminals_do_not() -> None:
    """Toggling timeouts changes no bit; where all rows are terminal the target is the reward."""
    update, state, batch = setup()
    reference = update(state, batch, jax.random.key(0))[0]
    assert trees_equal(update(state, batch.replace(timeout=~batch.timeout), jax.random.key(0))[0], reference)
    _, metrics = update(state, batch.replace(terminal=jnp.ones(ROWS, bool)), jax.random.key(0))
    assert float(metrics["critic/target"]) == pytest.approx(float(batch.reward.mean()), rel=1e-5)


# --------------------------------------------------------------------------------------------------------------- acting


def test_acting_asks_one_network_once() -> None:
    """Three products of a policy with two hidden layers; fresh noise for every row, and none at `noise_scale` 0."""
    algorithm = fql.make(CONFIG, Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    _, state, _ = setup()
    params, observation = algorithm.policy(state), jnp.ones((6, OBSERVATION_DIM))
    jaxpr = str(jax.make_jaxpr(algorithm.act)(params, (), observation, jax.random.key(0)))
    assert jaxpr.count("dot_general") == 3
    drawn = np.asarray(algorithm.act(params, (), observation, jax.random.key(0))[0])
    assert len(np.unique(drawn[:, 0])) == 6
    still = fql.make(dataclasses.replace(CONFIG, act=fql.Act(noise_scale=0.0)), Spec.plain(OBSERVATION_DIM, ACTION_DIM))
    same = np.asarray(still.act(params, (), observation, jax.random.key(0))[0])
    np.testing.assert_allclose(same, np.broadcast_to(same[:1], same.shape), rtol=1e-6)


def test_published_sizes() -> None:
    """512 × 4 everywhere: 24 inputs with the time, 23 without, HalfCheetah's 17 and 6."""
    algorithm = fql.make(fql.Config(), Spec.plain(17, 6))
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hparams)

    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    hidden = 3 * (512 * 512 + 512)
    assert count(state.behavior.params) == 24 * 512 + 512 + hidden + 512 * 6 + 6
    assert count(state.policy.params) == 23 * 512 + 512 + hidden + 512 * 6 + 6
    assert count(state.critic.params) == 2 * (23 * 512 + 512 + hidden + 4 * 2 * 512 + 512 + 1)


# ------------------------------------------------------------------------------------------------------------ two modes

ALPHAS = (100.0, 2.5, 0.05)


@pytest.mark.slow
def test_two_modes_of_which_one_pays() -> None:
    """Actions -.5 and .5 alike often, reward a. Large α clones and splits by the sign of z; 2.5 moves both modes by
    d q / (2α) = .2, so that distillation comes to .04 and the transport is no longer than W_2; small α goes to the bound.
    """
    rng = np.random.default_rng(0)
    action = rng.choice([-0.5, 0.5], (4096, 1)) + 0.02 * rng.normal(size=(4096, 1))
    dataset = make_dataset(np.ones((4096, 1)), action, action[:, 0])
    config = fql.Config(learning_rate=1e-3, hidden_dims=(64, 64), critic_hidden_dims=(32, 32), num_updates=4000, batch_size=256)
    algorithm = fql.make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, sweep="alpha=" + ",".join(map(str, ALPHAS))), dataset)
    clone, moved, greedy = act(algorithm, states, jnp.ones((2000, 1)))[..., 0]
    for actions, low, high in ((clone, -0.5, 0.5), (moved, -0.3, 0.7)):
        assert np.mean(actions > (low + high) / 2) == pytest.approx(0.5, abs=0.08)
        assert np.median(actions[actions < (low + high) / 2]) == pytest.approx(low, abs=0.1)
        assert np.median(actions[actions > (low + high) / 2]) == pytest.approx(high, abs=0.1)
    assert np.mean(greedy > 0.5) > 0.95

    one = jax.tree.map(lambda leaf: leaf[1], states)
    z = jnp.linspace(-2.0, 2.0, 401)[:, None]
    network = MLP((64, 64), 1, dense=xavier_dense, activation=nn.gelu)
    mapped = np.asarray(forward(network, one.policy.params, z, jnp.ones((401, 1))))[:, 0]
    flow = np.asarray(
        fql.flow_map(lambda x, t: forward(network, one.behavior.params, x, t[:, None], jnp.ones((401, 1))), fql.flow_grid(10), z)
    )[:, 0]
    distance = np.mean((mapped - flow) ** 2)
    shortest = np.mean((np.sort(mapped) - np.sort(flow)) ** 2)
    assert distance == pytest.approx(0.04, abs=0.02)
    assert shortest <= distance < 1.3 * shortest


@pytest.mark.parametrize("name", ["num_flow_steps", "num_critics"])
def test_there_must_be_some(name: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.{name} must be at least 1"):
        validate_method(fql.Config(**{name: 0}))
