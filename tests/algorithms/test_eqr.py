"""EQR: quantiles of the value over a posterior of models, against that posterior; what chance and what ignorance leave."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import make_dataset, quick, runs_of, train_stages

from diffrl.algorithms import eqr
from diffrl.models.dynamics import Dynamics, Model
from diffrl.objectives.quantile import midpoints, quantile_loss
from diffrl.registry import make
from diffrl.types import Spec

KEY = jax.random.key(0)
GAMMA, QUANTILES, SIZE = 0.99, 10, 4


def chain(a: Any, beta: Any) -> tuple[jax.Array, jax.Array]:
    """The card's process of four states: its transition matrix and rewards."""
    zero, one = jnp.zeros_like(a), jnp.ones_like(a)
    rows = [[zero, 1 - a, a, zero], [zero, zero, zero, one], [beta * one, zero, zero, (1 - beta) * one], [zero, zero, zero, one]]
    return jnp.stack([jnp.stack(row) for row in rows]), jnp.array([0.0, 1.0, -1.0, 0.0])


def learnt(draw: Any, beta: float, iterations: int = 10_000, rate: float = 5e-3) -> Any:
    """Quantiles of the four values `[4, M]` by `epistemic_targets` of one model an iteration, drawn from the posterior.

    Every state follows every state; its weight is four times its probability, so that the mean over draws is the expectation.
    """

    def step(quantiles: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        p, reward = chain(draw(jax.random.fold_in(KEY, i)), beta)

        def loss(quantiles: jax.Array) -> jax.Array:
            following = jnp.broadcast_to(quantiles[:, None, None, :], (SIZE, 1, SIZE, QUANTILES))  # [S, K, B, M]
            rewards = jnp.broadcast_to(reward, (SIZE, 1, SIZE))
            weight = GAMMA * SIZE * p.T[:, None]
            target = eqr.epistemic_targets(rewards, weight, following[None], jnp.zeros((1, SIZE, 1, SIZE)))
            return jnp.sum(quantile_loss(quantiles, target, 1e-3))

        return quantiles - rate * jnp.minimum(1.0, 4.0 * (1.0 - i / iterations)) * jax.grad(loss)(quantiles), None

    return jax.lax.scan(step, jnp.zeros((SIZE, QUANTILES)), jnp.arange(iterations))[0]


def truth(a: np.ndarray, beta: float) -> np.ndarray:
    """V(0) of each model of the posterior, in closed form, at the M levels."""
    values = GAMMA * (1 - 2 * a) / (1 - GAMMA**2 * a * beta)
    return np.quantile(values, (np.arange(QUANTILES) + 0.5) / QUANTILES)


@pytest.mark.parametrize(
    ("mean", "beta", "low", "high"), [(0.5, 0.0, 0.0, 0.01), (0.5, 0.5, 0.035, 0.055), (0.5, 0.9, 0.1, 0.13)]
)
def test_quantiles_are_those_of_the_posterior(mean: float, beta: float, low: float, high: float) -> None:
    """W_1 of V(0) to the truth: that of the card, .005 without a cycle; with one it is biased, by .046 and .117."""
    draw = lambda key: 0.5 + 0.1 * jax.random.normal(key)  # noqa: E731
    found = np.asarray(quick(lambda: learnt(draw, beta))())
    a = 0.5 + 0.1 * np.random.default_rng(0).normal(size=200_000)
    exact = truth(a, beta)
    if beta == 0.0:
        np.testing.assert_allclose(exact[5:], [0.0249, 0.0763, 0.1335, 0.2052, 0.3257], atol=3e-3)
    distance = np.abs(np.sort(found[0]) - exact).mean()
    assert low <= distance < high
    # Nothing is unknown of what state 1 and the absorbing one are worth: their quantiles coincide.
    np.testing.assert_allclose(found[[1, 3]], np.broadcast_to([[1.0], [0.0]], (2, QUANTILES)), atol=0.02)


def test_posterior_of_a_cycle_in_closed_form() -> None:
    """The figure's case, a ~ N(.4, .1), β = .9: the oracle that the bias is measured by. The card's numbers are of a small
    sample: its median is .300, that of a = .4 is .306.
    """
    a = 0.4 + 0.1 * np.random.default_rng(0).normal(size=400_000)
    values = GAMMA * (1 - 2 * a) / (1 - GAMMA**2 * a * 0.9)
    assert np.median(values) == pytest.approx(0.198 / (1 - GAMMA**2 * 0.36), abs=1e-3)
    np.testing.assert_allclose([values.mean(), values.std()], [0.263, 0.285], atol=6e-3)
    np.testing.assert_allclose(np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9]), [-0.097, 0.101, 0.3, 0.464, 0.59], atol=1e-2)
    chains = [chain(jnp.float32(x), 0.9) for x in a[:20]]
    exact = [np.linalg.solve(np.eye(4) - GAMMA * np.asarray(p), np.asarray(reward))[0] for p, reward in chains]
    np.testing.assert_allclose(exact, values[:20], atol=1e-5)


def test_known_model_leaves_no_spread() -> None:
    found = np.asarray(quick(lambda: learnt(lambda key: jnp.float32(0.3), 0.5, 4_000, 2e-2))())
    exact = np.linalg.solve(np.eye(4) - GAMMA * np.asarray(chain(jnp.float32(0.3), 0.5)[0]), [0.0, 1.0, -1.0, 0.0])
    np.testing.assert_allclose(found, np.broadcast_to(exact[:, None], found.shape), atol=0.02)


def test_quantile_loss_finds_quantiles_and_wide_ones_expectiles() -> None:
    """Of a fixed sample: the empirical quantiles where κ is small, and for κ beyond all errors Σ |τ - 1{δ<0}| δ = 0."""
    sample = np.random.default_rng(0).exponential(size=101)
    target = jnp.asarray(sample, jnp.float32)

    def fitted(width: jax.Array, rate: jax.Array) -> jax.Array:
        def step(q: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return q - rate * (1.0 - i / 3_000) * jax.grad(lambda q: quantile_loss(q, target, width))(q), None

        return jax.lax.scan(step, jnp.ones(5), jnp.arange(3_000))[0]

    narrow, wide = quick(jax.vmap(fitted))(jnp.array([1e-3, 100.0]), jnp.array([0.02, 10.0]))
    levels = np.asarray(midpoints(5))
    np.testing.assert_allclose(levels, [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-6)
    np.testing.assert_allclose(narrow, np.quantile(sample, levels), atol=0.03)
    error = sample - np.asarray(wide)[:, None]
    np.testing.assert_allclose(np.mean(np.abs(levels[:, None] - (error < 0)) * error, axis=1), 0.0, atol=1e-3)
    # By hand: levels ¼ and ¾ of 0 and 2 against 1, κ = .5: |1| - .25 times ¼ above and ¼ below.
    assert float(quantile_loss(jnp.array([0.0, 2.0]), jnp.array([1.0]), 0.5)) == pytest.approx(0.75 * 0.25 * 2)


def test_utilities() -> None:
    q = jnp.array([[1.0, 2.0, 6.0]])
    deviation = np.std([1, 2, 6], ddof=1)
    assert float(eqr.utility_of(q, "mean", 1.0, 0.5)[0]) == pytest.approx(3.0)
    assert float(eqr.utility_of(q, "spread", 1.0, 0.5)[0]) == pytest.approx(3.0 + deviation, rel=1e-5)
    assert float(eqr.utility_of(q, "spread", -2.0, 0.5)[0]) == pytest.approx(3.0 - 2 * deviation, rel=1e-5)
    assert [float(eqr.utility_of(q, "quantile", 1.0, level)[0]) for level in (0.0, 0.16, 0.5, 0.9, 1.0)] == [1, 1, 2, 6, 6]
    assert np.isfinite(jax.grad(lambda q: eqr.spread(q))(jnp.ones(3))).all()
    with pytest.raises(ValueError, match="num_quantiles to 2 or more"):
        eqr.make(eqr.Config(utility="spread", num_quantiles=1), Spec.plain(2, 1))


def test_chance_is_averaged_out_within_members_and_ignorance_is_not() -> None:
    """Targets at an end, so that they are rewards alone: of S draws of one noisy member the deviation is σ / √S; two members
    without noise, ±1 apart, stay two. Target of single draws hold all of the chance.
    """
    rng = np.random.default_rng(0)
    zero, none = jnp.zeros((1, 400, 1, 64)), jnp.zeros((1, 400, 1, 64, 3))
    noisy = jnp.asarray(rng.normal(size=(400, 1, 64)), jnp.float32)
    averaged = np.asarray(eqr.epistemic_targets(noisy, jnp.zeros_like(noisy), none, zero))
    assert averaged.shape == (64, 3)
    assert averaged.std() == pytest.approx(1 / 20, rel=0.3)
    alone = np.asarray(eqr.epistemic_targets(noisy[:1], jnp.zeros((1, 1, 64)), none[:, :1], zero[:, :1]))
    assert alone.std() == pytest.approx(1.0, rel=0.2)
    two = jnp.broadcast_to(jnp.array([-1.0, 1.0])[None, :, None], (5, 2, 64))
    found = eqr.epistemic_targets(two, jnp.zeros_like(two), jnp.zeros((4, 5, 2, 64, 3)), jnp.zeros((4, 5, 2, 64)))
    np.testing.assert_array_equal(found, np.tile([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], (64, 1)))


def test_targets_of_a_model_in_closed_form() -> None:
    """Members that say 0 and are sure of it: s' = s + mean, r = mean; q̄_j = j, a' = .5, log π = -2, going on with σ(4)."""
    dynamics = Dynamics(2, 1, (4,))
    fresh = Model.init(dynamics, eqr.optax.sgd(0.0), KEY, Spec.plain(1, 1))
    params = jax.tree.map(jnp.zeros_like, fresh.learner.params)
    units = dataclasses.replace(fresh.units, output_mean=jnp.array([0.3, 2.0]), output_scale=jnp.full(2, 1e-6))

    class Critic(eqr.nn.Module):
        def __call__(self, action: jax.Array, observation: jax.Array) -> jax.Array:
            return jnp.arange(3.0) + observation + action

    choose = lambda s, key: (jnp.full((len(s), 1), 0.5), jnp.full(len(s), -2.0))  # noqa: E731
    given = (dynamics, params, units, Critic(), {}, choose, jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1)), 0.9, 0.1, 3, 2, KEY)
    found = eqr.imagined_targets(*given)
    going = 0.9 / (1 + np.exp(-4.0))
    expected = 2.0 + going * (np.arange(3.0) + np.array([[1.3], [2.3]]) + 0.5 + 0.2)
    np.testing.assert_allclose(found, np.tile(expected, 2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 2])
def test_policy_finds_the_rewarded_action(length: int) -> None:
    """A bandit that pays -(a - .4)², offline and by rollouts, shunning the spread."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (4_096, 1))
    data = make_dataset(rng.normal(size=(4_096, 1)), action, -((action[:, 0] - 0.4) ** 2))
    config = eqr.Config(
        utility="spread", optimism=-1.0, num_quantiles=5, rollout_length=length, num_next=2, num_next_actions=1,
        policy_hidden_dims=(32, 32), critic_hidden_dims=(32, 32), model_hidden_dims=(32, 32), num_models=3,
    )  # fmt: skip
    config = dataclasses.replace(config, learning_rate=3e-3, model_learning_rate=3e-3, tau=0.05, huber_width=0.01)
    updates = 4_000 if length else 1_000  # states of rollouts are few at first
    config = dataclasses.replace(config, num_updates=updates, batch_size=128, initial_entropy_weight=1e-2)
    algorithm = make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, 2), data)
    for run in range(2):
        policy = algorithm.policy(jax.tree.map(lambda x: x[run], states))  # noqa: B023
        np.testing.assert_allclose(algorithm.act(policy, (), jnp.zeros((1, 1)), KEY)[0], 0.4, atol=0.15)
