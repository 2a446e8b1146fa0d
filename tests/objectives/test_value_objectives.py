"""Expectile regression and temporal differences (IQL eq. 5 and 6)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from diffrl.objectives.value import bootstrap, expectile_loss, td_loss
from diffrl.types import Transition

GRID = (np.arange(100_000) + 0.5) / 100_000  # mid-point quantiles: expectations without sampling error
NORMAL = [(0.5, 0.0), (0.6, 0.16166), (0.7, 0.33712), (0.8, 0.54916), (0.9, 0.86159), (0.95, 1.14017)]
UNIFORM = [(tau, np.sqrt(tau) / (np.sqrt(tau) + np.sqrt(1 - tau))) for tau in (0.3, 0.5, 0.7, 0.9)]
BERNOULLI = [(tau, p, tau * p / (tau * p + (1 - tau) * (1 - p))) for tau in (0.5, 0.7, 0.9) for p in (0.1, 0.5, 0.8)]


def minimiser(samples: np.ndarray, tau: float) -> float:
    """The scalar v at which the gradient of expectile_loss(samples - v) vanishes."""
    values = jnp.asarray(samples, jnp.float32)
    slope: Callable[[jax.Array], jax.Array] = jax.jit(jax.grad(lambda v: expectile_loss(values - v, tau)))
    return brentq(lambda v: float(slope(jnp.float32(v))), -6.0, 6.0, xtol=1e-6)


@pytest.mark.parametrize(("tau", "expected"), NORMAL)
def test_expectiles_of_a_normal(tau: float, expected: float) -> None:
    assert minimiser(norm.ppf(GRID), tau) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("tau", "expected"), UNIFORM)
def test_expectiles_of_a_uniform(tau: float, expected: float) -> None:
    """√τ / (√τ + √(1 - τ)); .75 at τ = .9."""
    assert minimiser(GRID, tau) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("tau", "p", "expected"), BERNOULLI)
def test_expectiles_of_a_bernoulli(tau: float, p: float, expected: float) -> None:
    assert minimiser((p > GRID).astype(float), tau) == pytest.approx(expected, abs=1e-4)


def test_expectile_loss_weighs_the_sides() -> None:
    """mean |τ - 1{u < 0}| u²: a prediction that is too low costs τ u², one too high (1 - τ) u²."""
    assert float(expectile_loss(jnp.array([2.0]), 0.9)) == pytest.approx(3.6)
    assert float(expectile_loss(jnp.array([-2.0]), 0.9)) == pytest.approx(0.4)
    assert float(expectile_loss(jnp.array([2.0, -2.0]), 0.9)) == pytest.approx(2.0)


def batch_of(terminal: list[bool], **extras: jax.Array) -> Transition:
    """Rows whose every one is a timeout too: it must not matter."""
    n = len(terminal)
    zeros = jnp.zeros((n, 2))
    return Transition(zeros, zeros, jnp.ones(n), zeros + 7.0, jnp.array(terminal), jnp.ones(n, bool), extras)


def test_bootstrap_cuts_at_terminals_only() -> None:
    """r + γ V(s') unless terminal, even where V(s') is not finite; a timeout never cuts."""
    ahead = bootstrap(batch_of([False, True, True]), jnp.float32(0.9))
    np.testing.assert_array_equal(ahead.observation, 7.0)
    np.testing.assert_allclose(ahead.target(jnp.array([10.0, 10.0, jnp.inf])), [10.0, 1.0, 1.0])


def test_bootstrap_carries_no_gradient() -> None:
    ahead = bootstrap(batch_of([False, False]), 0.9)
    np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(ahead.target(v) ** 2))(jnp.ones(2)), 0.0)


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_bootstrap_over_several_steps(discount: float) -> None:
    """Σ_j γ^j r_j + γ^k V(s_k), of three rewards, of two before an end of the data, of one before a terminal."""
    extras = {
        "ahead_reward": jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0], [1.0, 0.0, 0.0]]),
        "ahead_steps": jnp.array([3, 2, 1]),
        "ahead_terminal": jnp.array([False, False, True]),
        "ahead_observation": jnp.full((3, 2), 5.0),
    }
    ahead = bootstrap(batch_of([False, False, True], **extras), jnp.float32(discount))
    np.testing.assert_array_equal(ahead.observation, 5.0)
    g = discount
    expected = [1.0 + 2.0 * g + 4.0 * g**2 + 10.0 * g**3, 1.0 + 2.0 * g + 10.0 * g**2, 1.0]
    np.testing.assert_allclose(ahead.target(jnp.full(3, 10.0)), expected, rtol=1e-6)


def test_td_loss_sums_critics_and_averages_the_batch() -> None:
    q, target = jnp.array([[1.0, 2.0], [0.0, 5.0]]), jnp.array([0.0, 1.0])
    assert float(td_loss(q, target)) == pytest.approx((1 + 1) / 2 + (0 + 16) / 2)
    np.testing.assert_allclose(jax.grad(td_loss)(q, target), (q - target))  # 2 (q - y) / batch of two
