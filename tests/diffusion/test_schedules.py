"""The linear VP schedule (SRPO, section 2; Song et al. 2021, eq. 33)."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.diffusion.schedules import EDM, VE, CosineVP, LinearVP, RectifiedFlow, Schedule, TableVP, grid, level_at

# α_t and σ_t in double precision.
TABLE = [
    (1e-3, 0.999945, 0.010485),
    (0.02, 0.997014, 0.077215),
    (0.1, 0.946722, 0.322053),
    (0.2, 0.811395, 0.584498),
    (0.3, 0.629550, 0.776960),
    (0.5, 0.281183, 0.959654),
    (0.7, 0.084353, 0.996436),
    (0.9, 0.016996, 0.999856),
    (0.98, 0.008011, 0.999968),
    (1.0, 0.006572, 0.999978),
]


@pytest.mark.parametrize(("t", "alpha", "sigma"), TABLE)
def test_table(t: float, alpha: float, sigma: float) -> None:
    """β₀ = 0.1 and β₁ = 20 give the published marginals, to every printed digit."""
    schedule = LinearVP()
    assert float(schedule.alpha(jnp.float32(t))) == pytest.approx(alpha, abs=6e-7)
    assert float(schedule.sigma(jnp.float32(t))) == pytest.approx(sigma, abs=6e-7)


def test_variance_is_preserved() -> None:
    """α² + σ² = 1 at all times; the two ends are data and (nearly) noise."""
    schedule, t = LinearVP(), jnp.linspace(0.0, 1.0, 1001)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0, atol=3e-7)
    assert float(schedule.alpha(t)[0]) == 1.0
    assert float(schedule.sigma(t)[0]) == 0.0
    assert np.all(np.diff(np.asarray(schedule.alpha(t))) < 0)


def test_sigma_keeps_its_digits_near_zero() -> None:
    """float32 σ_t is right to 1e-6 from t = 1e-5 on; √(1 - α²), which loses digits, would be wrong by more than 1e-4."""
    t = np.geomspace(1e-5, 1e-2, 200, dtype=np.float32)
    exact_t = t.astype(np.float64)
    exact = np.sqrt(-np.expm1(2 * (-0.25 * exact_t**2 * 19.9 - 0.5 * exact_t * 0.1)))
    schedule = LinearVP()
    np.testing.assert_allclose(np.asarray(schedule.sigma(jnp.asarray(t))), exact, rtol=1e-6)
    naive = np.sqrt(np.float32(1.0) - np.asarray(schedule.alpha(jnp.asarray(t))) ** 2)
    assert np.max(np.abs(naive / exact - 1)) > 1e-4


def test_vp_table_of_fifteen_steps() -> None:
    """LinearVP(0.1, 10) at i/15 is SWG's discrete table."""
    schedule, t = LinearVP(0.1, 10.0), jnp.arange(1, 16) / 15
    bar = np.asarray(schedule.alpha(t)) ** 2
    printed = [0.971740, 0.903632, 0.804125, 0.684774, 0.558035, 0.435178, 0.324761, 0.231927, 0.158500, 0.103657, 0.064872]
    np.testing.assert_allclose(bar, [*printed, 0.038852, 0.022267, 0.012212, 0.006409], atol=1.1e-6)
    np.testing.assert_allclose(schedule.sigma(t)[jnp.array([0, 7, 14])], [0.16811, 0.87640, 0.99679], atol=6e-6)


@pytest.mark.parametrize("num_steps", [15, 100])
def test_cosine_table(num_steps: int) -> None:
    """Products of 1 - β with β_i = min(0.999, 1 - f(i/T)/f((i-1)/T)) (Nichol & Dhariwal 2021)."""
    u = np.arange(num_steps + 1) / num_steps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    bar = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    schedule, t = CosineVP.clipped(num_steps), jnp.asarray(u[1:])
    np.testing.assert_allclose(np.asarray(schedule.alpha(t)) ** 2, bar, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(schedule.sigma(t), np.sqrt(1 - bar), rtol=1e-5)


def test_linear_table() -> None:
    """Ho et al. 2020: 1,000 steps leave ᾱ = 4.04e-5."""
    schedule = TableVP.linear(1000)
    assert float(schedule.alpha(jnp.float32(1.0))) ** 2 == pytest.approx(4.04e-5, rel=2e-3)
    assert float(schedule.sigma(jnp.float32(1e-3))) == pytest.approx(1e-2, rel=1e-4)


def test_edm_levels_are_karras() -> None:
    """Eq. 5 with 18 steps of ρ = 7 between 80 and 0.002, then 0."""
    levels = grid(EDM(), 18).levels
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels.sigma, [*expected, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(levels.alpha, 1.0)


@pytest.mark.parametrize(
    "schedule",
    [LinearVP(), LinearVP(0.1, 10.0), CosineVP(), TableVP.linear(1000), VE(), EDM(), RectifiedFlow()],
    ids=lambda schedule: type(schedule).__name__,
)
def test_time_inverts_log_snr(schedule: Schedule) -> None:
    t = jnp.linspace(0.02, 0.98, 50)
    np.testing.assert_allclose(schedule.time(level_at(schedule, t).log_snr), t, atol=3e-6)
    assert np.all(np.diff(level_at(schedule, t).log_snr) < 0)
    if not isinstance(schedule, VE | EDM | RectifiedFlow):
        np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0, atol=1e-6)


@pytest.mark.parametrize("spacing", ["time", "log_snr"])
def test_grids(spacing: str) -> None:
    """Steps, ends and order; a grid to the data ends at α = 1, σ = 0."""
    for schedule in (LinearVP(), CosineVP(), CosineVP.clipped(100), VE(), EDM()):
        to_data = grid(schedule, 7, spacing=spacing)
        stopped = grid(schedule, 7, spacing=spacing, t_min=0.1)
        assert to_data.num_steps == stopped.num_steps == 7
        assert (float(to_data.levels.t[-1]), float(to_data.levels.alpha[-1]), float(to_data.levels.sigma[-1])) == (0, 1, 0)
        assert float(stopped.levels.t[-1]) == pytest.approx(0.1, abs=1e-5)
        for levels in (to_data.levels, stopped.levels):
            assert float(levels.t[0]) == pytest.approx(1.0, abs=1e-3)  # a held α ends there
            assert np.all(np.diff(levels.sigma) < 0)
        if spacing == "log_snr":
            steps = np.diff(stopped.levels.log_snr)
            np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)


@pytest.mark.parametrize("schedule", [LinearVP(0.1, 10.0), CosineVP.clipped(20)], ids=["vp", "cosine"])
def test_grid_of_a_table_visits_its_levels(schedule: Schedule) -> None:
    """All of them, or evenly fewer; never t = 0, where no network was trained."""
    np.testing.assert_allclose(grid(schedule, 20, table=20).levels.t * 20, np.arange(20, -1, -1), atol=1e-5)
    np.testing.assert_allclose(grid(schedule, 5, table=20).levels.t * 20, [20, 16, 12, 8, 4, 0], atol=1e-5)
    with pytest.raises(ValueError, match="at most 20"):
        grid(schedule, 21, table=20)


def test_grid_needs_finite_ends() -> None:
    with pytest.raises(ValueError, match="start below it"):
        grid(RectifiedFlow(), 5, spacing="log_snr")
