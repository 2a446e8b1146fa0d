"""Guidance against closed forms (Tagle et al. 2025; Lu et al. 2023 for the energy)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen

from diffrl.diffusion.guidance import best_of, classifier_free, energy_guided, self_weighted, softmax_of
from diffrl.diffusion.samplers import ancestral, ddim, heun, sample
from diffrl.diffusion.schedules import Level, LinearVP, grid, level_at
from diffrl.diffusion.targets import Model, Prediction, from_epsilon

SCHEDULE = LinearVP(0.1, 10.0)
C = 0.2  # A ~ N(0, 1), W = 1 + C A: jointly Gaussian, degenerate
COVARIANCE, MEAN = jnp.array([[1.0, C], [C, C**2]]), jnp.array([0.0, 1.0])


def degenerate_noise(z: Array, t: Array) -> tuple[Array, Array]:
    """ε* = σ (ᾱΣ + σ²I)⁻¹ (z - √ᾱ m), the action's part and the weight's part."""
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    marginal = alpha[..., None] ** 2 * COVARIANCE + sigma[..., None] ** 2 * jnp.eye(2)
    noise = sigma * jnp.linalg.solve(marginal, (z - alpha * MEAN)[..., None])[..., 0]
    return noise[:, :1], noise[:, 1:]


@pytest.mark.parametrize(
    ("step", "noise", "guided"),
    [
        (0, (0.210763, -0.824971), (0.180486, -0.831027)),
        (7, (0.241707, 0.457302), (0.161025, 0.441166)),
        (14, (0.297983, 0.821985), (0.282145, 0.818818)),
    ],
)
def test_self_weighted_noise_of_a_degenerate_gaussian(step: int, noise: tuple[float, float], guided: tuple[float, float]) -> None:
    """The table of the "vp" schedule of 15 steps, z = (0.3, 0.9)."""
    z, level = jnp.array([[0.3, 0.9]]), level_at(SCHEDULE, jnp.float32((step + 1) / 15))
    for scale, expected in ((0.0, noise), (1.0, guided)):
        prediction = self_weighted(degenerate_noise, -100.0, 100.0, scale)(z, level)
        np.testing.assert_allclose(prediction.epsilon[0], expected, atol=3e-6)
        np.testing.assert_allclose(level.alpha * prediction.x0 + level.sigma * prediction.epsilon, z, atol=1e-6)


@pytest.mark.parametrize("bounds", [(2.0, 3.0), (-1.0, 0.2)])
def test_no_guidance_outside_the_weights_bounds(bounds: tuple[float, float]) -> None:
    """ŵ ≈ 1 is outside both: the prediction is that of scale 0, not a number gone wrong."""
    z, level = jnp.array([[0.3, 0.9]]), level_at(SCHEDULE, jnp.float32(0.5))
    plain, guided = (self_weighted(degenerate_noise, *bounds, scale)(z, level) for scale in (0.0, 5.0))
    np.testing.assert_array_equal(plain.epsilon, guided.epsilon)


@pytest.mark.parametrize(("scale", "mean", "std"), chosen([(0.0, -0.004, 0.986), (1.0, 0.195, 0.967), (3.0, 0.572, 0.937)], 1, 2))
def test_self_weighted_sampler_moments(scale: float, mean: float, std: float) -> None:
    """15 steps, forward variance; the exact target at scale 1 has mean 0.2 and deviation 0.98."""
    n = 50_000
    start = jax.random.normal(jax.random.key(0), (n, 2))
    model = self_weighted(degenerate_noise, -1e3, 1e3, scale)
    z = np.asarray(sample(model, grid(SCHEDULE, 15), ancestral("forward"), jax.random.key(1), start, unroll=False))
    assert z[:, 0].mean() == pytest.approx(mean, abs=4 / np.sqrt(n) + 0.005)
    assert z[:, 0].std() == pytest.approx(std, abs=4 / np.sqrt(2 * n) + 0.005)


def test_deterministic_self_weighted_chain() -> None:
    """From z = 0 without noise, 15 steps."""
    for scale, expected in ((0.0, (-0.0013, 0.9997)), (1.0, (0.194, 1.0388)), (3.0, (0.5657, 1.1131))):
        model = self_weighted(degenerate_noise, -1e3, 1e3, scale)
        solver = ancestral("forward", noise_scale=0.0)
        z = sample(model, grid(SCHEDULE, 15), solver, jax.random.key(0), jnp.zeros((1, 2)), unroll=False)
        np.testing.assert_allclose(z[0], expected, atol=6e-4)


@pytest.mark.slow
def test_weight_coordinates_gradient_matters() -> None:
    """Guidance of the action alone is biased, mean 0.188 against 0.195."""

    def half(x: Array, level: Level) -> Prediction:
        plain, full = (self_weighted(degenerate_noise, -1e3, 1e3, scale)(x, level).epsilon for scale in (0.0, 1.0))
        return from_epsilon(x, level, jnp.stack([full[:, 0], plain[:, 1]], axis=1))

    start, levels, key = jax.random.normal(jax.random.key(0), (50_000, 2)), grid(SCHEDULE, 15), jax.random.key(1)
    models: list[Model] = [half, self_weighted(degenerate_noise, -1e3, 1e3, 1.0)]
    solver = ancestral("forward")
    means = [float(np.mean(np.asarray(sample(model, levels, solver, key, start, unroll=False))[:, 0])) for model in models]
    assert means[1] - means[0] == pytest.approx(0.007, abs=0.002)  # same noise in both


def gaussian(mean: float, std: float) -> Model:
    def model(x: Array, level: Level) -> Prediction:
        return from_epsilon(x, level, level.sigma * (x - level.alpha * mean) / (level.alpha**2 * std**2 + level.sigma**2))

    return model


def quadratic_weight(mean: float, std: float, curvature: float) -> object:
    """log E[exp(-curvature A²/2) | x_t] for A ~ N(mean, std²): again quadratic in x_t."""

    def log_weight(x: Array, level: Level) -> Array:
        precision = 1.0 / std**2 + level.alpha**2 / level.sigma**2
        posterior_mean = (mean / std**2 + level.alpha * x[:, 0] / level.sigma**2) / precision
        return -0.5 * curvature * posterior_mean**2 / (1.0 + curvature / precision)

    return log_weight


SOLVERS = {"heun": heun(), "ddim": ddim(), "ancestral": ancestral()}


@pytest.mark.parametrize("solver", chosen([*SOLVERS], 1))
def test_quadratic_energy_of_a_gaussian(solver: str) -> None:
    """N(m, s²) with weight e^(-κa²/2) is a Gaussian again: its guided score is the closed form, and every sampler goes there."""
    mean, std, curvature = 0.8, 0.6, 3.0
    tilted_std = (1 / std**2 + curvature) ** -0.5
    tilted_mean = mean / std**2 * tilted_std**2
    guided = energy_guided(gaussian(mean, std), quadratic_weight(mean, std, curvature))
    x = jnp.linspace(-2.0, 2.0, 9)[:, None]
    for t in (0.1, 0.4, 0.9):
        level = level_at(LinearVP(), jnp.float32(t))
        np.testing.assert_allclose(guided(x, level).epsilon, gaussian(tilted_mean, tilted_std)(x, level).epsilon, atol=2e-5)
    n = 20_000
    start = jax.random.normal(jax.random.key(0), (n, 1))
    a = np.asarray(sample(guided, grid(LinearVP(), 200), SOLVERS[solver], jax.random.key(1), start, unroll=False))
    assert a.mean() == pytest.approx(tilted_mean, abs=4 * tilted_std / np.sqrt(n) + 0.005)
    assert a.std() == pytest.approx(tilted_std, rel=0.06)  # ancestral steps contract at first order


def test_classifier_free_is_linear_in_the_score() -> None:
    """Scale 1 is the conditional model; 3 extrapolates; x stays the sum of its parts."""
    one, other, level = gaussian(1.0, 0.5), gaussian(0.0, 1.0), level_at(LinearVP(), jnp.float32(0.3))
    x = jnp.linspace(-1.0, 1.0, 5)[:, None]
    np.testing.assert_allclose(classifier_free(one, other, 1.0)(x, level).epsilon, one(x, level).epsilon, atol=1e-6)
    parts = classifier_free(one, other, 3.0)(x, level)
    np.testing.assert_allclose(parts.epsilon, 3 * one(x, level).epsilon - 2 * other(x, level).epsilon, atol=1e-5)
    np.testing.assert_allclose(level.alpha * parts.x0 + level.sigma * parts.epsilon, x, atol=1e-5)


def test_best_of_takes_the_highest_per_row() -> None:
    samples = jnp.arange(24.0).reshape(4, 3, 2)
    values = jnp.array([[0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [2.0, 9.0, 0.0], [-1.0, 0.0, 2.0]])
    np.testing.assert_array_equal(best_of(samples, values), samples[jnp.array([2, 2, 1]), jnp.arange(3)])


def test_softmax_of_draws_by_weight() -> None:
    """Frequencies are softmax(values / temperature); a low temperature is `best_of`."""
    values = jnp.tile(jnp.array([[0.0], [0.5], [1.0]]), (1, 30_000))
    samples = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (3, 30_000, 1))
    drawn = np.asarray(softmax_of(jax.random.key(0), samples, values, 0.5))[:, 0].astype(int)
    np.testing.assert_allclose(np.bincount(drawn) / 30_000, jax.nn.softmax(jnp.array([0.0, 1.0, 2.0])), atol=0.012)
    np.testing.assert_array_equal(softmax_of(jax.random.key(0), samples, values, 1e-4), best_of(samples, values))
