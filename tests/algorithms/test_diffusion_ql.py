"""Diffusion-QL: its sampler in closed form, its update against the equations written out, and where it goes on a bandit."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.flatten_util import ravel_pytree
from support import (
    act,
    assert_trees_close,
    chosen,
    far_apart,
    first_gradient,
    gaussian_epsilon,
    make_dataset,
    quick,
    quick_compilation,
    random_batch,
    runs_of,
    train_stages,
    unchecked,
)

from diffrl.algorithms import diffusion_ql
from diffrl.data.dataset import Dataset
from diffrl.diffusion.schedules import grid
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import Linear, mish
from diffrl.networks.mlp_denoiser import MLPDenoiser, sinusoidal_features
from diffrl.objectives.value import normalized_q
from diffrl.registry import make
from diffrl.types import Spec, Transition

KEY = jax.random.key(0)
MEAN, STD = 0.2, 0.3
OBSERVATION, ACTION, BATCH = 4, 2, 32
STEPS = 2  # fewer than the paper's five: they are written out in a program
SMALL = diffusion_ql.Config(hidden_dims=(16, 16), critic_hidden_dims=(16, 16), num_diffusion_steps=STEPS, num_updates=3)
NETWORK = MLPDenoiser(ACTION, (16, 16), time_features="sinusoidal", time_dims=(32, 16), dense=Linear)
CRITICS = Critics((16, 16), activation=mish)


# ------------------------------------------------------------------------------------------------------------- sampler


def table(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """β and ᾱ of the authors' "vp" schedule, as they compute it."""
    i = np.arange(1, num_steps + 1)
    beta = 1.0 - np.exp(-0.1 / num_steps - 0.5 * 9.9 * (2 * i - 1) / num_steps**2)
    return beta, np.cumprod(1.0 - beta)


def test_schedule_is_the_vp_table() -> None:
    beta, abar = table(5)
    np.testing.assert_allclose(beta, [0.195875, 0.458818, 0.635781, 0.754878, 0.835031], atol=1e-6)
    np.testing.assert_allclose(abar, [0.804125, 0.435178, 0.158500, 0.038852, 0.006409], atol=1e-6)
    np.testing.assert_allclose(grid(diffusion_ql.SCHEDULE, 5).levels.alpha[:-1] ** 2, abar[::-1], rtol=1e-5)


@pytest.mark.parametrize(("num_steps", "std"), chosen([(5, 0.14146), (10, 0.19478), (50, 0.26309), (100, 0.27852)], 0, 1))
def test_even_a_perfect_network_is_too_narrow(num_steps: int, std: float) -> None:
    """For data N(.2, .3²) and the exact noise: five steps with the posterior variance keep less than half of the spread."""
    predict = gaussian_epsilon([MEAN], STD, diffusion_ql.SCHEDULE)
    start = jax.random.normal(KEY, (50_000, 1))
    x = jax.jit(lambda: diffusion_ql.draw(predict, grid(diffusion_ql.SCHEDULE, num_steps), start, jax.random.key(1)))()
    assert float(jnp.mean(x)) == pytest.approx(MEAN, abs=0.005)
    assert float(jnp.std(x)) == pytest.approx(std, rel=0.012)


class Level(NamedTuple):
    """What one step of the authors' sampler is made of."""

    index: Any
    beta: Any
    abar: Any
    before: Any  # ᾱ of the step before

    def step(self, x: Array, epsilon: Array, noise: Array, bound: float = 1.0) -> Array:
        """From this index to the one below it."""
        x0 = jnp.clip(x / jnp.sqrt(self.abar) - jnp.sqrt(1.0 / self.abar - 1.0) * epsilon, -bound, bound)
        mean = jnp.sqrt(self.before) * self.beta * x0 + jnp.sqrt(1.0 - self.beta) * (1.0 - self.before) * x
        variance = self.beta * (1.0 - self.before) / (1.0 - self.abar)
        return mean / (1.0 - self.abar) + jnp.sqrt(variance) * noise


def levels_of(num_steps: int) -> list[Level]:
    """From noise to data."""
    beta, abar = table(num_steps)
    before = np.append(1.0, abar[:-1])
    return [Level(float(i), beta[i], abar[i], before[i]) for i in reversed(range(num_steps))]


# ------------------------------------------------------------------------------------- the gradient through the chain


TINY = MLPDenoiser(ACTION, (8,), time_features="sinusoidal", time_dims=(4, 4), dense=Linear)


def nearly_exact(params: Any, x: Array, t: Array, observation: Array) -> Array:
    """The exact noise of N(.2, .3²) and a small part that is learnt: so the predicted action stays within the box."""
    alpha, sigma = (f(t)[:, None] for f in (diffusion_ql.SCHEDULE.alpha, diffusion_ql.SCHEDULE.sigma))
    exact = sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    return exact + 0.02 * TINY.apply({"params": params}, x, 5.0 * t - 1.0, observation)  # pyright: ignore


def value(action: Array) -> Array:
    return 1.0 - (action[:, 0] - 0.5) ** 2 + 0.3 * action[:, 0] * action[:, 1]


@pytest.mark.slow
def test_gradient_through_five_steps() -> None:
    """In double precision, where no predicted action is clipped: against differences along directions, and against the sum over
    steps of ∇Q J_0 … J_{i-1} ∂x_i/∂θ, with each step's Jacobians by themselves.
    """
    with jax.enable_x64(True), quick_compilation():
        rng = np.random.default_rng(0)
        observation, start = jnp.asarray(rng.normal(size=(1, OBSERVATION))), jnp.asarray(0.5 * rng.normal(size=(1, ACTION)))
        params = quick(TINY.init)(KEY, start, jnp.zeros(1), observation)["params"]
        theta, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
        levels, key = grid(diffusion_ql.SCHEDULE, 5), jax.random.key(3)

        def action(theta: Array) -> Array:
            return diffusion_ql.draw(lambda x, t: nearly_exact(unravel(theta), x, t, observation), levels, start, key)

        @jax.jit
        def gradient_and_action(theta: Array) -> tuple[Array, Array]:
            def loss(theta: Array) -> tuple[Array, Array]:
                drawn = action(theta)
                return -normalized_q(value(drawn), 2.0 * value(drawn)), drawn

            return jax.grad(loss, has_aux=True)(theta)

        # By hand: the Jacobians of each step by themselves, with the sampler's own noise.
        @jax.jit
        def step(level: Level, x: Array, noise: Array) -> tuple[Array, tuple[Array, Array]]:
            def moved(x: Array, theta: Array) -> Array:
                epsilon = nearly_exact(unravel(theta), x, jnp.full(1, (level.index + 1.0) / 5.0), observation)
                return level.step(x, epsilon, noise, bound=jnp.inf)[0]

            return moved(x, theta)[None], jax.jacobian(moved, argnums=(0, 1))(x, theta)

        gradient, drawn = gradient_and_action(theta)
        x, product = start, np.zeros((ACTION, theta.size))
        for place, level in enumerate(levels_of(5)):
            x, (by_x, by_theta) = step(level, x, jax.random.normal(jax.random.fold_in(key, place), x.shape))
            product = np.asarray(by_x[:, 0]) @ product + np.asarray(by_theta)
        np.testing.assert_allclose(x, drawn, rtol=1e-6)  # nothing was clipped
        scale = 2.0 * float(value(drawn)[0])
        slope = np.asarray(jax.grad(lambda a: -jnp.sum(value(a)) / scale)(drawn))[0]
        np.testing.assert_allclose(gradient, slope @ product, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())

        fixed = jax.jit(lambda theta: -jnp.mean(value(action(theta))) / scale)
        for seed in range(3):
            direction = jnp.asarray(np.random.default_rng(seed).normal(size=theta.size))
            difference = (fixed(theta + 1e-5 * direction) - fixed(theta - 1e-5 * direction)) / 2e-5
            assert float(difference) == pytest.approx(float(gradient @ direction), rel=1e-6)
    assert np.abs(gradient).max() > 1e-4


# ---------------------------------------------------------------------------------------------------------- one update


def test_sizes() -> None:
    """HalfCheetah: 144,438 parameters of the noise prediction, 137,985 of each critic."""
    algorithm = diffusion_ql.make(diffusion_ql.Config(), Spec.plain(17, 6))
    state = jax.eval_shape(algorithm.init, KEY, algorithm.hparams)

    def count(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(state.policy.params) == 144_438
    assert count(state.critic.params) == 2 * 137_985
    np.testing.assert_allclose(sinusoidal_features(jnp.ones(1))[0, [7, 15]], [1.0, 1e-4], rtol=1e-5)


@cache
def untrained() -> Any:
    """A state of SMALL whose averages are far from what they are of, as NumPy arrays."""
    algorithm = diffusion_ql.make(SMALL, Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    return jax.device_get(state.replace(ema_params=other.policy.params, target_critic_params=other.critic.params))


def fresh(**hparams: float) -> Any:
    """The same with other hyper-parameters."""
    state = untrained()
    return state.replace(hparams=dataclasses.replace(state.hparams, **{name: np.float32(x) for name, x in hparams.items()}))


@cache
def batch() -> Transition:
    return random_batch(BATCH, OBSERVATION, ACTION)


def q_values(params: Any, observation: Array, action: Array) -> Array:
    return CRITICS.apply({"params": params}, observation, action)  # pyright: ignore[reportReturnType]


def chain(params: Any, observation: Array, count: int, key: Array) -> Array:
    """Actions `[count, B, A]`, by the authors' formulas from the noise that an update draws."""
    start_key, key = jax.random.split(key)
    repeated = jnp.tile(observation, (count, 1))
    x = jax.random.normal(start_key, (len(repeated), ACTION))
    for place, level in enumerate(levels_of(STEPS)):
        epsilon = jnp.asarray(NETWORK.apply({"params": params}, x, jnp.full(len(x), level.index), repeated))
        x = level.step(x, epsilon, jax.random.normal(jax.random.fold_in(key, place), x.shape))
    return x.reshape(count, len(observation), ACTION)


@cache
def update_of(max_q_backup: bool = False) -> Any:
    """Compiled once: floats are arguments."""
    config = dataclasses.replace(SMALL, max_q_backup=max_q_backup)
    return quick(diffusion_ql.make(config, Spec.plain(OBSERVATION, ACTION)).stages[0].update)


@pytest.mark.parametrize("max_q_backup", chosen([False, True], 0))
def test_update_follows_the_authors_order(max_q_backup: bool) -> None:
    """Critics towards the average's actions; the policy on the new critics, one chosen by chance; then the target critics."""
    rows, key = batch(), jax.random.key(5)
    state = fresh(critic_learning_rate=3e-2, eta=0.7, max_gradient_norm=1e6)
    after, metrics = update_of(max_q_backup)(state, rows, key)
    next_key, bc_key, chain_key, coin_key = jax.random.split(key, 4)
    one = int(jax.random.bernoulli(coin_key))

    def critic_loss(params: Any) -> Array:
        actions = chain(state.ema_params, rows.next_observation, 10 if max_q_backup else 1, next_key)
        q = jnp.stack([q_values(state.target_critic_params, rows.next_observation, action) for action in actions])
        y = rows.reward + 0.99 * (1.0 - rows.terminal) * q.max(axis=0).min(axis=0)
        online = q_values(params, rows.observation, rows.action)
        return jnp.mean((online[0] - y) ** 2) + jnp.mean((online[1] - y) ** 2)

    def policy_loss(params: Any, critic: Any) -> Array:
        time_key, noise_key = jax.random.split(bc_key)
        index = jax.random.randint(time_key, (BATCH,), 0, STEPS)
        noise, abar = jax.random.normal(noise_key, (BATCH, ACTION)), jnp.asarray(table(STEPS)[1])[index][:, None]
        noised = jnp.sqrt(abar) * rows.action + jnp.sqrt(1.0 - abar) * noise
        epsilon = NETWORK.apply({"params": params}, noised, index.astype(jnp.float32), rows.observation)
        q = q_values(critic, rows.observation, chain(params, rows.observation, 1, chain_key)[0])
        climbing = -jnp.mean(q[one]) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q[1 - one])))
        return jnp.mean((noise - epsilon) ** 2) + 0.7 * climbing

    loss, expected = quick(jax.value_and_grad(critic_loss))(state.critic.params)
    assert float(metrics["critic/loss"]) == pytest.approx(float(loss), rel=1e-3)
    assert_trees_close(first_gradient(after.critic), expected, rtol=1e-3, atol=1e-4)
    policy = quick(jax.value_and_grad(policy_loss))
    loss, expected = policy(state.policy.params, after.critic.params)
    assert float(metrics["policy/loss"]) == pytest.approx(float(loss), rel=1e-3)
    assert_trees_close(first_gradient(after.policy), expected, rtol=1e-3, atol=1e-4)
    assert far_apart(expected, policy(state.policy.params, state.critic.params)[1])  # the critics before would tell
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)


def test_each_critic_is_scaled_by_the_other() -> None:
    """With Q_1 = 2 and Q_2 = 5 the loss is -2/5 where chance takes the first and -5/2 where it takes the second; both occur."""
    state = fresh(critic_learning_rate=0.0)
    params = jax.tree.map(np.zeros_like, state.critic.params)
    (name,) = params
    params[name]["Linear_2"]["bias"] = np.array([[2.0], [5.0]], np.float32)
    state = state.replace(critic=state.critic.replace(params=params))
    found = [float(update_of()(state, batch(), jax.random.key(seed))[1]["policy/q_loss"]) for seed in range(9, 13)]
    assert {round(each, 4) for each in found} == {-0.4, -2.5}


def test_gradients_are_bounded_network_by_network() -> None:
    after, _ = update_of()(fresh(max_gradient_norm=0.01), batch(), KEY)
    for learner in (after.policy, after.critic):
        norm = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(first_gradient(learner))))
        assert norm == pytest.approx(0.01, rel=1e-3)


def test_average_waits_and_then_moves_every_fifth_update() -> None:
    """From the update number 1,000 on, counted from 0; by 0.005 of the way to the policy after its step."""
    for step, moves in ((0, False), (995, False), (999, False), (1_000, True), (1_001, False), (1_005, True)):
        state = fresh().replace(step=jnp.int32(step))
        after, _ = update_of()(state, batch(), KEY)
        rate = 0.005 if moves else 0.0
        expected = jax.tree.map(lambda a, b, rate=rate: (1.0 - rate) * a + rate * b, state.ema_params, after.policy.params)
        assert_trees_close(after.ema_params, expected, rtol=1e-6, atol=1e-7)


def test_average_is_a_branch_over_runs() -> None:
    """Mapped over runs with one counter, four of five updates do not touch the average."""
    update = diffusion_ql.make(SMALL, Spec.plain(OBSERVATION, ACTION)).stages[0].update
    states = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), fresh())

    def together(states: Any, step: Array) -> Any:
        return jax.vmap(lambda state: update(state.replace(step=step), batch(), KEY)[0])(states)

    with unchecked():
        assert "cond[" in str(jax.make_jaxpr(together)(states, jnp.int32(0)))


# -------------------------------------------------------------------------------------------------------------- acting


def test_acting_chooses_by_the_target_critics_among_actions_of_the_policy_itself() -> None:
    """Not of its average. A large β takes the best of the candidates; a single candidate is one chain."""
    spec, observation = Spec.plain(OBSERVATION, ACTION), jax.random.normal(KEY, (6, OBSERVATION))
    state, key = untrained(), jax.random.key(4)

    def chosen_of(count: int) -> Array:
        act = diffusion_ql.Act(num_candidates=count, beta=1e6)
        algorithm = diffusion_ql.make(dataclasses.replace(SMALL, act=act), spec)
        return algorithm.act(algorithm.policy(state), (), observation, key)[0]

    def expected_of(count: int) -> Array:
        drawn = chain(state.policy.params, observation, count, jax.random.split(key)[0])
        lowest = jnp.stack([q_values(state.target_critic_params, observation, action).min(axis=0) for action in drawn])
        return jnp.take_along_axis(drawn, jnp.argmax(lowest, axis=0)[None, :, None], axis=0)[0]

    for found, expected in quick(lambda: [(chosen_of(count), expected_of(count)) for count in (1, 7)])():
        np.testing.assert_allclose(found, expected, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- bandits


@pytest.mark.slow
def test_climbing_moves_the_policy_to_what_pays() -> None:
    """Actions of N(0, .3²) of which the first number is paid: with η = 1 it rises, with η = 0 it stays."""

    def drawn(eta: float) -> float:
        state = fresh(eta=eta, policy_learning_rate=1e-2, critic_learning_rate=1e-2)
        for seed in range(150):
            action = np.clip(0.3 * np.random.default_rng(seed).normal(size=(BATCH, ACTION)), -1.0, 1.0).astype(np.float32)
            paid = {"action": action, "reward": 2.0 * action[:, 0], "terminal": np.ones(BATCH, bool)}
            rows = batch().replace(**jax.tree.map(jnp.asarray, paid))  # pyright: ignore
            state, _ = update_of()(state, rows, jax.random.key(seed))
        return float(jnp.mean(quick(chain, static_argnums=2)(state.policy.params, jnp.zeros((256, OBSERVATION)), 1, KEY)[..., 0]))

    assert abs(drawn(0.0)) < 0.15
    assert drawn(1.0) > 0.4


CENTRES = np.array([[-0.8, 0.8], [-0.8, -0.8], [0.8, 0.8], [0.8, -0.8]])


def bandit() -> Dataset:
    """The paper's (its figure 1): four Gaussians at (±.8, ±.8), paid 3, 0, 1.5 and 5 on average, with deviation .5."""
    rng = np.random.default_rng(0)
    corner = rng.integers(4, size=10_000)
    action = np.clip(CENTRES[corner] + 0.05 * rng.normal(size=(10_000, 2)), -1.0, 1.0)
    reward = np.array([3.0, 0.0, 1.5, 5.0])[corner] + 0.5 * rng.normal(size=10_000)
    return make_dataset(np.zeros((10_000, 1)), action, reward)


@pytest.mark.slow
def test_the_papers_bandit() -> None:
    """A clone keeps all four corners, and with η = 1 nearly all actions go to the best."""
    config = diffusion_ql.Config(
        policy_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        hidden_dims=(64, 64),
        critic_hidden_dims=(64, 64),
        num_updates=2_000,
        batch_size=128,
        act=diffusion_ql.Act(num_candidates=1),
    )
    algorithm, runs = make(config, Spec.plain(1, 2)), runs_of(config, sweep="eta=0,1")
    actions = act(algorithm, train_stages(algorithm, runs, bandit()), jnp.zeros((1_000, 1)))
    # Of the quadrants around each centre.
    cloned, climbed = np.all(np.sign(actions[:, :, None]) == np.sign(CENTRES), axis=-1).mean(axis=1)
    assert cloned.min() > 0.15
    assert climbed[3] > 0.9
