"""Planners against problems with a known optimum."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import chosen

from diffrl.planning import feedback
from diffrl.planning.gradient import (
    Annealing,
    betas,
    collocation,
    first_observations,
    level_indices,
    shooting,
    transcription,
)
from diffrl.planning.problem import (
    Ensemble,
    Planner,
    Problem,
    log_likelihood,
    model_cost,
    pairs,
    with_distance,
    with_spread,
)
from diffrl.planning.sampling import cem, mppi

VARIANCES = jnp.array([0.26, 0.05])  # of (x, u) after smoothing by σ = .1
START, GUESS, KEY = jnp.ones(1), jnp.zeros((5, 1)), jax.random.key(0)

# min .1 Σu² + 10 x_T² - β Σ log N((x, u); 0, VARIANCES), x' = x + u, x_0 = 1, T = 5.
LINEAR = Problem(
    dynamics=lambda x, u: x + u,
    cost=lambda x, u: 0.1 * jnp.sum(u**2),
    final_cost=lambda x: 10.0 * jnp.sum(x**2),
    score=lambda points, level: -points / VARIANCES,
    sigmas=(0.1,),
)
OPTIMA = {
    0.0: [-0.199601] * 5,
    0.5: [-0.357473, -0.236333, -0.159751, -0.113287, -0.088182],
    5.0: [-0.345319, -0.219670, -0.136181, -0.078829, -0.036606],
}
LONG = Annealing(num_iterations=4_000, learning_rate=0.02, learning_rate_schedule="cosine")


def planned(planner: Planner, problem: Problem = LINEAR, guess: Array = GUESS) -> Array:
    return jax.jit(lambda start, guess: planner(problem, start, guess, KEY))(START, guess).actions[:, 0]


@pytest.mark.parametrize("beta", chosen([*OPTIMA], 1))
@pytest.mark.parametrize("bound", ["none", "project", "tanh"])
def test_shooting_finds_the_optimum(beta: float, bound: str) -> None:
    actions = planned(shooting(dataclasses.replace(LONG, beta=beta, bound=bound)))
    np.testing.assert_allclose(actions, OPTIMA[beta], atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_transcription_finds_it_too(beta: float) -> None:
    """The model holds softly: the path is the same up to the defect."""
    actions = planned(transcription(dataclasses.replace(LONG, beta=beta), 100.0))
    np.testing.assert_allclose(actions, OPTIMA[beta], atol=0.02)


def test_weightings_differ_by_the_variance_of_the_noise() -> None:
    """β σ² of "dist" is β of "logp"."""
    one = planned(shooting(dataclasses.replace(LONG, beta=50.0, weighting="dist")))
    np.testing.assert_allclose(one, OPTIMA[0.5], atol=1e-3)


def test_collocation_follows_the_data_s_transitions() -> None:
    """No model: with the score of Gaussian transitions x' = x + u, small noise makes the defect small."""

    def problem(sigma: Array) -> Problem:
        x, u = 0.25, 0.04
        covariance = jnp.array([[x, 0.0, x], [0.0, u, u], [x, u, x + u]]) + sigma**2 * jnp.eye(3)
        precision = jnp.linalg.inv(covariance)
        return Problem(
            dynamics=LINEAR.dynamics,
            cost=LINEAR.cost,
            final_cost=LINEAR.final_cost,
            score=lambda points, level: -points @ precision,
            sigmas=(1.0,),
        )

    planner = jax.jit(lambda sigma: collocation(dataclasses.replace(LONG, beta=0.5))(problem(sigma), START, GUESS, KEY))
    defects, actions = [], GUESS
    for sigma in (0.3, 0.1, 0.03):
        plan = planner(sigma)
        assert plan.observations.shape == (6, 1)
        actions = plan.actions[:, 0]
        defects.append(float(jnp.max(jnp.abs(plan.observations[:-1] + plan.actions - plan.observations[1:]))))
    assert defects[0] > 3 * defects[1] > 9 * defects[2]
    exact = LINEAR._replace(score=lambda points, level: -points / jnp.array([0.25, 0.04]))
    np.testing.assert_allclose(actions, planned(shooting(dataclasses.replace(LONG, beta=0.5)), exact), atol=0.02)


def test_collocation_of_a_boundary_value_problem_keeps_both_ends() -> None:
    precision = jnp.linalg.inv(jnp.array([[0.25, 0, 0.25], [0, 0.04, 0.04], [0.25, 0.04, 0.29]]) + 1e-3 * jnp.eye(3))
    problem = LINEAR._replace(
        score=lambda points, level: -points @ precision, final_cost=lambda x: jnp.zeros(()), goal=jnp.array([0.5])
    )
    plan = collocation(dataclasses.replace(LONG, beta=0.5))(problem, START, GUESS, KEY)
    assert float(plan.observations[0, 0]) == 1.0
    assert float(plan.observations[-1, 0]) == 0.5
    assert float(jnp.sum(plan.actions)) == pytest.approx(-0.5, abs=0.05)


def test_first_guess_between_boundary_values_is_the_released_one() -> None:
    """The free observations themselves, x_1 … x_{T-1}, run evenly from the start to the goal; without a goal all stand still."""
    problem = LINEAR._replace(goal=jnp.array([0.0]))
    np.testing.assert_allclose(first_observations(problem, START, 5)[:, 0], [1.0, 2 / 3, 1 / 3, 0.0], atol=1e-6)
    np.testing.assert_array_equal(first_observations(LINEAR, START, 5), np.ones((5, 1)))
    one = Annealing(num_iterations=1)  # of which none changes anything: the plan is the guess
    found = collocation(one)(problem, START, GUESS, KEY).observations[:, 0]
    np.testing.assert_allclose(found, [1.0, 1.0, 2 / 3, 1 / 3, 0.0, 0.0], atol=1e-6)


def test_surrogate_has_the_gradient_of_the_likelihood_and_no_other() -> None:
    """The gradient is that of Σ log p, the value 0, and a score's own parameters are left alone."""

    def density(points: Array) -> Array:
        return jnp.sum(-0.5 * points**2 / VARIANCES)

    def path(actions: Array) -> Array:
        return pairs(model_cost(LINEAR, START, actions)[1], actions)

    actions = jnp.linspace(-0.4, 0.1, 5)[:, None]
    level = jnp.int32(0)
    assert LINEAR.score is not None
    surrogate = jax.grad(lambda u: log_likelihood(LINEAR.score, path(u), level))(actions)  # pyright: ignore
    np.testing.assert_allclose(surrogate, jax.grad(lambda u: density(path(u)))(actions), rtol=1e-5)
    assert float(log_likelihood(LINEAR.score, path(actions), level)) == 0.0
    of_parameters = jax.grad(lambda v: log_likelihood(lambda z, i: -z / v, path(actions), level))(VARIANCES)
    np.testing.assert_array_equal(of_parameters, 0.0)


def test_levels_walk_down_as_released() -> None:
    counts = np.bincount(level_indices(10, 50))
    np.testing.assert_array_equal(counts, [6, 5, 5, 5, 5, 5, 5, 5, 5, 4])
    assert (np.diff(level_indices(10, 50)) >= 0).all()
    np.testing.assert_allclose(betas(Annealing(num_iterations=5, beta=1.0, beta_min=0.0))[[0, 2, 4]], [1.0, 0.5, 0.0], atol=1e-12)
    np.testing.assert_array_equal(betas(Annealing(num_iterations=3, beta=0.2)), [0.2] * 3)


@pytest.mark.parametrize(
    "planner",
    [cem(60, 128, 16, 0.5), cem(400, 64, 8, 0.02, refit=False), mppi(300, 256, 0.05)],
    ids=["cem", "cem_constant", "mppi"],
)
def test_sampling_planners_find_it_without_gradients(planner: Planner) -> None:
    problem = LINEAR._replace(score=None)
    actions = planned(planner, problem)
    cost = lambda u: float(model_cost(problem, START, jnp.reshape(u, (5, 1)))[0])  # noqa: E731
    assert cost(actions) < cost(jnp.array(OPTIMA[0.0])) + 0.01


def test_a_distance_in_the_cost_is_what_a_score_is_in_the_gradient() -> None:
    """Zeroth order with ½ Σ z²/v as the distance, β = ½: the penalised optimum of first order."""
    distance = with_distance(lambda points: 0.5 * jnp.sum(points**2 / VARIANCES, axis=-1), 0.5)
    np.testing.assert_allclose(planned(cem(200, 256, 16, 0.3, cost=distance)), OPTIMA[0.5], atol=0.02)
    np.testing.assert_allclose(planned(shooting(LONG, distance)), OPTIMA[0.5], atol=1e-3)


def test_spread_of_an_ensemble_costs() -> None:
    """Members that differ in how strongly actions act: their variance makes the plan act less."""
    gains = jnp.array([[0.8], [1.2]])
    problem = LINEAR._replace(score=None, ensemble=Ensemble(2, lambda x, u: x + gains * u))
    bold, timid = planned(shooting(LONG, with_spread(0.0)), problem), planned(shooting(LONG, with_spread(10.0)), problem)
    assert float(jnp.sum(jnp.abs(timid))) < 0.8 * float(jnp.sum(jnp.abs(bold)))
    costs = [float(with_spread(1.0)(problem, START, jnp.full((5, 1), -0.2))[0])]
    members = [10.0 * (1.0 - gain) ** 2 + 0.02 for gain in (0.8, 1.2)]
    assert costs[0] == pytest.approx(np.mean(members) + np.var(members, ddof=1), abs=1e-4)
    with pytest.raises(ValueError, match="ensemble"):
        with_spread(1.0)(LINEAR, START, GUESS)


def test_plans_of_many_starts_are_those_of_each_alone() -> None:
    planner = shooting(Annealing(num_iterations=30, beta=0.5))
    starts = jnp.linspace(-1.0, 1.0, 4)[:, None]
    many = jax.vmap(lambda start: planner(LINEAR, start, GUESS, KEY).actions)(starts)
    for start, actions in zip(starts, many, strict=True):
        np.testing.assert_allclose(planner(LINEAR, start, GUESS, KEY).actions, actions, atol=1e-5)


@pytest.mark.parametrize("order", chosen(["first", "zeroth"], 0))
def test_feedback_policy_finds_the_optimum(order: str) -> None:
    """Open loop from one start: first order exactly, zeroth order up to its noise."""
    options = feedback.Options(
        num_iterations=2_000,
        learning_rate=0.01,
        beta=0.5,
        order=order,
        noise=0.05 if order == "zeroth" else 0.0,
        max_gradient_norm=100.0,
    )
    batch = 1 if order == "first" else 512
    params, costs = feedback.optimize(
        LINEAR, feedback.open_loop, jnp.zeros((5, 1)), lambda key: jnp.ones((batch, 1)), 5, KEY, options
    )
    np.testing.assert_allclose(params[:, 0], OPTIMA[0.5], atol=2e-3 if order == "first" else 0.03)
    assert float(costs[-1]) < float(costs[0])


@pytest.mark.parametrize("order", chosen(["first", "zeroth"], 0))
def test_feedback_as_a_planner_finds_the_optimum(order: str) -> None:
    """Its plan is the policy's without noise, and many samples of the noise stand for one start."""
    noise, num_samples = (0.0, 1) if order == "first" else (0.05, 512)
    options = feedback.Options(
        num_iterations=2_000, learning_rate=0.01, beta=0.5, order=order, noise=noise, max_gradient_norm=100.0
    )
    actions = planned(feedback.feedback(options, num_samples))
    np.testing.assert_allclose(actions, OPTIMA[0.5], atol=2e-3 if order == "first" else 0.03)


def test_the_norm_of_a_zeroth_order_step_is_of_the_whole_gradient() -> None:
    """Mean over the starts, cost and likelihood together, over all parameters: three steps of Adam written out."""
    noise, bound, beta, batch = 0.1, 0.01, 0.5, 4
    options = feedback.Options(
        num_iterations=4, learning_rate=0.1, beta=beta, order="zeroth", noise=noise, max_gradient_norm=bound
    )
    starts = lambda key: jnp.linspace(0.5, 2.0, batch)[:, None]  # noqa: E731
    found, _ = feedback.optimize(LINEAR, feedback.open_loop, jnp.zeros((5, 1)), starts, 5, KEY, options)

    u, mean, square = np.zeros(5), np.zeros(5), np.zeros(5)
    norms = []
    for k in range(3):
        w = noise * np.asarray(jax.random.normal(jax.random.split(jax.random.fold_in(KEY, k))[1], (batch, 5, 1)))[..., 0]
        gradient = np.zeros(5)
        for start, drawn in zip(np.linspace(0.5, 2.0, batch), w, strict=True):
            cost = lambda actions, start=start: 0.1 * np.sum(actions**2) + 10.0 * (start + actions.sum()) ** 2  # noqa: E731
            gradient += (cost(u + drawn) - cost(u)) * drawn / noise**2
            x = start + np.concatenate([[0.0], np.cumsum(u + drawn)[:-1]])
            pulled = beta * np.stack([x, u + drawn]) / np.asarray(VARIANCES)[:, None]
            gradient += pulled[1] + np.append(np.cumsum(pulled[0][::-1])[::-1][1:], 0.0)  # u_t moves all x after it
        gradient /= batch
        norms.append(np.linalg.norm(gradient))
        gradient *= min(1.0, 5 * bound / norms[-1])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        u = u - 0.1 * mean / (1 - 0.9 ** (k + 1)) / (np.sqrt(square / (1 - 0.999 ** (k + 1))) + 1e-8)
    assert min(norms) > 5 * bound
    np.testing.assert_allclose(found[:, 0], u, atol=1e-4)


def test_affine_feedback_serves_all_starts() -> None:
    params = {"gain": jnp.zeros((5, 1, 1)), "offset": jnp.zeros((5, 1))}
    options = feedback.Options(num_iterations=1_500, learning_rate=0.01)
    problem = LINEAR._replace(score=None)
    starts = lambda key: jax.random.uniform(key, (32, 1), minval=-1.0, maxval=1.0)  # noqa: E731
    params, costs = feedback.optimize(problem, feedback.affine, params, starts, 5, KEY, options)
    assert float(costs[-1]) < 0.02 * float(costs[0])


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ValueError, match="num_iterations"):
        Annealing(num_iterations=0)
    with pytest.raises(ValueError, match="num_elites"):
        cem(num_samples=4, num_elites=8)
    with pytest.raises(ValueError, match="noise"):
        feedback.Options(order="zeroth")
