"""Prediction targets: one two-by-two system, checked against each paper's own formula."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.diffusion.schedules import EDM, VE, CosineVP, LinearVP, RectifiedFlow, Schedule, TableVP, level_at
from diffrl.diffusion.targets import TARGETS, Prediction, as_model, clipped, combine, karras, split

SCHEDULES: list[Schedule] = [LinearVP(), CosineVP(), TableVP.linear(1000), VE(), EDM(), RectifiedFlow()]
IDS = ["linear", "cosine", "table", "ve", "edm", "flow"]
T = jnp.linspace(0.05, 0.95, 7)
DATA = jax.random.normal(jax.random.key(0), (7, 3))
NOISE = jax.random.normal(jax.random.key(1), (7, 3))


def noised(schedule: Schedule) -> jax.Array:
    return schedule.alpha(T)[:, None] * DATA + schedule.sigma(T)[:, None] * NOISE


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_every_conversion_is_invertible(schedule: Schedule) -> None:
    """Any target to any other and back, to float32 accuracy in double precision's arithmetic of the coefficients."""
    with jax.enable_x64(True):
        parts = Prediction(DATA.astype(jnp.float64), NOISE.astype(jnp.float64))
        t = T.astype(jnp.float64)
        x = schedule.alpha(t)[:, None] * parts.x0 + schedule.sigma(t)[:, None] * parts.epsilon
        for one, other in itertools.permutations(TARGETS, 2):
            if "karras" in (one, other) and not isinstance(schedule, VE | EDM):
                continue  # defined for α = 1
            value = combine(one, schedule, t, parts)
            there = combine(other, schedule, t, split(one, schedule, t, x, value))
            back = combine(one, schedule, t, split(other, schedule, t, x, there))
            np.testing.assert_allclose(back, value, rtol=1e-6, atol=1e-7, err_msg=f"{one} to {other}")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_splits_recover_data_and_noise_in_float32(schedule: Schedule) -> None:
    """Where signal and noise are both present (0.2 < α/σ < 5) single precision is enough."""
    ratio = np.asarray(schedule.alpha(T) / schedule.sigma(T))
    rows = (ratio > 0.2) & (ratio < 5.0)
    for name in TARGETS:
        if name == "karras" and not isinstance(schedule, VE | EDM):
            continue
        value = combine(name, schedule, T, Prediction(DATA, NOISE))
        parts = split(name, schedule, T, noised(schedule), value)
        np.testing.assert_allclose(parts.x0[rows], DATA[rows], atol=2e-5, err_msg=name)
        np.testing.assert_allclose(parts.epsilon[rows], NOISE[rows], atol=2e-5, err_msg=name)


def test_flow_velocity_is_noise_minus_data() -> None:
    value = combine("velocity", RectifiedFlow(), T, Prediction(DATA, NOISE))
    np.testing.assert_allclose(value, NOISE - DATA, atol=1e-6)


def test_velocity_is_the_derivative_of_the_path() -> None:
    schedule, h = LinearVP(), 1e-6
    with jax.enable_x64(True):
        t = T.astype(jnp.float64)
        value = combine("velocity", schedule, t, Prediction(DATA, NOISE))
        high, low = (schedule.alpha(s)[:, None] * DATA + schedule.sigma(s)[:, None] * NOISE for s in (t + h, t - h))
        np.testing.assert_allclose(value, (high - low) / (2 * h), rtol=1e-6, atol=1e-6)


def test_edm_is_karras_preconditioning() -> None:
    """x_0 = c_skip x + c_out F with their coefficients (table 1)."""
    schedule, data_std = EDM(), 0.5
    sigma, x = np.asarray(schedule.sigma(T))[:, None], noised(schedule)
    network = jax.random.normal(jax.random.key(2), (7, 3))
    skip = data_std**2 / (sigma**2 + data_std**2)
    out = sigma * data_std / np.sqrt(sigma**2 + data_std**2)
    parts = split(karras(data_std), schedule, T, x, network)
    np.testing.assert_allclose(parts.x0, skip * x + out * network, rtol=2e-4, atol=2e-4)


def test_v_has_unit_variance() -> None:
    """α² + σ² = 1: for unit data the v target is as large as the noise at every time (Salimans & Ho 2022)."""
    keys = jax.random.split(jax.random.key(4))
    data, noise = (jax.random.normal(key, (7, 20_000)) for key in keys)
    value = np.asarray(combine("v", LinearVP(), T, Prediction(data, noise)))
    np.testing.assert_allclose(value.std(axis=1), 1.0, atol=0.02)


def test_clipping_keeps_x() -> None:
    """The clipped data and the noise that goes with it still make up x."""
    schedule = LinearVP()
    model = clipped(as_model(lambda x, t: jnp.zeros_like(x), schedule), -0.5, jnp.array([0.5, 0.1, 2.0]))
    level = level_at(schedule, jnp.float32(0.6))
    x0, epsilon = model(DATA, level)
    assert np.all(np.asarray(x0) <= np.array([0.5, 0.1, 2.0], np.float32))
    assert np.asarray(x0).min() >= -0.5
    np.testing.assert_allclose(level.alpha * x0 + level.sigma * epsilon, DATA, atol=1e-5)


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match="one of epsilon, x0, v"):
        combine("noise", LinearVP(), T, Prediction(DATA, NOISE))
