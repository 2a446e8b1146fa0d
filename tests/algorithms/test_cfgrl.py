"""CFGRL: what guidance by w makes of laws whose velocities are known, its conditions, and both forms learnt."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import stats
from support import act, chosen, first_gradient, make_dataset, quick, random_batch, runs_of, train_stages, trees_equal

from diffrl.algorithms import cfgrl
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.data.goals import as_goal
from diffrl.diffusion.flows import FLOW, flow_grid, followed
from diffrl.diffusion.guidance import guided
from diffrl.diffusion.targets import Model, as_model
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------------- guidance, exactly


def normal(mean: float, variance: float) -> Model:
    """The flow of N(m, s²): what is expected of z - a at x_t."""

    def velocity(x: Array, t: Array) -> Array:
        t = t[:, None]
        slope = (x - (1.0 - t) * mean) / ((1.0 - t) ** 2 * variance + t**2)
        return t * slope - mean - (1.0 - t) * variance * slope

    return as_model(velocity, FLOW, "velocity")


def half_normal() -> Model:
    """Of |N(0, 1)|: given x_t the action is normal, without what is below 0."""

    def velocity(x: Array, t: Array) -> Array:
        t = t[:, None]
        total = (1.0 - t) ** 2 + t**2
        mean, std = (1.0 - t) * x / total, t / jnp.sqrt(total)
        ratio = mean / std
        log_hazard = jax.scipy.stats.norm.logpdf(ratio) - jax.scipy.stats.norm.logcdf(ratio)
        action = mean + std * jnp.exp(log_hazard)
        return (x - (1.0 - t) * action) / t - action

    return as_model(velocity, FLOW, "velocity")


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        (0.0, 0.0, 0.9227),
        (1.0, 0.5, 0.6505),
        (1.5, 0.6765, 0.5439),
        (2.0, 0.8150, 0.4533),
        (3.0, 1.004, 0.3120),
        (5.0, 1.160, 0.1418),
    ],
)
def test_a_normal_likelihood(scale: float, mean: float, std: float) -> None:
    """Clone N(0, 1), likelihood ∝ e^{-(a - 1)²/2}, 16 steps: an affine map of the noise. The product of w = 3 is N(.75, .25)."""
    flow = guided(normal(0.5, 0.5), normal(0.0, 1.0), scale)
    at = followed(flow, flow_grid(16), jnp.array([[0.0], [1.0]]))[:, 0]
    assert float(at[0]) == pytest.approx(mean, abs=1e-3)
    assert float(at[1] - at[0]) == pytest.approx(std, abs=1e-3)


@pytest.mark.parametrize(("scale", "mean", "std"), [(1.0, 0.788, 0.555), (1.5, 0.993, 0.530), (3.0, 1.481, 0.481)])
def test_the_sign_of_an_advantage_that_grows(scale: float, mean: float, std: float) -> None:
    """Clone N(0, 1), label a ≥ 0. π f^w is the half-normal for every w (.798, .603); what is gained beyond is the guidance's."""
    noise = jnp.asarray(stats.norm.ppf((np.arange(4000) + 0.5) / 4000), jnp.float32)[:, None]
    found = np.asarray(quick(lambda z: followed(guided(half_normal(), normal(0.0, 1.0), scale), flow_grid(16), z))(noise))
    assert found.mean() == pytest.approx(mean, abs=5e-3)
    assert found.std() == pytest.approx(std, abs=5e-3)
    assert found.min() > -0.02


# --------------------------------------------------------------------------------------------------------- conditions


def test_conditions_are_dropped_by_rows() -> None:
    condition, null = jnp.ones((20_000, 3)), jnp.array([5.0, 6.0, 7.0])
    found, drop = cfgrl.dropped(jax.random.key(0), condition, null, 0.1)
    np.testing.assert_array_equal(found, jnp.where(drop[:, None], null, condition))
    assert float(drop.mean()) == pytest.approx(0.1, abs=0.01)


PARTS = (("observation", 2), ("desired_goal", 1))
GOALS = dataclasses.replace(
    Spec.plain(3, 1), observation_parts=PARTS, observation_mean=(1.0, 0.0, -3.0), observation_std=(2.0, 1.0, 0.5)
)
SMALL: dict[str, Any] = {"hidden_dims": (16,), "critic_hidden_dims": (16,), "label_dim": 4, "learning_rate": 1e-2}
STEPS = cfgrl.Act(num_flow_steps=4)


def walk() -> Dataset:
    """Two trajectories of 6 rows; in the first the goal is reached on the way, and after it another goal stands there."""
    x, goal = np.arange(12.0), np.repeat([2.0, 5.0, 11.0], [3, 3, 6])
    rows = np.stack([(x - 1.0) / 2.0, x, (goal + 3.0) / 0.5], axis=1)
    following = rows + np.array([0.5, 1.0, 0.0])
    return make_dataset(rows, np.zeros((12, 1)), np.zeros(12), following, terminal=x == 2, timeout=(x == 5) | (x == 11))


def test_goals_are_of_the_whole_trajectory() -> None:
    """Uniform over the states after a row, beyond goals that were reached, in the units of goals."""
    algorithm = cfgrl.make(cfgrl.Config(condition="goal", act=STEPS), GOALS)
    data = attach(walk(), algorithm.columns)
    np.testing.assert_array_equal(data[:].extras["trajectory_end"], np.repeat([6, 12], 6))
    (stage,) = algorithm.stages
    assert stage.batch is not None
    batch = stage.batch(data, jax.random.key(0), 12_000)
    position = np.asarray(as_goal(batch.extras["goal"], GOALS))[:, 0] * 0.5 - 3.0
    row = np.asarray(batch.observation[:, 1])
    for start in (0, 2, 3, 7):
        count = np.bincount(np.rint(position[row == start]).astype(int) - start, minlength=7)
        ahead = 6 - start % 6
        assert count[0] == count[ahead + 1 :].sum() == 0
        assert stats.chisquare(count[1 : ahead + 1]).pvalue > 1e-3


@cache
def goal_setup(scale: float) -> tuple[Any, Any]:
    algorithm = cfgrl.make(cfgrl.Config(condition="goal", **SMALL, act=dataclasses.replace(STEPS, guidance_scale=scale)), GOALS)
    return algorithm, quick(algorithm.init)(jax.random.key(0), algorithm.hparams)


def test_what_is_asked_at_which_scale() -> None:
    """w = 0 sees no goal, w = 1 no ∅; a step is affine in w."""
    observation = jax.random.normal(jax.random.key(1), (5, 3))
    other = observation.at[:, 2].add(1.0)
    _, state = goal_setup(1.0)
    null = dataclasses.replace(state.behavior, params=state.behavior.params | {"null": jnp.full(1, 9.0)})

    def found(scale: float, seen: Array = observation, params: Any = state.behavior.params) -> Array:
        return goal_setup(scale)[0].act(params, (), seen, jax.random.key(2))[0]

    np.testing.assert_array_equal(found(0.0), found(0.0, other))
    np.testing.assert_array_equal(found(1.0), found(1.0, params=null.params))
    assert not np.array_equal(found(0.0), found(0.0, params=null.params))
    assert not np.array_equal(found(1.0), found(1.0, other))


def test_the_null_condition_learns_from_dropped_rows_alone() -> None:
    """And the goal's place is taken before the first layer: of a batch whose every row is dropped goals do not count."""
    algorithm, state = goal_setup(1.0)
    batch = random_batch(16, 3, 1)
    batch = batch.replace(extras={"goal": jax.random.normal(jax.random.key(3), (16, 3))})
    moved = batch.replace(extras={"goal": batch.extras["goal"] + 1.0})
    update = quick(algorithm.stages[0].update)

    def gradient(rate: float, given: Transition) -> Any:
        hparams = dataclasses.replace(state.hparams, condition_dropout=jnp.float32(rate))
        return first_gradient(update(state.replace(hparams=hparams), given, jax.random.key(0))[0].behavior)

    assert not np.any(gradient(0.0, batch)["null"])
    assert np.all(gradient(1.0, batch)["null"])
    assert trees_equal(gradient(1.0, batch), gradient(1.0, moved))
    assert not trees_equal(gradient(0.0, batch), gradient(0.0, moved))


@pytest.mark.parametrize("good", chosen([True, False], 1))
def test_the_label_is_the_sign_of_the_advantage(good: bool) -> None:
    """Where V lies below all Q every action is good, and the other label learns nothing."""
    algorithm = cfgrl.make(cfgrl.Config(**SMALL, act=STEPS), Spec.plain(3, 1))
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    (name,) = state.value.params
    last = sorted(state.value.params[name])[1]  # Dense_1, before the norms
    moved = jax.tree.map(lambda leaf: leaf, state.value.params)
    moved[name][last]["bias"] = moved[name][last]["bias"] + (-100.0 if good else 100.0)
    state = state.replace(value=state.value.replace(params=moved))
    after, metrics = quick(algorithm.stages[0].update)(state, random_batch(16, 3, 1), jax.random.key(0))
    assert float(metrics["behavior/good"]) == good
    gradient = first_gradient(after.behavior)["labels"]
    assert np.all(gradient[int(good)])
    assert not np.any(gradient[int(not good)])


def test_goals_are_needed() -> None:
    with pytest.raises(ValueError, match=r"needs an observation with a part 'desired_goal'.*dataset\.task=goals"):
        cfgrl.make(cfgrl.Config(condition="goal"), Spec.plain(3, 1))


# ------------------------------------------------------------------------------------------------------------- learnt


@pytest.mark.slow
def test_guidance_improves_on_the_clone() -> None:
    """One state, actions N(0, .3²), reward a: of Q = a and V = 0 (expectile ½) the clone of good actions is the half-normal."""
    action = 0.3 * np.random.default_rng(0).normal(size=(4096, 1))
    data = make_dataset(np.ones((4096, 1)), action, action[:, 0])
    config = cfgrl.Config(
        condition_dropout=0.4,
        expectile=0.5,
        learning_rate=3e-3,
        hidden_dims=(48, 48),
        critic_hidden_dims=(24,),
        label_dim=4,
        num_updates=1000,
        batch_size=256,
    )
    states = train_stages(cfgrl.make(config, Spec.plain(1, 1)), runs_of(config), data)
    means = []
    for scale in (0.0, 1.0, 2.0):
        acting = cfgrl.make(dataclasses.replace(config, act=cfgrl.Act(guidance_scale=scale)), Spec.plain(1, 1))
        means.append(act(acting, states, jnp.ones((2000, 1))).mean())
    np.testing.assert_allclose(means[:2], [0.0, 0.3 * 0.788], atol=0.06)
    assert means[2] > means[1] + 0.05


@pytest.mark.slow
def test_a_clone_of_what_led_to_goals_goes_there() -> None:
    """A walk of steps ±.1 on a line, told where it will be: more of its steps go to a goal at the right, the more with w."""
    rng = np.random.default_rng(0)
    step = rng.choice([-0.1, 0.1], (200, 50))
    x = np.cumsum(np.concatenate([np.zeros((200, 1)), step], axis=1), axis=1)
    here, there = x[:, :-1].ravel(), x[:, 1:].ravel()
    zero = np.zeros_like(here)
    rows, following = (np.stack([value, zero, zero], axis=1) for value in (here, there))
    timeout = np.tile(np.arange(50) == 49, 200)
    data = make_dataset(rows, step.reshape(-1, 1), zero, following, False, timeout)
    spec = dataclasses.replace(Spec.plain(3, 1), observation_parts=PARTS)
    config = cfgrl.Config(
        condition="goal", condition_dropout=0.4, learning_rate=2e-3, hidden_dims=(64, 64), num_updates=3000, batch_size=256
    )
    states = train_stages(cfgrl.make(config, spec), runs_of(config), data)
    right = []  # the share of steps to the right, the goal at the right less the goal at the left
    for scale in (0.0, 1.0, 3.0):
        acting = cfgrl.make(dataclasses.replace(config, act=cfgrl.Act(guidance_scale=scale)), spec)
        seen = jnp.repeat(jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]), 1000, axis=0)
        shares = np.mean(act(acting, states, seen).reshape(2, 1000) > 0.0, axis=1)
        right.append(shares[0] - shares[1])
    assert right[0] == pytest.approx(0.0, abs=0.07)
    assert 0.1 < right[1] < right[2] - 0.1
