"""ReBRAC: both penalties in closed form, its update against the equations written out, values under a penalty in a table."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import Array
from support import (
    act,
    assert_trees_close,
    chosen,
    first_gradient,
    make_dataset,
    quick,
    random_batch,
    runs_of,
    train_stages,
    trees_equal,
)

from diffrl.algorithms import rebrac
from diffrl.data.sampling import next_actions
from diffrl.learner import forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import lifted_dense, uniform_dense
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------------ penalties, exactly


def test_penalty_of_the_critics() -> None:
    """Q - β_2 ‖a' - a_next‖², summed over dimensions; nothing where the next action is unknown."""
    next_action, data_action = jnp.array([[0.5, 0.0], [0.5, 0.0]]), jnp.array([[-0.5, 0.5], [-0.5, 0.5]])
    known = jnp.array([True, False])
    value = rebrac.penalised_value(jnp.array([3.0, 3.0]), next_action, data_action, known, 0.4)
    np.testing.assert_allclose(value, [3.0 - 0.4 * 1.25, 3.0])


class Constant(nn.Module):
    """A policy of one trainable action, whatever it sees."""

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        action = self.param("action", nn.initializers.zeros, (2,))
        return jnp.broadcast_to(action, (len(observation), 2))


class Valley(nn.Module):
    """Q_1 = 2 - ‖a - c‖², c = (.6, -.4), and Q_2 above it."""

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        value = 2.0 - jnp.sum((action - jnp.array([0.6, -0.4])) ** 2, axis=-1)
        return jnp.stack([value, value + jnp.sum(action, axis=-1) + 5.0])


ROWS = 6
DATA = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (ROWS, 2)), jnp.float32)


def of_actions(action: Array) -> Transition:
    zeros = jnp.zeros((len(action), 3))
    return Transition(zeros, action, zeros[:, 0], zeros, zeros[:, 0] > 0, zeros[:, 0] > 0)


def policy_slope(action: Array, penalty: float) -> Array:
    def loss(action: Array) -> Array:
        return rebrac.policy_loss({"action": action}, Constant(), Valley(), {}, of_actions(DATA.astype(action.dtype)), penalty)

    return jax.grad(loss)(action)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 5.0])
def test_gradient_of_the_policy_against_finite_differences(penalty: float) -> None:
    """Of β_1 ‖π - a‖² - λ min Q with λ = 1 / mean |min Q| held fixed."""
    with jax.enable_x64(True):
        data, action = np.asarray(DATA, np.float64), jnp.array([0.2, 0.1])

        def lowest(action: np.ndarray) -> float:
            return 2.0 - np.sum((action - np.array([0.6, -0.4])) ** 2)

        scale = 1.0 / abs(lowest(np.asarray(action)))

        def loss(action: np.ndarray) -> float:
            return penalty * np.mean(np.sum((action - data) ** 2, axis=1)) - scale * lowest(action)

        difference = scipy.optimize.approx_fprime(np.asarray(action), loss, 1e-7)
        np.testing.assert_allclose(policy_slope(action, penalty), difference, atol=1e-6)


def rest(mean: np.ndarray, penalty: float) -> float:
    """s at which the policy c + s (m - c) rests: the pull 2 β_1 (π - m) and the value's 2 λ (π - c), λ = 1 / (2 - s² D²), cancel.

    (1 - s) (2 - s² D²) β_1 = s with D = ‖m - c‖; s = 1 is cloning.
    """
    squared = np.sum((mean - np.array([0.6, -0.4])) ** 2)
    return scipy.optimize.brentq(lambda s: penalty * (1 - s) * (2 - s**2 * squared) - s, 0, 1)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_where_the_policy_rests(penalty: float) -> None:
    mean, centre = np.asarray(DATA).mean(axis=0), np.array([0.6, -0.4])
    action = centre + rest(mean, penalty) * (mean - centre)
    np.testing.assert_allclose(policy_slope(jnp.asarray(action, jnp.float32), penalty), 0.0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION, ACTION, BATCH = 4, 2, 8
CONFIG = rebrac.Config(
    hidden_dims=(16, 16), critic_hidden_dims=(12, 12), policy_learning_rate=3e-2, critic_learning_rate=3e-2, critic_penalty=0.5
)


@cache
def setup(networks: str = "paper") -> tuple[Any, Any, Transition]:
    """Jitted update, a fresh state whose targets are far from the networks, and a batch."""
    algorithm = rebrac.make(dataclasses.replace(CONFIG, networks=networks), Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params, target_policy_params=other.policy.params)
    extras = {
        "next_action": jax.random.uniform(jax.random.key(3), (BATCH, ACTION), minval=-1.0),
        "next_action_known": jnp.arange(BATCH) % 4 != 1,
    }
    batch = dataclasses.replace(random_batch(BATCH, OBSERVATION, ACTION), extras=extras)
    return quick(algorithm.stages[0].update), state, batch


def changed(state: Any, **hparams: float) -> Any:
    """The state with other hyper-parameters."""
    values = {name: jnp.float32(value) for name, value in hparams.items()}
    return state.replace(hparams=dataclasses.replace(state.hparams, **values))


def written_out(params: Any, x: Array, activation: Any, layer_norm: bool) -> Array:
    """Dense, activation, LayerNorm, twice; then dense."""
    for layer in range(2):
        x = activation(x @ params[f"Dense_{layer}"]["kernel"] + params[f"Dense_{layer}"]["bias"])
        if layer_norm:
            centred = x - x.mean(axis=-1, keepdims=True)
            x = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
            x = x * params[f"LayerNorm_{layer}"]["scale"] + params[f"LayerNorm_{layer}"]["bias"]
    return x @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]


ACTIVATIONS = {"paper": nn.relu, "ogbench": nn.gelu}


def pi(params: Any, observation: Array, networks: str) -> Array:
    return jnp.tanh(written_out(params, observation, ACTIVATIONS[networks], layer_norm=False))


def q_values(params: Any, observation: Array, action: Array, networks: str) -> Array:
    (stacked,) = params.values()
    inputs = jnp.concatenate([action, observation], axis=-1)
    members = [jax.tree.map(lambda leaf, k=k: leaf[k], stacked) for k in range(2)]
    return jnp.stack([written_out(member, inputs, ACTIVATIONS[networks], layer_norm=True)[:, 0] for member in members])


@pytest.mark.parametrize("networks", chosen(["paper", "ogbench"], 0))
def test_update_written_out(networks: str) -> None:
    """Critics on r + γ (min Q'(s', a') - β_2 ‖a' - a_next‖²), a' smoothed; the policy by the new critics; then both targets."""
    update, state, batch = setup(networks)
    key = jax.random.key(5)
    after, metrics = update(state.replace(step=jnp.int32(1)), batch, key)
    noise = jnp.clip(0.2 * jax.random.normal(key, (BATCH, ACTION)), -0.5, 0.5)
    next_action = jnp.clip(pi(state.target_policy_params, batch.next_observation, networks) + noise, -1.0, 1.0)
    distance = jnp.sum((next_action - batch.extras["next_action"]) ** 2, axis=-1)
    next_q = jnp.min(q_values(state.target_critic_params, batch.next_observation, next_action, networks), axis=0)
    value = next_q - 0.5 * jnp.where(batch.timeout, 0.0, distance)
    target = batch.reward + 0.99 * (1.0 - batch.terminal) * value

    def critic_loss(params: Any) -> Array:
        q = q_values(params, batch.observation, batch.action, networks)
        return jnp.mean((q[0] - target) ** 2) + jnp.mean((q[1] - target) ** 2)

    def policy_loss(params: Any) -> Array:
        action = pi(params, batch.observation, networks)
        q = jnp.min(q_values(after.critic.params, batch.observation, action, networks), axis=0)
        weight = 1.0 / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
        return jnp.mean(0.01 * jnp.sum((action - batch.action) ** 2, axis=-1) - weight * q)

    assert float(metrics["critic/target"]) == pytest.approx(float(target.mean()), rel=1e-4)
    assert_trees_close(first_gradient(after.critic), quick(jax.grad(critic_loss))(state.critic.params), rtol=1e-3, atol=1e-5)
    assert_trees_close(first_gradient(after.policy), quick(jax.grad(policy_loss))(state.policy.params), rtol=1e-3, atol=1e-5)
    for name, learner in (("target_policy_params", after.policy), ("target_critic_params", after.critic)):
        average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, getattr(state, name), learner.params)
        assert_trees_close(getattr(after, name), average)


def test_penalties_are_apart() -> None:
    """β_2 lowers the target by γ β_2 ‖a' - a_next‖² and leaves the policy's gradient to the critics; β_1 touches no critic."""
    update, state, batch = setup()
    key, due = jax.random.key(5), state.replace(step=jnp.int32(1))
    targets = [float(update(changed(due, critic_penalty=b), batch, key)[1]["critic/target"]) for b in (0.0, 0.5, 1.0)]
    assert targets[0] > targets[1] > targets[2]
    assert targets[0] - targets[1] == pytest.approx(targets[1] - targets[2], rel=1e-3)
    one, other = (update(changed(due, policy_penalty=b), batch, key)[0] for b in (0.0, 1.0))
    assert trees_equal(one.critic, other.critic)
    assert not trees_equal(one.policy, other.policy)


def test_policy_and_targets_move_every_second_update() -> None:
    update, state, batch = setup()
    for t in range(4):
        before, (state, _) = state, update(state.replace(step=jnp.int32(t)), batch, jax.random.key(t))
        assert not trees_equal(before.critic.params, state.critic.params)
        for name in ("policy", "target_policy_params", "target_critic_params"):
            assert trees_equal(getattr(before, name), getattr(state, name)) != (t % 2 == 1), (t, name)


def test_networks_start_near_zero() -> None:
    """The paper's: biases of 0.1 inside, ±1e-3 and ±3e-3 at the ends; the benchmark's: no bias, a tenth of Xavier's weights."""
    for networks, bound, bias in (("paper", 1e-3, 0.1), ("ogbench", (0.03 / 9) ** 0.5, 0.0)):
        _, state, _ = setup(networks)
        inner, last = state.policy.params["Dense_0"], state.policy.params["Dense_2"]
        np.testing.assert_allclose(inner["bias"], bias)
        size = float(jnp.max(jnp.abs(last["kernel"])))
        assert 0.8 * bound < size <= bound
    (stacked,) = setup("paper")[1].critic.params.values()
    assert 0.8 * 3e-3 < float(jnp.max(jnp.abs(stacked["Dense_2"]["kernel"]))) <= 3e-3


# --------------------------------------------------------------------------------------------------- values and policies

LENGTH, DISCOUNT = 4, 0.9


@pytest.mark.slow
def test_values_of_a_table() -> None:
    """Four states in a line, -1 a step, under a policy that says 0 and never learns; episodes of one action throughout.

    Those of 0 end in a terminal: Q(s, 0) = -(1 - γⁿ)/(1 - γ), n steps from it. Those of b = (.6, -.8) pay γ β_2 ‖b‖² = γ β_2 more
    in each step but the last, where time ends them and the state is the first again: their next action is unknown. With that of
    the episode behind, which for two of three is b, that step would cost 0.3 more.
    """
    other = (0.6, -0.8)
    episodes = [(0.0, 0.0), other, other, other, (0.0, 0.0)]
    state, action = np.tile(np.arange(LENGTH), len(episodes)), np.repeat(episodes, LENGTH, axis=0)
    last, rest = state == LENGTH - 1, action[:, 0] == 0.0
    eye, n = np.eye(LENGTH), len(state)
    dataset = make_dataset(eye[state], action, -np.ones(n), eye[(state + 1) % LENGTH], last & rest, last & ~rest)
    config = rebrac.Config(
        hidden_dims=(8,),
        critic_hidden_dims=(64,),
        policy_learning_rate=0.0,
        critic_learning_rate=3e-3,
        discount=DISCOUNT,
        tau=0.1,
        policy_noise=0.0,
        num_updates=1500,
        batch_size=32,
    )
    algorithm = rebrac.make(config, Spec.plain(LENGTH, 2))
    states = train_stages(algorithm, runs_of(config, sweep="critic_penalty=0.0,0.5"), dataset)
    critics = Critics((64,), dense=lifted_dense, layer_norm="after", output_dense=uniform_dense(3e-3))

    @quick
    def q(params: Any, action: Array) -> Array:
        return jnp.mean(forward(critics, params, jnp.eye(LENGTH), jnp.broadcast_to(action, (LENGTH, 2))), axis=0)

    at_rest = -(1.0 - DISCOUNT ** np.arange(LENGTH, 0, -1)) / (1.0 - DISCOUNT)
    for run, penalty in enumerate((0.0, 0.5)):
        params = jax.tree.map(lambda leaf, run=run: leaf[run], states.critic.params)
        np.testing.assert_allclose(q(params, jnp.zeros(2)), at_rest, atol=0.06)
        lowered = penalty * (np.arange(LENGTH) < LENGTH - 1)
        np.testing.assert_allclose(q(params, jnp.array(other)), -1.0 + DISCOUNT * (np.roll(at_rest, -1) - lowered), atol=0.06)


PENALTIES = (0.1, 1.0, 10.0)


@pytest.mark.slow
def test_a_bandit_with_a_known_optimum() -> None:
    """One state, actions uniform in the square with mean m, reward 2 - ‖a - c‖²: the policy rests at c + s (m - c)."""
    centre = np.array([0.6, -0.4])
    action = np.random.default_rng(0).uniform(-1, 1, (4096, 2))
    dataset = make_dataset(np.ones((4096, 1)), action, 2.0 - np.sum((action - centre) ** 2, axis=1))
    mean = action.mean(axis=0)
    shares = [rest(mean, penalty) for penalty in PENALTIES]
    assert shares[0] < 0.2 < 0.5 < shares[1] < 0.7 < 0.9 < shares[2]
    config = rebrac.Config(
        policy_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        tau=0.05,
        hidden_dims=(32, 32),
        critic_hidden_dims=(32, 32),
        num_updates=1500,
        batch_size=128,
    )
    runs = runs_of(config, sweep="policy_penalty=" + ",".join(map(str, PENALTIES)))
    algorithm = rebrac.make(config, Spec.plain(1, 2))
    found = act(algorithm, train_stages(algorithm, runs, dataset), jnp.ones((1, 1)))[:, 0]
    np.testing.assert_allclose(found, centre + np.outer(shares, mean - centre), atol=0.08)


def test_stage_draws_next_actions() -> None:
    """Which stop at the ends of episodes (`tests/data/test_sampling.py`)."""
    (stage,) = rebrac.make(CONFIG, Spec.plain(OBSERVATION, ACTION)).stages
    assert stage.batch is next_actions
