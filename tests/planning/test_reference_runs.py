"""Whole plans with exact models and exact scores, against figures worked out beforehand with another implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.scipy.stats import norm

from diffrl.diffusion import empirical
from diffrl.diffusion.schedules import TableVE
from diffrl.envs.control.hole import HoleIntegrator
from diffrl.planning.gradient import Annealing, shooting
from diffrl.planning.problem import Plan, Problem

TASK, SIGMAS = HoleIntegrator(), TableVE.cosine(0.3, 0.01, 10).sigmas
LIMIT, SCALE = 0.1, 0.2  # of the data's actions, and the length that their noise is measured by


@functools.cache
def data() -> Array:
    return TASK.sample(jax.random.key(1), 20_000)[0]


def score(points: Array, level: Array) -> Array:
    """Of x that of 20,000 smoothed points; of u, uniform in a box and smoothed by .2 σ, the closed form."""
    sigma = jnp.asarray(SIGMAS)[level]
    deviation = SCALE * sigma
    a, b = (points[:, 2:] + LIMIT) / deviation, (points[:, 2:] - LIMIT) / deviation
    inside = jnp.maximum(norm.cdf(a) - norm.cdf(b), 1e-30)
    return jnp.concatenate(
        [empirical.score(points[:, :2], data(), sigma), (norm.pdf(a) - norm.pdf(b)) / deviation / inside], axis=1
    )


def plan(beta: float, weighting: str) -> Plan:
    data()  # before tracing begins
    problem = Problem(TASK.dynamics, TASK.cost, TASK.final_cost, score, SIGMAS)
    options = Annealing(num_iterations=300, learning_rate=1e-2, beta=beta, weighting=weighting)
    guess = 0.1 * jax.random.normal(jax.random.key(0), (25, 2))
    start = jnp.array(TASK.x_start)
    return jax.jit(lambda: shooting(options)(problem, start, guess, jax.random.key(0)))()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "weighting", "effort", "nearest"),
    [(0.0, "logp", 0.33, 0.28), (1e-2, "logp", 0.181, 0.42), (1.0, "dist", 0.202, 0.42), (10.0, "dist", 0.137, 0.55)],
)
def test_the_plan_goes_round_the_hole_where_the_data_count(beta: float, weighting: str, effort: float, nearest: float) -> None:
    """Σ‖u‖² and the smallest distance to the centre of a hole of radius .4; the first guess is random, so to within a part."""
    found = plan(beta, weighting)
    radius = jnp.linalg.norm(found.observations, axis=1)
    assert float(jnp.linalg.norm(found.observations[-1] - jnp.array(TASK.x_goal))) < 0.02
    assert float(jnp.sum(found.actions**2)) == pytest.approx(effort, rel=0.35)
    assert float(jnp.min(radius)) == pytest.approx(nearest, abs=0.12)
    if beta == 0.0:
        assert float(jnp.min(radius)) < TASK.hole_radius
    np.testing.assert_array_less(TASK.hole_radius - 0.02 if beta else 0.0, np.asarray(jnp.min(radius)))
