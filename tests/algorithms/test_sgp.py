"""SGP beyond the contract: its models against closed forms, its units, and what planning does with them."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen, make_dataset, quick

from diffrl.algorithms import sgp
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.types import Spec

KEY = jax.random.key(0)
SMALL = sgp.Config(
    hidden_dim=64,
    num_layers=3,
    batch_size=256,
    dynamics_updates=800,
    reward_updates=800,
    score_updates=2000,
    sigma_min=0.03,
    ema_decay=0.99,
)
SPEC = Spec.plain(1, 1)


def linear_data(rows: int = 20_000, length: int = 1) -> Dataset:
    """x ~ N(0, ¼) and u ~ N(0, .04), x' = x + u, reward -(x² + .1u²): the score of z is that of a Gaussian.

    Episodes of `length` steps, of which the first x is drawn so.
    """
    rng = np.random.default_rng(0)
    first, u = 0.5 * rng.normal(size=(rows // length, 1)), 0.2 * rng.normal(size=(rows // length, length))
    x = first + np.cumsum(u, axis=1) - u
    x, u = x.reshape(-1, 1), u.reshape(-1, 1)
    timeout = np.arange(len(x)) % length == length - 1
    return make_dataset(x, u, -(x**2 + 0.1 * u**2)[:, 0], x + u, terminal=False, timeout=timeout)


@cache
def untrained() -> Any:
    """Policy of SMALL, fresh."""
    algorithm = sgp.make(SMALL, SPEC)
    return algorithm.policy(quick(algorithm.init)(KEY, algorithm.hparams))


def trained(config: sgp.Config, stages: tuple[str, ...], data: Dataset) -> Any:
    """Policy after the named stages."""
    algorithm = sgp.make(config, SPEC)
    state = quick(algorithm.init)(KEY, algorithm.hparams)
    data = attach(data, algorithm.columns)
    for stage in algorithm.stages:
        if stage.name not in stages:
            continue
        extras = {} if stage.prepare is None else stage.prepare(state, data, KEY)

        @jax.jit
        def run(state: Any, data: Dataset, extras: dict[str, jax.Array], stage: Any = stage) -> Any:
            def step(state: Any, index: jax.Array) -> tuple[Any, None]:
                row_key, key = jax.random.split(jax.random.fold_in(KEY, index))
                rows = jax.random.randint(row_key, (stage.batch_size,), 0, data.size)
                batch = data[rows]
                batch = batch.replace(extras=batch.extras | {name: column[rows] for name, column in extras.items()})
                return stage.update(state, batch, key)[0], None

            return jax.lax.scan(step, state, jnp.arange(stage.num_updates))[0]

        state = run(state, data, extras)
    return algorithm.policy(state)


@pytest.mark.slow
def test_learnt_score_is_that_of_the_smoothed_data() -> None:
    """z ~ N(0, Σ) smoothed by σ in units of the range, here 2: the score is -z / (Σ + 4σ²)."""
    policy = trained(SMALL, ("score",), linear_data())
    problem = sgp.Models(SMALL, SPEC).problem(policy)
    points = jnp.array([[0.5, 0.1], [-0.3, 0.2], [0.0, -0.3]])
    for level in (0, 4):
        sigma = problem.sigmas[level]
        expected = -points / (jnp.array([0.25, 0.04]) + 4.0 * sigma**2)
        found = problem.score(points, jnp.int32(level))  # pyright: ignore[reportOptionalCall]
        np.testing.assert_allclose(found, expected, atol=0.2 * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3])
def test_models_predict(horizon: int) -> None:
    """Dynamics by the loss of one step and of three, and the reward."""
    config = dataclasses.replace(SMALL, model_horizon=horizon, num_models=2)
    problem = sgp.Models(config, SPEC).problem(trained(config, ("dynamics", "reward"), linear_data(length=4)))
    x, u = jnp.array([0.4]), jnp.array([-0.2])
    assert float(problem.dynamics(x, u)[0]) == pytest.approx(0.2, abs=0.02)
    assert float(problem.cost(x, u)) == pytest.approx(0.16 + 0.004, abs=0.03)
    assert problem.ensemble is not None
    members = problem.ensemble.dynamics(jnp.array([[0.4], [0.1]]), u)
    np.testing.assert_allclose(members[:, 0], [0.2, -0.1], atol=0.03)


@pytest.mark.slow
def test_learnt_distance_is_small_at_the_data_and_grows_away_from_it() -> None:
    config = dataclasses.replace(SMALL, learn_distance=True, distance_updates=1500)
    models = sgp.Models(config, SPEC)
    params = trained(config, ("distance",), linear_data())["distance"]
    inside, outside = (models.distance(params, jnp.array([point]))[0] for point in ([0.0, 0.0], [0.9, 0.9]))
    assert float(outside) > float(inside) + 0.2


@pytest.mark.slow
def test_units_of_the_data_do_not_matter() -> None:
    """Data ten times as large, with a range ten times as large, give a score a tenth as steep at the same place."""
    wide = dataclasses.replace(SPEC, observation_min=(-10.0,), observation_max=(10.0,))

    @partial(quick, static_argnums=0)
    def told(spec: Spec, policy: Any, x: jax.Array, u: jax.Array) -> Any:
        """Score and next observation."""
        problem = sgp.Models(SMALL, spec).problem(policy)
        return problem.score(jnp.concatenate([x, u])[None], jnp.int32(2)), problem.dynamics(x, u)  # pyright: ignore

    score, following = told(SPEC, untrained(), np.float32([0.3]), np.float32([0.1]))
    wide_score, wide_following = told(wide, untrained(), np.float32([3.0]), np.float32([0.1]))
    np.testing.assert_allclose(wide_score, score / np.array([10.0, 1.0]), rtol=1e-4)
    np.testing.assert_allclose(wide_following, 10.0 * following, rtol=1e-4)


@pytest.mark.slow
def test_the_likelihood_keeps_plans_near_the_data() -> None:
    """Reward that grows with u: without the data's likelihood the plan goes to the bound, with it hardly."""
    rng = np.random.default_rng(0)
    x, u = 0.5 * rng.normal(size=(20_000, 1)), np.clip(0.1 * rng.normal(size=(20_000, 1)), -1.0, 1.0)
    data = make_dataset(x, u, u[:, 0], x + u, terminal=False)
    config = dataclasses.replace(SMALL, act=sgp.Act(horizon=3, beta=0.0))
    policy = trained(config, ("dynamics", "reward", "score"), data)
    chosen = {}
    for beta in (0.0, 1.0):
        algorithm = sgp.make(dataclasses.replace(config, act=dataclasses.replace(config.act, beta=beta)), SPEC)
        carry = algorithm.init_carry(policy, 4)
        action, carry = jax.jit(algorithm.act)(policy, carry, jnp.zeros((4, 1)), KEY)
        chosen[beta] = float(jnp.mean(action))
    assert chosen[0.0] > 0.9
    assert abs(chosen[1.0]) < 0.3


@pytest.mark.parametrize(
    ("planner", "uncertainty"),
    chosen(
        [
            ("shooting", "spread"),
            ("shooting", "distance"),
            ("cem", "none"),
            ("mppi", "distance"),
            ("cem", "spread"),
            ("feedback", "score"),
            ("feedback_zeroth", "score"),
        ],
        1,
    ),
)
def test_every_planner_acts_and_goes_on_from_its_plan(planner: str, uncertainty: str) -> None:
    act = sgp.Act(
        planner=planner, uncertainty=uncertainty, beta=0.0 if uncertainty == "none" else 0.1, horizon=4, num_iterations=3
    )
    config = dataclasses.replace(SMALL, num_models=2, learn_distance=True, distance_updates=1, act=act)
    algorithm = sgp.make(config, SPEC)
    policy = algorithm.policy(quick(algorithm.init)(KEY, algorithm.hparams))
    carry = algorithm.init_carry(policy, 3)
    action, carry = quick(algorithm.act)(policy, carry, jnp.zeros((3, 1)), KEY)
    assert action.shape == (3, 1)
    assert np.isfinite(action).all()
    assert carry["started"].all()
    assert carry["actions"].shape == (3, 4, 1)
    assert np.isfinite(carry["expected_return"]).all()


def test_a_warm_start_shifts_the_plan() -> None:
    """With one iteration, which changes nothing, the next plan is the last one a step further."""
    config = dataclasses.replace(SMALL, act=sgp.Act(horizon=4, num_iterations=1))
    algorithm, policy = sgp.make(config, SPEC), untrained()
    act = quick(algorithm.act)
    _, carry = act(policy, algorithm.init_carry(policy, 2), jnp.zeros((2, 1)), KEY)
    action, later = act(policy, carry, jnp.zeros((2, 1)), jax.random.key(7))
    np.testing.assert_array_equal(action, carry["actions"][:, 1])
    np.testing.assert_array_equal(later["actions"][:, -1], carry["actions"][:, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act": sgp.Act(planner="cem")}, "only the gradient is known"),
        ({"act": sgp.Act(uncertainty="none")}, "nothing for act.beta"),
        ({"act": sgp.Act(uncertainty="spread")}, "needs an ensemble"),
        ({"act": sgp.Act(uncertainty="distance")}, "learn_distance"),
        ({"act": sgp.Act(planner="collocation")}, "score_of='transition'"),
        ({"score_of": "transition"}, "score_of='transition'"),
    ],
)
def test_choices_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sgp.make(dataclasses.replace(SMALL, **changes), SPEC)


def test_a_spec_without_ranges_is_refused() -> None:
    with pytest.raises(ValueError, match="range of the data"):
        sgp.make(SMALL, dataclasses.replace(SPEC, observation_min=(), observation_max=()))
