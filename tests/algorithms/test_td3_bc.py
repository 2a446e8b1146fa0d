"""TD3+BC: its update against the paper's equations written out, and a bandit whose optimum is known."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from support import act, assert_trees_close, first_gradient, make_dataset, quick, runs_of, train_stages, trees_equal

from diffrl.algorithms import td3_bc
from diffrl.networks.mlp import MLP
from diffrl.types import Spec, Transition

OBSERVATION, ACTION, BATCH = 4, 2, 8
CONFIG = td3_bc.Config(hidden_dims=(16, 16), learning_rate=3e-2)
POLICY, CRITIC = MLP((16, 16), ACTION, output_activation=jnp.tanh), MLP((16, 16), 1)


@cache
def setup() -> tuple[Any, Any, Transition]:
    """Jitted update, a fresh state whose targets are far from the networks, and a batch."""
    algorithm = td3_bc.make(CONFIG, Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params, target_policy_params=other.policy.params)
    keys = jax.random.split(jax.random.key(2), 4)
    batch = Transition(
        observation=jax.random.normal(keys[0], (BATCH, OBSERVATION)),
        action=jax.random.uniform(keys[1], (BATCH, ACTION), minval=-1.0),
        reward=jax.random.normal(keys[2], (BATCH,)),
        next_observation=jax.random.normal(keys[3], (BATCH, OBSERVATION)),
        terminal=jnp.arange(BATCH) % 3 == 0,
        timeout=jnp.arange(BATCH) % 4 == 1,
    )
    return quick(algorithm.stages[0].update), state, batch


def due(state: Any) -> Any:
    """A state whose next update also improves the policy."""
    return state.replace(step=jnp.int32(1))


def changed(state: Any, **hparams: float) -> Any:
    """The state with other hyper-parameters."""
    values = {name: jnp.float32(value) for name, value in hparams.items()}
    return state.replace(hparams=dataclasses.replace(state.hparams, **values))


def pi(params: Any, observation: jax.Array) -> jax.Array:
    return POLICY.apply({"params": params}, observation)


def q_values(params: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
    """`[2, B]`, from two separate networks."""
    (stacked,) = params.values()
    inputs = jnp.concatenate([action, observation], axis=-1)
    return jnp.stack([CRITIC.apply({"params": jax.tree.map(lambda x, k=k: x[k], stacked)}, inputs)[:, 0] for k in range(2)])


def policy_loss(params: Any, critic: Any, batch: Transition, alpha: float) -> jax.Array:
    """Eq. 5 with λ a number: -λ Q_1(s, π(s)) + (π(s) - a)², the square's mean over action dimensions too, as in the code."""
    weight = alpha / np.abs(q_values(critic, batch.observation, pi(params, batch.observation))[0]).mean()

    def loss(params: Any) -> jax.Array:
        action = pi(params, batch.observation)
        return jnp.mean((action - batch.action) ** 2) - weight * jnp.mean(q_values(critic, batch.observation, action)[0])

    return jax.grad(loss)(params)


def test_critics_regress_on_the_smoothed_target() -> None:
    """y = r + γ (1 - terminal) min_k Q'_k(s', clip(π'(s') + clip(ε))): here ε is so wide that its clip is all of it."""
    update, state, batch = setup()
    key = jax.random.key(5)
    after, metrics = update(changed(state, policy_noise=1e6, noise_clip=0.9), batch, key)
    noise = 0.9 * jnp.sign(jax.random.normal(key, (BATCH, ACTION)))
    action = jnp.clip(pi(state.target_policy_params, batch.next_observation) + noise, -1.0, 1.0)
    assert np.any(np.abs(action) == 1.0)
    target = batch.reward + 0.99 * (1.0 - batch.terminal) * jnp.min(
        q_values(state.target_critic_params, batch.next_observation, action), axis=0
    )

    def critic_loss(params: Any) -> jax.Array:
        q = q_values(params, batch.observation, batch.action)
        return jnp.mean((q[0] - target) ** 2) + jnp.mean((q[1] - target) ** 2)

    loss, gradient = quick(jax.value_and_grad(critic_loss))(state.critic.params)
    assert float(metrics["critic/loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert_trees_close(first_gradient(after.critic), gradient, rtol=1e-3, atol=1e-5)


def test_noise_is_scaled_before_it_is_clipped() -> None:
    """With deviation .2 the noise is .2 ε; without any, two keys give the same update."""
    update, state, batch = setup()
    plain = [update(changed(state, policy_noise=0.0), batch, jax.random.key(seed))[0] for seed in (1, 2)]
    assert trees_equal(*plain)
    key = jax.random.key(7)
    noise = jnp.clip(0.2 * jax.random.normal(key, (BATCH, ACTION)), -0.5, 0.5)
    action = jnp.clip(pi(state.target_policy_params, batch.next_observation) + noise, -1.0, 1.0)
    next_q = jnp.min(q_values(state.target_critic_params, batch.next_observation, action), axis=0)
    target = batch.reward + 0.99 * (1.0 - batch.terminal) * next_q
    assert float(update(state, batch, key)[1]["critic/target"]) == pytest.approx(float(target.mean()), rel=1e-4)


def test_policy_and_targets_move_every_second_update() -> None:
    """After updates 2 and 4, by the updated critics; after 1, 3 and 5 they are bit-equal to before; the critics always move."""
    update, state, batch = setup()
    for t in range(5):
        before, (state, _) = state, update(state.replace(step=jnp.int32(t)), batch, jax.random.key(t))
        moved = t % 2 == 1
        assert not trees_equal(before.critic.params, state.critic.params)
        for name in ("policy", "target_policy_params", "target_critic_params"):
            assert trees_equal(getattr(before, name), getattr(state, name)) != moved, (t, name)
        if t == 1:
            gradient = policy_loss(before.policy.params, state.critic.params, batch, 2.5)
            assert_trees_close(first_gradient(state.policy), gradient, rtol=1e-3, atol=1e-4)
        if moved:
            for name, learner in (("target_policy_params", state.policy), ("target_critic_params", state.critic)):
                average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, getattr(before, name), learner.params)
                assert_trees_close(getattr(state, name), average)


def test_runs_branch_together_and_as_each_alone() -> None:
    """Mapped over runs with one counter the delay stays a branch, whose result is each run's own."""
    update, state, batch = setup()
    other = changed(state, alpha=0.3, learning_rate=1e-2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other)
    raw = td3_bc.make(CONFIG, Spec.plain(OBSERVATION, ACTION)).stages[0].update

    def both(states: Any, step: jax.Array, key: jax.Array) -> Any:
        return jax.vmap(lambda state: raw(state.replace(step=step), batch, key)[0])(states)

    assert "cond[" in str(jax.make_jaxpr(both)(stacked, jnp.int32(0), jax.random.key(0)))
    together = quick(both)
    for t in range(4):
        stacked = together(stacked, jnp.int32(t), jax.random.key(t))
        state, other = (update(each.replace(step=jnp.int32(t)), batch, jax.random.key(t))[0] for each in (state, other))
    for run, alone in enumerate((state, other)):
        assert_trees_close(jax.tree.map(lambda x, run=run: x[run], stacked), alone, rtol=1e-3, atol=1e-4)


def test_the_scale_of_rewards_does_not_matter() -> None:
    """λ = α / mean |Q|: a thousand times larger values give the same policy gradient."""
    update, state, batch = setup()
    state = changed(due(state), learning_rate=0.0)  # the critics stay as they are
    (name,) = state.critic.params
    stacked = state.critic.params[name]
    last = sorted(stacked)[-1]
    larger = {name: stacked | {last: jax.tree.map(lambda x: 1000.0 * x, stacked[last])}}
    gradients = [
        first_gradient(update(state.replace(critic=state.critic.replace(params=params)), batch, jax.random.key(0))[0].policy)
        for params in (state.critic.params, larger)
    ]
    ratio = q_values(larger, batch.observation, batch.action) / q_values(state.critic.params, batch.observation, batch.action)
    np.testing.assert_allclose(ratio, 1000.0, rtol=1e-3)
    assert_trees_close(*gradients, rtol=1e-3, atol=1e-6)


def test_without_values_it_clones() -> None:
    """α = 0: the policy's gradient is that of the squared error alone; α = 2.5 gives another."""
    update, state, batch = setup()

    def cloning(params: Any) -> jax.Array:
        return jnp.mean((pi(params, batch.observation) - batch.action) ** 2)

    gradient = jax.grad(cloning)(state.policy.params)
    after, _ = update(changed(due(state), alpha=0.0), batch, jax.random.key(0))
    assert_trees_close(first_gradient(after.policy), gradient, rtol=1e-3, atol=1e-6)
    usual = first_gradient(update(due(state), batch, jax.random.key(0))[0].policy)
    assert max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (usual, gradient)), strict=True)) > 1e-2


def test_timeouts_bootstrap_and_terminals_do_not() -> None:
    """Toggling timeouts changes no bit; where all rows are terminal the target is the reward."""
    update, state, batch = setup()
    reference = update(state, batch, jax.random.key(0))[0]
    assert trees_equal(update(state, batch.replace(timeout=~batch.timeout), jax.random.key(0))[0], reference)
    _, metrics = update(state, batch.replace(terminal=jnp.ones(BATCH, bool)), jax.random.key(0))
    assert float(metrics["critic/target"]) == pytest.approx(float(batch.reward.mean()), rel=1e-5)


ALPHAS = (0.5, 2.5, 10.0)


@pytest.mark.slow
def test_a_bandit_with_a_known_optimum() -> None:
    """One state, actions uniform in the square with mean m, reward 2 - ‖a - c‖².

    On the line from c to m the policy rests at c + s (m - c), where cloning's pull 2 (π - m) / A and the value's
    2 λ (π - c), λ = α / (2 - ‖π - c‖²), cancel: (1 - s) (2 - s² D²) = A α s with D = ‖m - c‖. s = 1 is cloning.
    """
    centre = np.array([0.6, -0.4])
    action = np.random.default_rng(0).uniform(-1, 1, (4096, 2))
    dataset = make_dataset(np.ones((4096, 1)), action, 2.0 - np.sum((action - centre) ** 2, axis=1))
    mean = action.mean(axis=0)
    distance = np.sum((mean - centre) ** 2)
    shares = [
        scipy.optimize.brentq(lambda s, alpha=alpha: (1 - s) * (2 - s**2 * distance) - 2 * alpha * s, 0, 1) for alpha in ALPHAS
    ]
    assert shares[0] > 0.6 > 0.3 > shares[1] > 0.25 > 0.1 > shares[2]

    config = td3_bc.Config(learning_rate=3e-3, tau=0.05, hidden_dims=(32, 32), num_updates=1500, batch_size=128)
    runs = runs_of(config, sweep="alpha=" + ",".join(map(str, ALPHAS)))
    algorithm = td3_bc.make(config, Spec.plain(1, 2))
    found = act(algorithm, train_stages(algorithm, runs, dataset), jnp.ones((1, 1)))[:, 0]
    np.testing.assert_allclose(found, centre + np.outer(shares, mean - centre), atol=0.08)
