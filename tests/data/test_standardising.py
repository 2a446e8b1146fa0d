"""Standardised observations to the last digit: columns of any scale and any offset, in training and when acting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.algorithm import Algorithm, in_environment_units, no_carry
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.types import Spec

HOUR = 3600.0
UNIX = 1.7e9


def built(column: np.ndarray):
    """A column beside one of ordinary numbers, standardised; what training sees, and the Spec."""
    observation = np.stack([column, np.linspace(-1, 1, len(column)).astype(column.dtype)], axis=1)
    n = len(column)
    source = from_arrays(
        observation=observation, next_observation=observation, action=np.zeros((n, 1)), reward=np.zeros(n), terminal=np.zeros(n)
    )
    dataset, spec, _ = build(source, Transforms(standardize_observations=True))
    return np.asarray(dataset.rows[:, 0]), spec


def deviates(n: int = 5000) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=n)
    return (x - x.mean()) / x.std()


@pytest.mark.parametrize(
    "offset, scale, kind, error",
    [
        (0.0, 1e-9, np.float32, 1e-6),  # tiny, but it moves
        (0.0, 1e-9, np.float64, 1e-6),
        (0.0, 1e-30, np.float64, 1e-6),
        (1.0, 1e-9, np.float64, 1e-6),
        (UNIX, 5 * HOUR, np.float64, 1e-6),
        (UNIX, 60.0, np.float64, 1e-6),
        (UNIX, 5 * HOUR, np.float32, 0.6 * 128 / (5 * HOUR)),  # float32 holds such times to 128 s
        (-1e7, 3.0, np.float64, 1e-6),
        (0.0, 1e7, np.float32, 1e-6),
    ],
)
def test_columns_of_any_scale_and_offset(offset, scale, kind, error):
    seen, spec = built((offset + scale * deviates()).astype(kind))
    np.testing.assert_allclose(seen, deviates(), atol=error + 2e-6)
    np.testing.assert_allclose(spec.observation_std[0], scale, rtol=1e-3)
    np.testing.assert_allclose(spec.observation_mean[0], offset, rtol=1e-12, atol=scale * 1e-3)
    assert seen.dtype == np.float32


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, UNIX, -3e7])
def test_a_column_that_never_moves_keeps_its_scale(value, kind):
    """Sums of a million equal numbers are rounded: that is no movement, and neither is their last digit."""
    still = np.full(200_000, value, kind)
    for column in (still, np.where(np.arange(200_000) % 2 == 0, still, np.nextafter(still, kind(1e30)))):
        seen, spec = built(column)
        assert spec.observation_std[0] == 1.0
        np.testing.assert_allclose(seen, 0, atol=max(1e-6, 2e-7 * abs(value)))


def test_many_rows_are_standardised_as_few_are():
    """In blocks, of which none is left out."""
    seen, _ = built(UNIX + HOUR * deviates(2**17 + 3))
    np.testing.assert_allclose(seen, deviates(2**17 + 3), atol=1e-5)


def echo() -> Algorithm:
    """A method whose action is the observation it sees."""
    return Algorithm(None, lambda key, hparams: None, (), lambda state: None, no_carry, lambda p, c, o, k: (o / 10, c))


@pytest.mark.parametrize("kind, error", [(np.float32, 1e-6), (np.float64, 64 / HOUR)])
def test_acting_loses_nothing_but_what_float32_rounds_of_an_observation(kind, error):
    """Observations that float32 holds are standardised as in training; of others half of the last digit is lost."""
    mean = UNIX + 37.123
    spec = Spec(1, 1, (mean,), (HOUR,), (-1.0,), (1.0,))
    observation = (UNIX + HOUR * deviates(100)[:, None]).astype(kind)
    act = jax.jit(lambda x: in_environment_units(echo(), spec).act(None, (), x, jax.random.key(0))[0])
    expected = (observation.astype(np.float64) - mean) / HOUR
    np.testing.assert_allclose(10 * act(jnp.asarray(observation, jnp.float32)), expected, atol=error + 1e-5)


def test_acting_is_unchanged_where_nothing_is_standardised():
    spec = Spec.plain(2, 2)
    observation = jnp.array([[0.1, -3.7], [1e-8, 9.0]])
    action, _ = in_environment_units(echo(), spec).act(None, (), observation, jax.random.key(0))
    np.testing.assert_array_equal(action, (observation / 10 + 1) / 2 * 2 - 1)
