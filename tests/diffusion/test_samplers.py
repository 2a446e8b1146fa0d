"""DDIM with the exact noise prediction of a Gaussian, where every moment of the result is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian_epsilon

from diffrl.diffusion import samplers
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import Predict, as_model, clipped

SCHEDULE = LinearVP()
MEAN, STD = 0.3, 0.5
PREDICT = gaussian_epsilon([MEAN], STD)


def ddim(
    predict: Predict,
    schedule: LinearVP,
    key: jax.Array,
    shape: tuple[int, int],
    num_steps: int,
    *,
    eta: float = 0.0,
    clip: float | None = None,
) -> jax.Array:
    """A sample from N(0, I)."""
    start_key, key = jax.random.split(key)
    model = as_model(predict, schedule)
    if clip is not None:
        model = clipped(model, -clip, clip)
    return samplers.sample(model, grid(schedule, num_steps), samplers.ddim(eta), key, jax.random.normal(start_key, shape))


def affine_map(num_steps: int, std: float = STD) -> tuple[float, float]:
    """Slope and offset of x_0 = slope x_1 + offset: with ε* of a Gaussian the sampler is an affine map of its noise."""
    key = jax.random.key(0)
    x1 = np.asarray(jax.random.normal(jax.random.split(key)[0], (64, 1)), np.float64)[:, 0]
    x0 = np.asarray(ddim(gaussian_epsilon([MEAN], std), SCHEDULE, key, (64, 1), num_steps), np.float64)[:, 0]
    slope, offset = np.polyfit(x1, x0, 1)
    np.testing.assert_allclose(slope * x1 + offset, x0, atol=1e-4)
    return float(slope), float(offset)


def test_deterministic_sampler_converges_at_first_order() -> None:
    """The probability-flow ODE maps N(α₁m, v₁) onto N(m, s²); the error of DDIM's slope and mean falls as 1/steps."""
    alpha, sigma = float(SCHEDULE.alpha(jnp.float32(1.0))), float(SCHEDULE.sigma(jnp.float32(1.0)))
    exact_slope = STD / np.sqrt(alpha**2 * STD**2 + sigma**2)
    exact_offset = MEAN - exact_slope * alpha * MEAN
    steps = [16, 32, 64, 128]
    errors = np.array([np.abs(np.subtract(affine_map(n), (exact_slope, exact_offset))) for n in steps])
    assert errors[-1, 0] < 0.03 * STD
    assert errors[-1, 1] < 0.03 * STD
    order = -np.polyfit(np.log(steps), np.log(errors[:, 0]), 1)[0]
    assert order == pytest.approx(1.0, abs=0.15)


def test_few_steps_contract_too_much() -> None:
    """Known for coarse steps of a deterministic sampler: the spread comes out too small, and grows towards the right one."""
    slopes = [affine_map(n)[0] for n in (2, 4, 8, 16)]
    assert np.all(np.diff(slopes) > 0)
    assert slopes[-1] < STD


@pytest.mark.slow
def test_ancestral_sampler() -> None:
    """eta = 1: mean and spread are right as steps grow (the spread's error is of first order, so two step counts remove
    it), and the result comes from fresh noise, not from the first.
    """
    key, n = jax.random.key(1), 20_000
    coarse, fine = (np.asarray(ddim(PREDICT, SCHEDULE, key, (n, 1), steps, eta=1.0))[:, 0] for steps in (100, 200))
    assert fine.mean() == pytest.approx(MEAN, abs=4 * STD / np.sqrt(n) + 0.003)
    assert fine.std() == pytest.approx(STD, rel=0.05)
    assert 2 * fine.std() - coarse.std() == pytest.approx(STD, rel=0.02)
    x1 = np.asarray(jax.random.normal(jax.random.split(key)[0], (n, 1)))[:, 0]
    assert abs(np.corrcoef(fine, x1)[0, 1]) < 0.05


def test_ancestral_step_is_the_exact_posterior() -> None:
    """For a point mass at c, x_s given x_t has DDPM's posterior mean and variance (Ho et al. 2020, eq. 6 and 7)."""
    c, steps, seen = 0.7, 4, []

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        seen.append((float(t[0]), np.asarray(x, np.float64)[:, 0]))
        return (x - SCHEDULE.alpha(t)[:, None] * c) / SCHEDULE.sigma(t)[:, None]

    ddim(predict, SCHEDULE, jax.random.key(2), (100_000, 1), steps, eta=1.0)
    for (t, x_t), (s, x_s) in itertools.pairwise(seen):
        alpha_t, alpha_s = (float(SCHEDULE.alpha(jnp.float32(u))) for u in (t, s))
        a_bar_t, a_bar_s = alpha_t**2, alpha_s**2
        step = a_bar_t / a_bar_s
        mean = (np.sqrt(a_bar_s) * (1 - step) * c + np.sqrt(step) * (1 - a_bar_s) * x_t) / (1 - a_bar_t)
        variance = (1 - a_bar_s) / (1 - a_bar_t) * (1 - step)
        residual = x_s - mean
        assert abs(residual.mean()) < 5 * np.sqrt(variance / len(residual))
        assert residual.var() == pytest.approx(variance, rel=0.03)


def test_clip_bounds_the_predicted_data_and_keeps_the_noise_consistent() -> None:
    """A point mass at 2 clipped to 1 is sampled as a point mass at 1, at every step; without the clip, as one at 2."""
    seen = []

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        seen.append((t[0], np.asarray(x)))
        return (x - SCHEDULE.alpha(t)[:, None] * 2.0) / SCHEDULE.sigma(t)[:, None]

    key = jax.random.key(0)
    np.testing.assert_allclose(ddim(predict, SCHEDULE, key, (16, 3), 5, clip=1.0), 1.0, atol=1e-6)
    for (t, x_t), (s, x_s) in itertools.pairwise(seen):
        expected = SCHEDULE.alpha(s) + SCHEDULE.sigma(s) * (x_t - SCHEDULE.alpha(t)) / SCHEDULE.sigma(t)
        np.testing.assert_allclose(x_s, expected, atol=1e-5)
    np.testing.assert_allclose(ddim(predict, SCHEDULE, key, (16, 3), 5), 2.0, atol=1e-3)


def test_key_decides() -> None:
    """Same key, same sample; another key, another sample; fresh noise comes from the key too."""
    sample = [np.asarray(ddim(PREDICT, SCHEDULE, jax.random.key(seed), (8, 1), 5, eta=1.0)) for seed in (0, 0, 1)]
    assert np.array_equal(sample[0], sample[1])
    assert not np.any(sample[0] == sample[2])


@pytest.mark.parametrize("num_steps", [0, -1])
def test_needs_a_step(num_steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ddim(PREDICT, SCHEDULE, jax.random.key(0), (1, 1), num_steps)
