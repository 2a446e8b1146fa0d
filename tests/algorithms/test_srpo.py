"""SRPO: its policy gradient against closed forms, where behaviour models are exact."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen, gaussian_epsilon, mixture_epsilon

from diffrl.algorithms.srpo import policy_loss, score_direction
from diffrl.diffusion.schedules import LinearVP

SCHEDULE = LinearVP()
Predict = Callable[[jax.Array, jax.Array], jax.Array]

# ---------------------------------------------------------------------------------------------- exact behaviour models


@partial(jax.jit, static_argnums=(0, 1, 2, 4))
def _samples(predict: Predict, weighting: str, baseline: bool, action: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """`size` independent draws of ω(t) e at one action `[dim]`."""
    return score_direction(predict, SCHEDULE, weighting, baseline, jnp.broadcast_to(action, (size, *action.shape)), key)


def force(predict: Predict, weighting: str, action: float, seed: int = 0, size: int = 1_000_000) -> tuple[float, float]:
    """R(a) = E ω(t) (ε* - z) in one dimension, and its standard error."""
    draws = np.asarray(_samples(predict, weighting, True, jnp.array([action]), size, jax.random.key(seed)), np.float64)
    return float(draws.mean()), float(draws.std() / np.sqrt(size))


def fixed_point(
    predict: Predict,
    weighting: str,
    q: Callable[[jax.Array], jax.Array],
    betas: np.ndarray,
    start: Any,
    step_size: float = 0.3,
    steps: int = 400,
    batch: int = 4096,
) -> np.ndarray:
    """Where SGD on a free action settles under the library's loss: the mean of the second half of the iterates,
    `[betas, dim]`.
    """

    def step(beta: jax.Array, action: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(action: jax.Array) -> jax.Array:
            actions = jnp.broadcast_to(action, (batch, *action.shape))
            fixed = jax.lax.stop_gradient(actions)
            score = score_direction(predict, SCHEDULE, weighting, True, fixed, key)
            return policy_loss(actions, score, jax.grad(lambda a: jnp.sum(q(a)))(fixed), beta)

        action = action - step_size * jax.grad(loss)(action)
        return action, action

    def run(beta: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), steps)
        _, path = jax.lax.scan(partial(step, beta), jnp.asarray(start, jnp.float32), keys)
        return jnp.mean(path[steps // 2 :], axis=0)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(betas, jnp.float32)))


# c_s = E ω α σ / (α² s² + σ²): how hard the surrogate pulls to a Gaussian's mean, by width of the Gaussian.
PULL = {
    "vds": {0.05: 0.234012, 0.1: 0.230057, 0.2: 0.219335, 0.5: 0.184900, 1.0: 0.141068},
    "stable": {0.05: 0.889215, 0.1: 0.789422, 0.2: 0.627224, 0.5: 0.387902, 1.0: 0.235650},
    "score": {0.05: 3.36083, 0.1: 2.606737, 0.2: 1.615587, 0.5: 0.639580, 1.0: 0.266709},
}


@pytest.mark.parametrize(
    ("weighting", "std", "expected"), chosen([(w, s, c) for w, row in PULL.items() for s, c in row.items()], 0, 9, 14)
)
def test_pull_of_a_gaussian(weighting: str, std: float, expected: float) -> None:
    """E ω(t)(ε* - z) = c_s (a - m): sign, weight and time range of eq. 15 in one number."""
    pull, error = force(gaussian_epsilon([0.0], std), weighting, 1.0)
    assert error < 0.01 * expected
    assert abs(pull - expected) < 4 * error + 2e-5


@pytest.mark.parametrize(
    ("weighting", "std"), chosen([("vds", 0.2), ("stable", 0.2), ("score", 0.2), ("vds", 1.0), ("score", 0.5)], 0)
)
def test_fixed_point(weighting: str, std: float) -> None:
    """With Q = -½‖a - c‖² the policy settles at (β c + c_s m) / (β + c_s), to 1e-2."""
    mean, target, betas = np.array([0.3, -0.4]), jnp.array([0.9, 0.5]), np.array([0.05, 0.2, 1.0])
    found = fixed_point(
        gaussian_epsilon(mean, std), weighting, lambda a: -0.5 * jnp.sum((a - target) ** 2, axis=-1), betas, [0.0, 0.0]
    )
    pull, weight = PULL[weighting][std], betas[:, None]
    np.testing.assert_allclose(found, (weight * np.asarray(target) + pull * mean) / (weight + pull), atol=1e-2)
    if (weighting, std) == ("vds", 0.2):  # in full digits
        np.testing.assert_allclose(found[:2], [(0.41139, -0.23292), (0.58617, 0.02925)], atol=1e-2)


# Variance per dimension of one ω e at a = m with ω = σ²: without the baseline, with it.
NOISE = {0.2: (0.641, 1.67e-4), 0.5: (0.617, 0.00282), 1.0: (0.568, 0.0153)}


@pytest.mark.parametrize("std", chosen([*NOISE], 0))
def test_baseline_changes_variance_not_expectation(std: float) -> None:
    """Subtracting z keeps the mean and divides the variance by 3850, 219 or 37."""
    predict, size = gaussian_epsilon([0.3, -0.4], std), 500_000
    off, on = (
        np.asarray(_samples(predict, "vds", baseline, jnp.array([0.3, -0.4]), size, jax.random.key(seed)), np.float64)
        for seed, baseline in ((1, False), (2, True))
    )
    without, with_baseline = NOISE[std]
    np.testing.assert_allclose(off.var(axis=0), without, rtol=0.02)
    np.testing.assert_allclose(on.var(axis=0), with_baseline, rtol=0.1)
    assert off.var() / on.var() == pytest.approx(without / with_baseline, rel=0.15)


@pytest.mark.parametrize("weighting", chosen(["vds", "stable", "score"], 2))
def test_baseline_keeps_the_expectation_of_any_network(weighting: str) -> None:
    """E ω z = 0 whatever ε_ψ is: here a wrong one, at an action off the mean, on independent noise."""

    def wrong(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.sin(3 * x) + t[:, None]

    size, action = 1_000_000, jnp.array([0.7])
    draws = [
        np.asarray(_samples(wrong, weighting, baseline, action, size, jax.random.key(seed)), np.float64)
        for seed, baseline in ((1, False), (2, True))
    ]
    error = np.sqrt(sum(d.var() for d in draws) / size)
    assert error < 0.01
    assert abs(draws[0].mean() - draws[1].mean()) < 4 * error


MODES = mixture_epsilon(jnp.array([[0.5], [-0.5]]), 0.1)
FORCE = {
    "vds": {0.1: 0.016866, 0.25: 0.043155, 0.5: 0.089872, 0.75: 0.139204, 1.0: 0.190277},
    "stable": {0.1: -0.004949, 0.25: 0.031963, 0.5: 0.165711, 1.0: 0.508668},
}


@pytest.mark.parametrize(
    ("weighting", "action", "expected"), chosen([(w, a, r) for w, row in FORCE.items() for a, r in row.items()], 4, 5)
)
def test_force_between_two_modes(weighting: str, action: float, expected: float) -> None:
    """½N(.5, .1²) + ½N(-.5, .1²): the force is the tabulated one at a, and the opposite at -a."""
    here, error = force(MODES, weighting, action)
    assert error < 1e-3
    assert abs(here - expected) < 4 * error + 2e-6
    mirrored, error = force(MODES, weighting, -action, seed=1)
    assert abs(mirrored + expected) < 4 * error + 2e-6


def test_fixed_point_between_two_modes() -> None:
    """ω = σ² with Q = -½(a - 1)²: small β leaves the policy between the modes, where there are no data."""
    betas = np.array([0.01, 0.05, 0.2, 1.0])
    found = fixed_point(MODES, "vds", lambda a: -0.5 * jnp.sum((a - 1) ** 2, axis=-1), betas, [0.0], step_size=1.0, steps=200)
    np.testing.assert_allclose(found[:, 0], [0.05620, 0.22533, 0.52575, 0.84214], atol=3e-3)


@pytest.mark.slow
def test_score_keeps_two_modes_apart_where_vds_averages_them() -> None:
    """Without Q, from a = .05: σ² goes back to 0 between the modes at ±.5, α/σ goes to a mode (m* = 1.375 and .266)."""

    def settle(weighting: str, step_size: float) -> float:
        return float(fixed_point(MODES, weighting, lambda a: 0.0 * a[:, 0], np.zeros(1), [0.05], step_size, steps=600)[0, 0])

    assert abs(settle("vds", 0.5)) < 0.005
    assert settle("score", 0.3) == pytest.approx(0.4093, abs=0.02)


# Smallest half-distance m* at which two equal modes of width s are kept apart.
SEPARATION = {"vds": {0.1: 1.375, 0.354: 1.752}, "stable": {0.1: 0.450, 0.354: 0.870}, "score": {0.1: 0.266, 0.354: 0.557}}


@pytest.mark.parametrize(
    ("weighting", "std", "m"), chosen([(w, s, m) for w, row in SEPARATION.items() for s, m in row.items()], 3)
)
def test_critical_separation(weighting: str, std: float, m: float) -> None:
    """Near 0 the force points inwards for modes 15 % closer than m*, outwards for modes 15 % farther.

    R(a) - R(-a) on the same times and noise: the noise of R itself would drown it.
    """
    for factor, sign in ((0.85, 1), (1.15, -1)):
        predict = mixture_epsilon(jnp.array([[factor * m], [-factor * m]]), std)
        outer, inner = (
            np.asarray(_samples(predict, weighting, True, jnp.array([a]), 1_000_000, jax.random.key(3)), np.float64)
            for a in (0.01, -0.01)
        )
        difference = outer - inner
        assert sign * difference.mean() > 4 * difference.std() / 1000, factor


# Modes of width .354 at ±m: where the policy rests without Q. Gauss-Hermite quadrature of R in double precision.
@pytest.mark.parametrize(
    ("weighting", "m", "expected"), chosen([("vds", 2.83, 1.7200), ("stable", 1.5, 0.9778), ("score", 1.5, 1.3964)], 2)
)
def test_stable_points_of_wide_modes(weighting: str, m: float, expected: float) -> None:
    """Even where modes are kept apart, the surrogate's rest lies inside of them: least so for α/σ."""
    predict = mixture_epsilon(jnp.array([[m], [-m]]), 0.354)
    found = fixed_point(predict, weighting, lambda a: 0.0 * a[:, 0], np.zeros(1), [m], step_size=0.7, steps=400)
    assert found[0, 0] == pytest.approx(expected, abs=0.015)
