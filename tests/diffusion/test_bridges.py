"""Bridges: between Gaussians everything is known, so that losses, drift, score and every sampler have exact answers."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen, quick

from diffrl.diffusion.bridges import (
    DIFFUSIONS,
    INTERPOLANTS,
    T_MIN,
    Crossing,
    Interpolant,
    Predict,
    bridge_loss,
    bridge_steps,
    cross,
    gamma,
)

NAMES = list(INTERPOLANTS)


@dataclasses.dataclass(frozen=True)
class Ends:
    """A source N(m₁, s₁²) and data N(m₀, s₀²), independent of each other."""

    mean: float = 1.0
    std: float = 0.3
    source_mean: float = -1.0
    source_std: float = 0.5
    noise_scale: float = 0.03

    def variance(self, path: Interpolant, t: Array) -> Array:
        """Of x_t."""
        return (path.alpha(t) * self.std) ** 2 + (path.sigma(t) * self.source_std) ** 2 + (gamma(t) * self.noise_scale) ** 2

    def mean_at(self, path: Interpolant, t: Array) -> Array:
        return path.alpha(t) * self.mean + path.sigma(t) * self.source_mean

    def exact(self, path: Interpolant) -> Predict:
        """E[direction | x_t] and E[z | x_t]: regressions of jointly normal numbers."""

        def predict(x: Array, t: Array) -> Crossing:
            t = t[:, None]
            data, source = path.direction(t)
            slope = (x - self.mean_at(path, t)) / self.variance(path, t)
            together = data * path.alpha(t) * self.std**2 + source * path.sigma(t) * self.source_std**2
            direction = data * self.mean + source * self.source_mean + together * slope
            return Crossing(direction, gamma(t) * self.noise_scale * slope)

        return predict


@cache
def crossed(ends: Ends, name: str, count: int, diffusion: str = "linear", form: str = "exact", size: int = 100_000) -> np.ndarray:
    path = INTERPOLANTS[name]
    start = ends.source_mean + ends.source_std * jax.random.normal(jax.random.key(0), (size, 1))
    steps = bridge_steps(path, count, diffusion, form)
    run = quick(
        lambda x: cross(ends.exact(path), steps, x, ends.noise_scale, jax.random.key(1), deterministic=diffusion == "none")
    )
    return np.asarray(run(start))


# ------------------------------------------------------------------------------------------------------- interpolants

WEIGHTS = {  # of data and source at t = 0.3 and 0.8, counted from the data: the card's table at 0.7 and 0.2 of the way
    "linear": ((0.7, 0.3), (0.2, 0.8)),
    "power3": ((0.973, 0.027), (0.488, 0.512)),
    "power4": ((0.9919, 0.0081), (0.5904, 0.4096)),
    "reverse_linear": ((1.0, 0.0), (0.4, 0.6)),
    "reverse_power3": ((0.343, 0.657), (0.008, 0.992)),
    "reverse_power4": ((0.2401, 0.7599), (0.0016, 0.9984)),
    "encode_decode": ((0.345492, 0.0), (0.0, 0.654508)),
}


def test_weights() -> None:
    t, ends = jnp.array([0.3, 0.8]), jnp.array([0.0, 1.0])
    found = quick(lambda: {name: [jnp.stack([p.alpha(x), p.sigma(x)]) for x in (t, ends)] for name, p in INTERPOLANTS.items()})()
    for name, (between, at_ends) in found.items():
        np.testing.assert_allclose(between.T, WEIGHTS[name], atol=1e-6)
        np.testing.assert_allclose(at_ends, [[1.0, 0.0], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_array_equal(gamma(ends), 0.0)


def test_direction_times_progress_is_the_slope() -> None:
    """Against finite differences of α x_0 + σ x_1."""
    t, h = jnp.linspace(0.05, 0.95, 10), 1e-2

    def slopes(path: Interpolant) -> tuple[Array, Array]:
        found = jnp.stack(path.direction(t)) * jax.jvp(path.progress, (t,), (jnp.ones_like(t),))[1]
        return found, jnp.stack([(weight(t + h) - weight(t - h)) / (2 * h) for weight in (path.alpha, path.sigma)])

    for found, between in quick(lambda: [slopes(path) for path in INTERPOLANTS.values()])():
        np.testing.assert_allclose(found, between, atol=5e-3)


# -------------------------------------------------------------------------------------------------------------- losses


def test_the_floor_of_the_loss() -> None:
    """Linear, equal ends of deviation s, no noise: E (E[x_0 - x_1 | x_t])² = s² (2 - π/2), what exact predictions take off."""
    ends = Ends(0.0, 0.5, 0.0, 0.5, 1e-4)
    path, (data_key, source_key, key) = INTERPOLANTS["linear"], jax.random.split(jax.random.key(0), 3)
    data, source = (0.5 * jax.random.normal(key, (400_000, 1)) for key in (data_key, source_key))
    exact = quick(lambda: bridge_loss(ends.exact(path), path, data, source, ends.noise_scale, key))()
    blind = quick(lambda: bridge_loss(lambda x, t: Crossing(0 * x, 0 * x), path, data, source, ends.noise_scale, key))()
    assert float(blind.direction - exact.direction) / 0.25 == pytest.approx(2.0 - np.pi / 2.0, abs=0.01)
    assert float(blind.noise) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", chosen(NAMES, NAMES.index("power3"), NAMES.index("encode_decode")))
def test_exact_predictions_are_the_least(name: str) -> None:
    """Loss of noise: 1 - E[(γ d)²/V]. And any change of either makes it worse, by the square of the change."""
    ends, path = Ends(noise_scale=0.3), INTERPOLANTS[name]
    data_key, source_key, key = jax.random.split(jax.random.key(1), 3)
    data = ends.mean + ends.std * jax.random.normal(data_key, (200_000, 1))
    source = ends.source_mean + ends.source_std * jax.random.normal(source_key, data.shape)
    exact = ends.exact(path)

    def moved(x: Array, t: Array) -> Crossing:
        found = exact(x, t)
        return Crossing(found.direction + 0.2, found.noise - 0.2)

    losses = quick(lambda: [bridge_loss(f, path, data, source, ends.noise_scale, key) for f in (exact, moved)])()
    t = jnp.linspace(T_MIN, 1.0 - T_MIN, 2001)
    floor = 1.0 - float(jnp.mean((gamma(t) * ends.noise_scale) ** 2 / ends.variance(path, t)))
    assert float(losses[0].noise) == pytest.approx(floor, abs=0.01)
    assert float(losses[1].direction - losses[0].direction) == pytest.approx(0.04, abs=0.01)
    assert float(losses[1].noise - losses[0].noise) == pytest.approx(0.04, abs=0.01)


def test_drift_and_score_of_the_marginals() -> None:
    """ṗ E[direction] + γ̇ d E[z] is m' + V' δ/(2 V), and -E[z]/(γ d) is -δ/V, at every time and place."""
    ends, path = Ends(noise_scale=0.3), INTERPOLANTS["power3"]
    t, x = jnp.linspace(0.1, 0.9, 9), jnp.linspace(-2.0, 2.0, 9)[:, None]
    functions = (path.progress, gamma, lambda t: ends.mean_at(path, t), lambda t: ends.variance(path, t))
    found = quick(lambda: ends.exact(path)(x, t))()
    slopes = quick(lambda: [jax.jvp(f, (t,), (jnp.ones_like(t),))[1][:, None] for f in functions])()
    delta, variance = (np.asarray(value)[:, None] for value in (x[:, 0] - ends.mean_at(path, t), ends.variance(path, t)))
    drift = slopes[0] * found.direction + slopes[1] * ends.noise_scale * found.noise
    np.testing.assert_allclose(drift, slopes[2] + slopes[3] * delta / (2.0 * variance), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(-found.noise / (gamma(t)[:, None] * ends.noise_scale), -delta / variance, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ samplers

# (name, form, steps) -> mean and deviation of what N(-1, .5²) comes to on the way to N(1, .3²), d = .03.
TABLE = [
    ("linear", "euler", 5, 1.00, 0.227),
    ("linear", "euler", 20, 1.00, 0.280),
    ("linear", "code", 5, 1.13, 0.339),
    ("linear", "code", 20, 1.039, 0.308),
    ("power3", "euler", 5, 1.625, 0.149),
    ("power3", "euler", 20, 1.150, 0.265),
    ("power3", "code", 5, 0.746, 0.366),
    ("power3", "code", 20, 0.964, 0.311),
    ("power3", "exact", 5, 1.002, 0.201),
    ("power3", "exact", 20, 1.001, 0.273),
    ("power3", "exact", 100, 1.00, 0.294),
    ("power3", "euler", 100, 1.03, 0.293),
    ("power3", "code", 100, 0.993, 0.301),
]


@pytest.mark.parametrize(("name", "form", "count", "mean", "std"), chosen(TABLE, 4, 6, 8))
def test_gaussian_to_gaussian(name: str, form: str, count: int, mean: float, std: float) -> None:
    found = crossed(Ends(), name, count, "linear", form)
    assert found.mean() == pytest.approx(mean, abs=0.006)
    assert found.std() == pytest.approx(std, abs=0.004)


WIDE = [
    ("linear", "euler", 5, 1.00, 0.290),
    ("power3", "euler", 5, 1.49, 0.283),
    ("power3", "exact", 5, 1.00, 0.269),
    ("linear", "code", 1000, 1.00, 0.268),
    ("power3", "code", 1000, 1.00, 0.242),
    ("power3", "exact", 1000, 1.00, 0.300),
]


@pytest.mark.parametrize(("name", "form", "count", "mean", "std"), chosen(WIDE))
def test_wide_noise(name: str, form: str, count: int, mean: float, std: float) -> None:
    """d = .3: the authors' steps end too narrow however many they are."""
    found = crossed(Ends(noise_scale=0.3), name, count, "linear", form)
    assert found.mean() == pytest.approx(mean, abs=0.01)
    assert found.std() == pytest.approx(std, abs=0.006)


CASES = [(name, diffusion) for name in NAMES for diffusion in DIFFUSIONS]


@pytest.mark.parametrize(("name", "diffusion"), chosen(CASES, CASES.index(("encode_decode", "linear"))))
def test_every_diffusion_of_every_interpolant_comes_to_the_data(name: str, diffusion: str) -> None:
    """200 steps; d is no matter, nor ε."""
    for noise_scale in (0.1, 0.5):
        found = crossed(Ends(noise_scale=noise_scale), name, 200, diffusion, size=20_000)
        assert found.mean() == pytest.approx(1.0, abs=0.025)
        assert found.std() == pytest.approx(0.3, abs=0.02)


def test_data_as_source_stay_what_they_are() -> None:
    found = crossed(Ends(0.4, 0.3, 0.4, 0.3, 0.1), "power3", 200, size=40_000)
    assert found.mean() == pytest.approx(0.4, abs=0.006)
    assert found.std() == pytest.approx(0.3, abs=0.006)


def test_without_diffusion_nothing_is_drawn() -> None:
    steps = bridge_steps(INTERPOLANTS["linear"], 5, "none")
    np.testing.assert_array_equal(steps.fresh, 0.0)
    predict = Ends().exact(INTERPOLANTS["linear"])
    first, second = (cross(predict, steps, jnp.ones((3, 1)), 0.03, jax.random.key(seed), deterministic=True) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


# --------------------------------------------------------------------------------------------------------- several modes

MODES = jnp.stack([jnp.cos(jnp.arange(0.5, 8.0) * jnp.pi / 4.0), jnp.sin(jnp.arange(0.5, 8.0) * jnp.pi / 4.0)], axis=1)
BLOBS = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
WIDTH = 0.1  # of modes and blobs


def between_mixtures(path: Interpolant, noise_scale: float) -> Predict:
    """From two blobs to a ring of eight modes: what is expected of each pair of them, by how likely the pair is at x_t."""

    def predict(x: Array, t: Array) -> Crossing:
        alpha, sigma, g, data, source = (
            weight[:, None, None, None] for weight in (path.alpha(t), path.sigma(t), gamma(t), *path.direction(t))
        )
        variance = (alpha**2 + sigma**2) * WIDTH**2 + (g * noise_scale) ** 2
        delta = x[:, None, None] - alpha * MODES[:, None] - sigma * BLOBS  # [B, modes, blobs, 2]
        likelihood = -jnp.sum(delta**2, axis=-1, keepdims=True) / (2.0 * variance)
        likely = jax.nn.softmax(likelihood, axis=(1, 2))
        direction = data * MODES[:, None] + source * BLOBS + (data * alpha + source * sigma) * WIDTH**2 * delta / variance
        return Crossing(*(jnp.sum(likely * each, axis=(1, 2)) for each in (direction, g * noise_scale * delta / variance)))

    return predict


@cache
def on_the_ring(name: str, count: int, diffusion: str, noise_scale: float) -> tuple[float, float, float]:
    """Entropy in bits over the nearest modes, the share within three deviations of one, and that on the other side now."""
    path, size = INTERPOLANTS[name], 20_000
    keys = jax.random.split(jax.random.key(0), 3)
    start = BLOBS[jax.random.bernoulli(keys[0], shape=(size,)).astype(int)] + WIDTH * jax.random.normal(keys[1], (size, 2))
    steps = bridge_steps(path, count, diffusion)
    still = diffusion == "none"
    run = quick(lambda x: cross(between_mixtures(path, noise_scale), steps, x, noise_scale, keys[2], deterministic=still))
    found = np.asarray(run(start))
    distance = np.linalg.norm(found[:, None] - np.asarray(MODES), axis=-1)
    share = np.bincount(distance.argmin(axis=1), minlength=8) / size
    crossed = (found[:, 0] > 0) != (np.asarray(start)[:, 0] > 0)
    return float(-share @ np.log2(share)), float((distance.min(axis=1) < 3 * WIDTH).mean()), float(crossed.mean())


@pytest.mark.slow
def test_wide_noise_leads_steep_interpolants_to_all_modes() -> None:
    """In five steps a cubic interpolant leaves most of a narrow bridge between the modes; a straight one is hurt by width."""
    found = {(name, d): on_the_ring(name, 5, "linear", d) for name in ("linear", "power3") for d in (0.03, 0.3)}
    inside = {key: share for key, (_, share, _) in found.items()}
    assert inside["power3", 0.03] == pytest.approx(0.42, abs=0.03)
    assert inside["power3", 0.3] == pytest.approx(0.77, abs=0.03)
    assert inside["linear", 0.03] == pytest.approx(0.86, abs=0.03)
    assert inside["linear", 0.3] == pytest.approx(0.72, abs=0.03)
    assert found["power3", 0.03][0] < 2.75  # bits, of 3
    assert min(bits for key, (bits, _, _) in found.items() if key != ("power3", 0.03)) > 2.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "power3"])
def test_noise_moves_samples_between_modes(name: str) -> None:
    """Ways of the flow never cross, so that by symmetry none changes sides; the wider the noise, the more do."""
    still, narrow, wide = (on_the_ring(name, 100, *way) for way in (("none", 0.3), ("linear", 0.03), ("linear", 0.3)))
    assert min(share for _, share, _ in (still, narrow, wide)) > 0.96
    assert still[2] < 1e-3  # of a hundred steps
    assert narrow[2] == pytest.approx(0.025, abs=0.012)
    assert wide[2] == pytest.approx(0.095, abs=0.02)
