"""The linear VP schedule (SRPO, section 2; Song et al. 2021, eq. 33)."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.diffusion.schedules import LinearVP

# α_t and σ_t in double precision (the project's SRPO card, section 2.1).
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
