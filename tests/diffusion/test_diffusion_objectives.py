"""The noise-prediction loss against its exact minimum (SRPO eq. 13)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen, gaussian_epsilon

from diffrl.diffusion.objectives import denoising_loss, perturb
from diffrl.diffusion.schedules import LinearVP

SCHEDULE = LinearVP()
FLOORS = {0.1: 0.04061, 0.2: 0.080051, 0.5: 0.172488, 1.0: 0.275271}
BATCHES, BATCH, DIM = 64, 8192, 2
MEAN = jnp.array([0.3, -0.4])


def losses(std: float, predict: object, seed: int = 0) -> np.ndarray:
    """Loss per dimension of `BATCHES` independent batches of N(MEAN, std²)."""

    def one(key: jax.Array) -> jax.Array:
        data_key, loss_key = jax.random.split(key)
        x0 = MEAN + std * jax.random.normal(data_key, (BATCH, DIM))
        return denoising_loss(predict, SCHEDULE, x0, loss_key) / DIM

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(seed), BATCHES)))


@pytest.mark.parametrize(("std", "floor"), chosen([*FLOORS.items()], 0, 3))
def test_floor(std: float, floor: float) -> None:
    """With the exact ε* of a Gaussian the loss per dimension is the known integral, within sampling error."""
    samples = losses(std, gaussian_epsilon(MEAN, std))
    error = samples.std() / np.sqrt(BATCHES)
    assert error < 0.01 * floor
    assert abs(samples.mean() - floor) < 4 * error + 1e-6


@pytest.mark.parametrize("wrong", chosen([0.9, 1.1], 0))
def test_floor_is_a_minimum(wrong: float) -> None:
    """On the same noise, ε* off by a tenth does worse."""
    exact = gaussian_epsilon(MEAN, 0.5)
    assert losses(0.5, lambda x, t: wrong * exact(x, t)).mean() > losses(0.5, exact).mean() + 0.003


def test_zero_prediction_costs_one_per_dimension() -> None:
    """E z² = 1: a network stuck at this value has learnt nothing."""
    samples = losses(0.5, lambda x, t: jnp.zeros_like(x))
    assert abs(samples.mean() - 1.0) < 4 * samples.std() / np.sqrt(BATCHES)


def test_sum_over_dimensions_mean_over_batch() -> None:
    """A predictor that errs by exactly 2 in each of five dimensions costs 5 · 4, whatever the batch size."""
    x0 = jnp.zeros((7, 5))  # x_t = σ_t z: the noise can be read off
    loss = denoising_loss(lambda x, t: x / SCHEDULE.sigma(t)[:, None] + 2.0, SCHEDULE, x0, jax.random.key(0))
    assert float(loss) == pytest.approx(20.0, rel=1e-4)


def test_times_are_uniform_from_t_min() -> None:
    """t ~ U[1e-3, 1], one per row: a predictor that reports t reveals the distribution."""
    seen = []

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        seen.append(np.asarray(t))
        return x

    denoising_loss(predict, SCHEDULE, jnp.zeros((100_000, 1)), jax.random.key(0))
    t = np.sort(seen[0])
    assert t[0] >= 1e-3
    assert t[-1] < 1.0
    expected = 1e-3 + 0.999 * (np.arange(len(t)) + 0.5) / len(t)
    assert np.max(np.abs(t - expected)) < 1.95 / np.sqrt(len(t))  # Kolmogorov-Smirnov at 0.1 %


def test_perturb() -> None:
    """x_t = α_t x_0 + σ_t z with one time per row."""
    x0, noise, t = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, -1.0], [0.5, 0.0]]), jnp.array([0.1, 0.5])
    expected = [[0.946722 + 0.322053, 2 * 0.946722 - 0.322053], [3 * 0.281183 + 0.5 * 0.959654, 4 * 0.281183]]
    np.testing.assert_allclose(perturb(SCHEDULE, x0, t, noise), expected, rtol=1e-5)
