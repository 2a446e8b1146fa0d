"""The oracle of a finite dataset against numbers worked out beforehand, and against the samplers that it drives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick

from diffrl.diffusion import empirical
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import ddim, sample
from diffrl.diffusion.schedules import LinearVP, TableVE, grid

POINTS = jnp.array([[0.392938], [-0.427721], [-0.546297]])  # the figure's three points (Suh et al. 2023, figure 1)
AT = jnp.array([[-2.0], [-1.0], [-0.5], [0.0], [0.25], [0.5], [1.0], [2.0]])
ENERGY = np.array([26.404439, 2.375411, -0.647309, 1.306681, 0.250792, 0.143252, 4.606548, 32.283088])
SLOPE = np.array([-36.375626, -11.874259, -0.296775, -0.044465, -3.477917, 2.677075, 15.176541, 40.176541])


def test_energy_score_and_likelihood_are_the_closed_forms() -> None:
    energy, score, log_likelihood = (
        quick(f)(AT, POINTS, 0.2) for f in (empirical.energy, empirical.score, empirical.log_likelihood)
    )
    np.testing.assert_allclose(energy, ENERGY, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(-score[:, 0], SLOPE, rtol=2e-5, atol=1e-5)
    gap = -log_likelihood - energy
    np.testing.assert_allclose(gap, 0.408113, atol=1e-5)


def test_score_is_the_gradient_of_the_energy() -> None:
    gradient = quick(jax.vmap(jax.grad(lambda x: empirical.energy(x[None], POINTS, 0.2)[0])))(AT)
    np.testing.assert_allclose(gradient, -quick(empirical.score)(AT, POINTS, 0.2), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 0.2, 0.01])
def test_distance_lies_between_its_bounds(sigma: float) -> None:
    nearest = jnp.min(0.5 * (AT - POINTS[:, 0]) ** 2, axis=1)
    distance = sigma**2 * empirical.energy(AT, POINTS, sigma)
    assert (distance <= nearest + 1e-5).all()
    assert (distance >= nearest - sigma**2 * np.log(3) - 1e-5).all()


def test_parts_of_the_data_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of memory changes nothing, also where the last part is not full."""
    x, data = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.normal(jax.random.key(1), (101, 3))

    def both() -> tuple[jax.Array, jax.Array]:
        return empirical.energy(x, data, 0.3), empirical.score(x, data, 0.3)

    whole = quick(both)()
    monkeypatch.setattr(empirical, "ENTRIES", 5 * 3 * 7)
    parts = quick(lambda: both())()  # another function, so that it is traced again
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-4, atol=1e-4)


def descend(start: float, sigmas: np.ndarray) -> float:
    """Gradient descent with step ½ on the smoothed distance: a damped mean shift."""
    x, points = jnp.array([[start]]), jnp.asarray(np.asarray(POINTS), jnp.array(start).dtype)

    def step(x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, None]:
        return x + 0.5 * sigma**2 * empirical.score(x, points, sigma), None

    return float(jax.lax.scan(step, x, jnp.asarray(sigmas))[0][0, 0])


@pytest.mark.parametrize("start", [-2.0, -0.45, 0.0, 0.1, 2.0])
def test_annealed_descent_ends_at_a_datum_and_plain_descent_at_a_mode(start: float) -> None:
    with jax.enable_x64(True):  # the way to a datum leads past the midpoint of two, where rounding would choose
        assert descend(start, np.geomspace(1.0, 0.01, 200)) == pytest.approx(-0.42772, abs=2e-5)
        mode = -0.48698 if start < -0.2 else 0.39274
        assert descend(start, np.full(5000, 0.2)) == pytest.approx(mode, abs=2e-4)


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [
        (0.3, (-0.264550, -0.264550, -1.640212)),
        (0.1, (2.924792, 2.033426, -5.041783)),
    ],
)
def test_score_of_gaussian_transitions(sigma: float, expected: tuple[float, ...]) -> None:
    """x ~ N(0, ¼), u ~ N(0, .04), x' = x + u: the score of many samples is near -(Σ + σ²I)⁻¹ z."""
    x, u = 0.5 * jax.random.normal(jax.random.key(0), (200_000,)), 0.2 * jax.random.normal(jax.random.key(1), (200_000,))
    data = jnp.stack([x, u, x + u], axis=1)
    found = empirical.score(jnp.array([[0.5, 0.1, 0.7]]), data, sigma)[0]
    np.testing.assert_allclose(found, expected, atol=0.02 / sigma)


def test_noise_levels() -> None:
    cosine, geometric = TableVE.cosine(0.3, 0.01, 10), TableVE.geometric(10**-0.5, 1e-3, 10)
    np.testing.assert_allclose(
        cosine.sigmas, [0.3, 0.29126, 0.26608, 0.2275, 0.18018, 0.12982, 0.0825, 0.04392, 0.01874, 0.01], atol=5e-6
    )
    np.testing.assert_allclose(
        geometric.sigmas,
        [0.316228, 0.16681, 0.087992, 0.046416, 0.024484, 0.012915, 0.006813, 0.003594, 0.001896, 0.001],
        rtol=1e-3,
    )
    images = TableVE.geometric(50.0, 0.01, 232).sigmas
    assert [images[0], images[144], images[231]] == pytest.approx([50.0, 0.24724, 0.01], rel=1e-4)
    t = 1.0 - jnp.arange(10) / 10.0
    np.testing.assert_array_equal(cosine.index(t), np.arange(10))
    np.testing.assert_allclose(cosine.sigma(t), cosine.sigmas, rtol=1e-6)
    np.testing.assert_allclose(cosine.time(-jnp.log(cosine.sigma(t))), t, atol=1e-6)
    assert float(cosine.sigma(jnp.float32(0.0))) == 0.0


def test_a_network_that_knows_nothing_pays_half_a_unit_per_dimension() -> None:
    """½ σ² ‖0 + ε/σ‖² at every level: the sanity number of score matching."""
    x0 = jax.random.normal(jax.random.key(0), (20_000, 4))
    loss = denoising_loss(
        lambda x, t: jnp.zeros_like(x), TableVE.cosine(0.3, 0.01, 10), x0, jax.random.key(1), times=discrete_times(10)
    )
    assert 0.5 * float(loss) == pytest.approx(2.0, rel=0.02)


@pytest.mark.slow
def test_the_oracle_drives_every_sampler_to_the_data() -> None:
    """Denoising by the exact model of three points ends at one of them."""
    points, schedule = 4.0 * POINTS, LinearVP()
    model = empirical.denoiser(points)
    start = jax.random.normal(jax.random.key(0), (64, 1))
    found = sample(model, grid(schedule, 200), ddim(), jax.random.key(1), start, unroll=False)
    assert float(jnp.max(jnp.min(jnp.abs(found - points[:, 0]), axis=1))) < 1e-3
    assert len(np.unique(np.round(np.asarray(found), 2))) == 3
