"""Losses of V and the weights that are theirs (generalised implicit Q-learning, theorem 4.1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from diffrl.objectives.weightings import IMPLICIT, ImplicitName, expectile_weight, linex_weight, quantile_weight

GRID = (np.arange(100_000) + 0.5) / 100_000  # mid-point quantiles: expectations without sampling error
NORMAL = norm.ppf(GRID)


@dataclasses.dataclass(frozen=True)
class HParams:
    expectile: float = 0.7
    beta: float = 1.0


def value(name: ImplicitName, q: np.ndarray, **hparams: float) -> float:
    """The scalar V at which the gradient of the loss vanishes."""
    values, given = jnp.asarray(q, jnp.float32), HParams(**hparams)
    slope = jax.jit(jax.grad(lambda v: IMPLICIT[name].value_loss(values - v, given)))
    return brentq(lambda v: float(slope(jnp.float32(v))), -6.0, 6.0, xtol=1e-7)


@pytest.mark.parametrize(
    ("name", "q", "hparams", "expected"),
    [
        ("expectile", NORMAL, {"expectile": 0.7}, 0.33712),
        ("expectile", GRID, {"expectile": 0.9}, 0.75),
        ("quantile", NORMAL, {"expectile": 0.6}, 0.25335),
        ("quantile", GRID, {"expectile": 0.9}, 0.9),
        ("linex", GRID, {"beta": 1.0}, np.log(np.e - 1.0)),
        ("linex", GRID, {"beta": 3.0}, np.log((np.e**3 - 1.0) / 3.0) / 3.0),
        ("linex", 0.5 * NORMAL, {"beta": 0.5}, 0.0625),  # log E e^{αQ} / α = α σ² / 2
    ],
)
def test_values(name: ImplicitName, q: np.ndarray, hparams: dict[str, float], expected: float) -> None:
    """The τ-expectile, the τ-quantile and log E e^{αQ} / α of known distributions."""
    assert value(name, q, **hparams) == pytest.approx(expected, abs=3e-4)


def test_the_held_exponential_lowers_the_value() -> None:
    """Of N(0, 1) with α = 1: .5 where nothing is held, and the root of E min(e^{Q - V}, 6) = 1 with the exponential at 6."""
    held = brentq(lambda v: float(np.mean(np.minimum(np.exp(NORMAL - v), 6.0)) - 1.0), -1.0, 1.0)
    assert held == pytest.approx(0.46451, abs=1e-4)
    assert value("linex", NORMAL, beta=1.0) == pytest.approx(held, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "hparams", "tolerance"),
    [
        ("expectile", {"expectile": 0.7}, 1e-5),
        ("expectile", {"expectile": 0.95}, 1e-5),
        ("quantile", {"expectile": 0.7}, 2e-3),  # the loss has a kink: up to 1/n, and what is held at A = 0
        ("linex", {"beta": 1.0}, 1e-5),
        ("linex", {"beta": 0.3}, 1e-5),
    ],
)
def test_the_value_is_that_of_the_weighted_policy(name: ImplicitName, hparams: dict[str, float], tolerance: float) -> None:
    """Theorem 4.1: Σ w Q / Σ w = V for 1,001 values of Q from N(0, 1)."""
    q = norm.ppf((np.arange(1_001) + 0.5) / 1_001)
    h = hparams.get("beta", 1.0)
    # Nothing is held in the theorem's exponential.
    v = np.log(np.mean(np.exp(h * q))) / h if name == "linex" else value(name, q, **hparams)
    w = np.asarray(IMPLICIT[name].weight(jnp.asarray(q - v, jnp.float32), HParams(**hparams)), np.float64)
    assert np.all(w >= 0.0)
    assert np.sum(w * q) / np.sum(w) == pytest.approx(v, abs=tolerance)
    assert abs(np.mean(q) - v) > 0.1  # the data's own mean would be told apart


def test_expectile_weights() -> None:
    """A normal q has expectile .33712 (τ = .7) and .86159 (.9); weights average .447 and .256, and Σ w A = 0."""
    for tau, v, mean, std in ((0.7, 0.33712, 0.447, 0.193), (0.9, 0.86159, 0.256, 0.317)):
        w = np.asarray(expectile_weight(jnp.asarray(NORMAL - v), tau))
        assert w.mean() == pytest.approx(mean, abs=1e-3)
        assert w.std() == pytest.approx(std, abs=1e-3)
        assert abs(np.mean(w * (NORMAL - v))) < 1e-4


def test_quantile_weights() -> None:
    """Never negative, as the released code's are below V, and held where A is 0."""
    advantage = jnp.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    np.testing.assert_allclose(quantile_weight(advantage, 0.7), [0.15, 0.6, 0.3e6, 1.4, 0.35], rtol=1e-5)
    np.testing.assert_allclose(quantile_weight(advantage, 0.7, floor=1e-3)[2], 300.0, rtol=1e-5)


def test_linex_weights() -> None:
    """With h = 3, the limit at A = 0 included."""
    advantage = jnp.array([-2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0])
    expected = [1.4963, 2.8506, 7.7755, 9.0, 10.4958, 57.2566, 603.64]
    np.testing.assert_allclose(linex_weight(advantage, 3.0), expected, rtol=1e-4)


@pytest.mark.parametrize("name", list(IMPLICIT))
def test_weights_of_any_advantage_are_finite(name: ImplicitName) -> None:
    advantage = jnp.concatenate([-jnp.geomspace(1e3, 1e-9, 50), jnp.zeros(1), jnp.geomspace(1e-9, 1e3, 50)])
    found: Any = IMPLICIT[name].weight(advantage, HParams(beta=10.0))
    assert np.all(np.isfinite(found))
    assert np.all(found >= 0.0)
