"""Flow matching and Euler's map on a Gaussian, whose velocity is known (Park et al. 2025, FQL).

The closed forms are written as papers on flows write them, t from noise to data; the library's time runs the other way.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen, quick

from diffrl.diffusion.flows import FLOW, flow_grid, flow_map, flow_matching_loss
from diffrl.diffusion.schedules import RectifiedFlow

MEAN = 0.3


def slope(t: Array, std: float) -> Array:
    """c_t of the optimal velocity v*(x, t) = m + c_t (x - t m) from noise at t = 0 to N(m, s²) at t = 1."""
    return (t * std**2 - (1.0 - t)) / ((1.0 - t) ** 2 + t**2 * std**2)


def velocity(std: float) -> Callable[[Array, Array], Array]:
    """In the library's time, from data to noise."""

    def predict(x: Array, t: Array) -> Array:
        count = (1.0 - t).reshape(-1, *[1] * (x.ndim - 1))
        return -(MEAN + slope(count, std) * (x - count * MEAN))

    return predict


# A_M of the map z -> m + A_M z that M Euler steps make of the exact velocity; s itself without any error.
EULER = {0.5: {1: 0.0, 2: 0.2, 5: 0.3692, 10: 0.4308, 20: 0.4642, 100: 0.4926}, 0.2: {10: 0.1542, 20: 0.1760, 100: 0.1950}}
EULER |= {0.1: {10: 0.0617}, 0.05: {10: 0.0199}}


@pytest.mark.parametrize(
    ("std", "steps", "expected"), chosen([(s, m, a) for s, row in EULER.items() for m, a in row.items()], 0, 1, 3, 6, 9, 10)
)
def test_eulers_map_is_too_narrow(std: float, steps: int, expected: float) -> None:
    """By 14 to 60 % in ten steps; one step says the mean whatever the noise."""
    z = jnp.array([[-2.0, 0.5], [0.0, 1.0], [1.0, 3.0]])
    found = quick(lambda z: flow_map(velocity(std), flow_grid(steps), z))(z)
    np.testing.assert_allclose(found, MEAN + expected * z, atol=2e-4)


@pytest.mark.parametrize(("std", "expected"), [(0.5, 0.4991), (0.2, 0.1976), (0.1, 0.0882), (0.05, 0.0302)])
def test_the_midpoint_rule_is_nearer_for_as_many_questions(std: float, expected: float) -> None:
    """Five of its steps ask ten times, as ten of Euler's do, which come to .4308, .1542, .0617 and .0199."""
    found = float(flow_map(velocity(std), flow_grid(5), jnp.array([[1.0]]), "midpoint")[0, 0]) - MEAN
    assert found == pytest.approx(expected, abs=2e-4)
    assert abs(found - std) < 0.7 * abs(EULER[std][10] - std)


def test_a_map_draws_nothing_and_takes_any_shape() -> None:
    """Rows of two axes, as candidates for observations, are mapped as rows of one."""
    z = jax.random.normal(jax.random.key(0), (4, 3, 2))
    mapped = quick(lambda z: flow_map(velocity(0.5), flow_grid(10), z))
    np.testing.assert_allclose(mapped(z), mapped(z.reshape(12, 2)).reshape(4, 3, 2), rtol=1e-5)
    assert "random_bits" not in str(jax.make_jaxpr(lambda z: flow_map(velocity(0.5), flow_grid(10), z))(z))


@pytest.mark.parametrize("std", [1.0, 0.5, 0.1])
def test_least_loss(std: float) -> None:
    """The velocity's variance given x_t, s² / ((1 - t)² + t² s²), has the mean s π/2 over t: 1.5708 for N(0, 1), a dimension."""
    x0 = MEAN + std * jax.random.normal(jax.random.key(0), (400_000, 2))

    @quick
    def loss(bias: float) -> Array:
        exact = velocity(std)
        return flow_matching_loss(lambda x, t: exact(x, t) + bias, x0, jax.random.key(1))

    least = std * np.pi / 2.0
    assert float(loss(0.0)) == pytest.approx(least, rel=0.02)
    assert float(loss(0.1)) == pytest.approx(least + 0.01, rel=0.02)
    assert loss(0.5) > least + 0.2  # of each dimension, not of their sum


def test_targets_and_times_are_the_algebras() -> None:
    """The network is asked at (1 - t) x_0 + t z for z - x_0, t from all of [0, 1]."""
    assert RectifiedFlow() == FLOW
    x0 = jnp.linspace(-1.0, 1.0, 20_000)[:, None]
    asked: list[tuple[Array, Array]] = []

    def predict(x: Array, t: Array) -> Array:
        asked.append((x, t))
        return jnp.zeros_like(x)

    loss = flow_matching_loss(predict, x0, jax.random.key(0))
    ((x, t),) = asked
    noise = (x - (1.0 - t)[:, None] * x0) / t[:, None]
    assert float(jnp.mean(noise)) == pytest.approx(0.0, abs=0.05)
    assert float(jnp.std(noise)) == pytest.approx(1.0, abs=0.05)
    assert float(loss) == pytest.approx(float(jnp.mean((noise - x0) ** 2)), rel=1e-3)
    assert float(t.min()) < 2e-4
    assert float(t.max()) > 1.0 - 2e-4
