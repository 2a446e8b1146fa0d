"""Expectile regression and temporal differences (IQL eq. 5 and 6; the project's IDQL card, section 8.1)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from diffrl.objectives.value import expectile_loss, td_loss, td_target

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


def test_td_target_cuts_at_terminals_only() -> None:
    """r + γ V(s') unless terminal, even where V(s') is not finite. A timeout is no argument at all: it cannot cut."""
    target = td_target(
        jnp.array([1.0, 1.0, 1.0]), jnp.array([False, True, True]), jnp.array([10.0, 10.0, jnp.inf]), jnp.float32(0.9)
    )
    np.testing.assert_allclose(target, [10.0, 1.0, 1.0])
    assert "timeout" not in td_target.__annotations__


def test_td_target_carries_no_gradient() -> None:
    gradient = jax.grad(lambda v: jnp.sum(td_target(jnp.zeros(2), jnp.zeros(2, bool), v, 0.9) ** 2))(jnp.ones(2))
    np.testing.assert_array_equal(gradient, 0.0)


def test_td_loss_sums_critics_and_averages_the_batch() -> None:
    q, target = jnp.array([[1.0, 2.0], [0.0, 5.0]]), jnp.array([0.0, 1.0])
    assert float(td_loss(q, target)) == pytest.approx((1 + 1) / 2 + (0 + 16) / 2)
    np.testing.assert_allclose(jax.grad(td_loss)(q, target), (q - target))  # 2 (q - y) / batch of two
