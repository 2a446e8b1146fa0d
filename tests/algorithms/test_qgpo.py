"""QGPO: its published networks, its sampler under exact guidance, its support actions, its backup and its policy."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import (
    EIGHT,
    act,
    assert_trees_close,
    chosen,
    eight_modes,
    gaussian_epsilon,
    make_dataset,
    quick,
    runs_of,
    train_stages,
    trees_equal,
)

from diffrl.algorithms import qgpo
from diffrl.config import ConfigError, validate_method
from diffrl.data.dataset import Dataset
from diffrl.diffusion.dpm_solver import fast
from diffrl.diffusion.guidance import energy_guided
from diffrl.diffusion.schedules import Level
from diffrl.diffusion.targets import Model, as_model
from diffrl.studies.decoding import guided_model
from diffrl.types import Spec, Transition

# ------------------------------------------------------------------------------------------------------ published sizes


@pytest.mark.parametrize(("observation", "action", "behavior"), [(11, 3, 1_627_939), (17, 6, 1_634_278), (29, 8, 1_638_760)])
def test_published_sizes(observation: int, action: int, behavior: int) -> None:
    """Of Hopper, HalfCheetah and AntMaze; the energy's network is [a, 32 of t, s] -> 256 × 4 -> 1, Q's [a, s] -> 256 × 3 -> 1."""
    algorithm = qgpo.make(qgpo.Config(), Spec.plain(observation, action))
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hparams)
    found = {
        name: sum(leaf.size for leaf in jax.tree.leaves(getattr(state, name).params)) for name in ("behavior", "energy", "critic")
    }
    inputs = observation + action
    assert found == {
        "behavior": behavior,
        "energy": 256 * (inputs + 32) + 256 + 3 * (256 * 256 + 256) + 257,
        "critic": 2 * (256 * inputs + 256 + 2 * (256 * 256 + 256) + 257),
    }
    for constants in (state.behavior_constants, state.energy_constants):
        assert [leaf.shape for leaf in jax.tree.leaves(constants)] == [(16,)]


# ------------------------------------------------------------------------------------------------ exact guidance, sampled


@pytest.mark.parametrize(("beta", "spread"), chosen([(0.0, 0.320), (3.0, 0.317), (10.0, 0.306), (20.0, 0.297)], 2))
def test_exact_guidance_of_eight_gaussians(beta: float, spread: float) -> None:
    """Fifteen evaluations give the modes their weights, and narrow each from .354: the uniform grid's last step is long in λ."""
    walk = fast(qgpo.SCHEDULE, 15, qgpo.T_MIN, order=2, integrand="x0")
    x = np.asarray(quick(lambda start: walk(guided_model(EIGHT, beta), start))(jax.random.normal(jax.random.key(0), (40_000, 2))))
    nearest, found = eight_modes(x)
    expected = np.asarray(jax.nn.softmax(beta * jnp.arange(8) / 7.0))
    assert 0.5 * np.abs(found - expected).sum() < 0.008
    assert (x - EIGHT.means[nearest]).std() == pytest.approx(spread, abs=0.004)


def guided_normal(curvature: float, exact: bool) -> Model:
    """N(0, 1) guided by what a perfect network has learnt of e = -κx²/2: of log E[e^{βe} | x_t], or of E[βe | x_t]."""

    def log_weight(x: Array, level: Level) -> Array:
        steepness = curvature * level.alpha**2
        return -0.5 * jnp.sum(x**2, axis=-1) * (steepness / (1.0 + curvature * level.sigma**2) if exact else steepness)

    return energy_guided(as_model(gaussian_epsilon([0.0], 1.0), qgpo.SCHEDULE), log_weight)


@pytest.mark.parametrize(("exact", "variance"), [(True, 0.25), (False, 0.0498)])
def test_the_mean_energy_overshoots(exact: bool, variance: float) -> None:
    """βκ = 3: the contrastive energy leads to 1/(1 + βκ), that of "mse" to e^{-βκ}. The map is linear: two points say it."""
    walk = fast(qgpo.SCHEDULE, 401, qgpo.T_MIN, order=2, integrand="x0")
    ends = quick(lambda x: walk(guided_normal(3.0, exact), x))(jnp.array([[0.0], [1.0]]))
    assert float(ends[1, 0] - ends[0, 0]) ** 2 == pytest.approx(variance, rel=3e-3)


# ----------------------------------------------------------------------------------------------------------------- backup


@pytest.mark.parametrize(
    ("q", "beta", "value"),
    [
        ([0.0, 1.0], 1.0, 0.73106),
        ([0.0, 1.0, 5.0], 0.0, 2.0),
        ([-1.0, 3.0, 2.0], 1e4, 3.0),
        ([2.0, 2.0, 2.0], 7.0, 2.0),
    ],
)
def test_softmax_value(q: list[float], beta: float, value: float) -> None:
    """Between the mean and the maximum."""
    assert float(qgpo.softmax_value(jnp.array(q), beta)) == pytest.approx(value, abs=1e-5)


def test_softmax_value_is_of_each_state() -> None:
    found = qgpo.softmax_value(jnp.array([[0.0, 1.0], [10.0, 11.0]]), 1.0)
    np.testing.assert_allclose(found, [0.73106, 10.73106], atol=1e-4)


# -------------------------------------------------------------------------------------------------------- support actions

SMALL: dict[str, Any] = {
    "num_support_actions": 32,
    "support_denoising_steps": 3,
    "behavior_hidden_dims": (8,),
    "critic_hidden_dims": (8,),
    "energy_hidden_dims": (8,),
    "behavior_batch_size": 8,
    "batch_size": 8,
}
ROWS, SPEC = 12, Spec.plain(3, 2)


@cache
def setup() -> tuple[Any, Any, Dataset]:
    """The algorithm, a fresh state but for its target critics, and rows of noise of which every third ends its episode."""
    algorithm = qgpo.make(qgpo.Config(**SMALL), SPEC)
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(ROWS, 3)) for name in ("observation", "next_observation")}
    action, reward = rng.uniform(-1.0, 1.0, (ROWS, 2)), rng.normal(size=ROWS)
    dataset = make_dataset(**rows, action=action, reward=reward, terminal=np.arange(ROWS) % 3 == 2)
    return algorithm, state.replace(target_critic_params=other.critic.params), dataset


@cache
def compiled(stage: str) -> tuple[Any, Any]:
    """What a stage prepares, and its update."""
    found = next(found for found in setup()[0].stages if found.name == stage)
    return found.prepare and quick(found.prepare), quick(found.update)


def prepared(stage: str, state: Any, dataset: Dataset, seed: int = 0) -> np.ndarray:
    (column,) = compiled(stage)[0](state, dataset, jax.random.key(seed)).values()
    return np.asarray(column)


@pytest.mark.parametrize(("stage", "of"), [("critic", slice(5, 8)), ("energy", slice(0, 3))])
def test_support_actions_are_of_their_state(stage: str, of: slice) -> None:
    """Q asks about the state that follows, the energy about the row's own; nothing else in a row matters."""
    _, state, dataset = setup()
    found = prepared(stage, state, dataset)
    assert found.shape == (ROWS, 32, 2)
    assert np.all(np.abs(found) <= 1.0)
    others = np.delete(np.arange(dataset.rows.shape[1]), of)
    for columns, rows in ((others, []), (of, [4])):
        changed = prepared(stage, state, dataset.replace(rows=dataset.rows.at[4, columns].add(30.0)))  # pyright: ignore
        assert list(np.flatnonzero(np.any(changed != found, axis=(1, 2)))) == rows


def test_support_actions_are_drawn_apart() -> None:
    """Where all rows are one, each has noise of its own, of the run's key; what else the state holds does not matter."""
    _, state, dataset = setup()
    alike = dataset.replace(rows=jnp.repeat(dataset.rows[:1], ROWS, axis=0))  # pyright: ignore
    found = prepared("energy", state, alike)
    assert len(np.unique(found, axis=0)) == ROWS
    assert np.any(prepared("energy", state, alike, seed=1) != found)
    other = jax.tree.map(lambda leaf: leaf + 1, (state.critic, state.target_critic_params, state.energy))
    unlike = state.replace(critic=other[0], target_critic_params=other[1], energy=other[2])
    np.testing.assert_array_equal(prepared("energy", unlike, alike), found)


# ---------------------------------------------------------------------------------------------------------- one update


def updated(stage: str, state: Any) -> tuple[Any, dict[str, Array], Transition]:
    """The state after one update of a stage, its metrics and its batch: the rows in order, with what the stage prepared."""
    prepare, update = compiled(stage)
    dataset = setup()[2]
    extras = {} if prepare is None else prepare(state, dataset, jax.random.key(0))
    batch = dataclasses.replace(dataset[:8], extras=jax.tree.map(lambda column: column[:8], extras))
    return *update(state, batch, jax.random.key(1)), batch


@pytest.mark.parametrize(
    ("stage", "learnt"),
    [("behavior", {"behavior"}), ("critic", {"critic", "target_critic_params"}), ("energy", {"energy"})],
)
def test_stages_leave_each_other_alone(stage: str, learnt: set[str]) -> None:
    """The behaviour stays as it was in the other two: what was drawn from it once is what it would give ever after."""
    _, state, _ = setup()
    after, _, _ = updated(stage, state)
    names = {field.name for field in dataclasses.fields(state)} - {"step"}
    assert {name for name in names if not trees_equal(getattr(after, name), getattr(state, name))} == learnt


def test_critics_learn_the_softmax_backup() -> None:
    """r + γ (1 - d) Σ softmax(β_Q Q) Q over the support of s', Q the lower of the targets, which then move by tau."""
    _, state, _ = setup()
    after, metrics, batch = updated("critic", state)

    def q(params: Any, observation: Array, action: Array) -> np.ndarray:
        return np.asarray(qgpo.Critics((8,)).apply({"params": params}, observation, action))

    support = batch.extras["support_ahead"]
    ahead = jnp.broadcast_to(batch.next_observation[:, None], (8, 32, 3))
    lower = q(state.target_critic_params, ahead, support).min(axis=0)
    weight = np.exp(lower) / np.exp(lower).sum(axis=1, keepdims=True)
    target = np.asarray(batch.reward) + 0.99 * ~np.asarray(batch.terminal) * (weight * lower).sum(axis=1)
    error = q(state.critic.params, batch.observation, batch.action) - target
    assert float(metrics["critic/loss"]) == pytest.approx((error**2).mean(axis=1).sum(), rel=1e-5)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)


def test_a_state_s_actions_are_one_contrastive_set() -> None:
    """Energies that are constant cost log K, whatever Q says: the softmax is over a state's actions, not over the batch."""
    _, state, _ = setup()
    constant = state.replace(energy=state.energy.replace(params=jax.tree.map(jnp.zeros_like, state.energy.params)))
    _, metrics, _ = updated("energy", constant)
    assert float(metrics["energy/loss"]) == pytest.approx(np.log(32), rel=1e-6)


# ---------------------------------------------------------------------------------------------------- values and policies


@cache
def two_steps() -> tuple[Any, Any]:
    """At s = 0 the action is near -.5 and pays nothing; s = 1 follows, where it is near ±.5 and pays 1 where it is positive."""
    n, rng = 512, np.random.default_rng(0)
    last = rng.permuted(np.resize([0.0, 1.0], n))
    mode = np.where(last > 0.5, rng.permuted(np.resize([1.0, 1.0, -1.0, -1.0], n)), -1.0)
    action = np.clip(0.5 * mode + 0.1 * rng.normal(size=n), -1.0, 1.0)
    reward = last * (action > 0.0)
    dataset = make_dataset(last[:, None], action[:, None], reward, np.ones((n, 1)), terminal=last > 0.5)
    method = qgpo.Config(
        learning_rate=3e-3,
        critic_learning_rate=3e-3,
        energy_learning_rate=3e-3,
        discount=0.9,
        tau=0.05,
        behavior_hidden_dims=(32, 16),
        critic_hidden_dims=(32, 32),
        energy_hidden_dims=(32, 32),
        behavior_updates=2_000,
        critic_updates=800,
        energy_updates=3_000,
        behavior_batch_size=128,
        batch_size=48,
    )
    return method, train_stages(qgpo.make(method, Spec.plain(1, 1)), runs_of(method, sweep="backup_beta:beta=0:1,40:3"), dataset)


@pytest.mark.slow
def test_values_back_up_over_the_support_of_the_next_state() -> None:
    """Q(0, ·) = γ · (½, the mean, at β_Q = 0; 1, the best of K, at β_Q = 40); at its own actions it would be 0."""
    method, states = two_steps()
    critics = qgpo.Critics(method.critic_hidden_dims)
    at = jnp.array([[0.0], [1.0], [1.0]]), jnp.array([[-0.5], [-0.5], [0.5]])
    q = jax.vmap(lambda params: qgpo.lowest_q(critics, params, *at))(states.target_critic_params)
    np.testing.assert_allclose(q, [[0.45, 0.0, 1.0], [0.9, 0.0, 1.0]], atol=0.06)


@pytest.mark.slow
def test_policy_is_the_tilted_behaviour() -> None:
    """Of the modes at s = 1 the better has e^β, β = 1 and 3, times the odds that the clone gives it; at s = 0 all are alike."""
    method, states = two_steps()
    n = 2_000
    observation = jnp.repeat(jnp.array([[0.0], [1.0]]), n, axis=0)
    share = {}
    for scale in (0.0, 1.0):
        acting = dataclasses.replace(method, act=qgpo.Act(guidance_scale=scale))
        found = act(qgpo.make(acting, Spec.plain(1, 1)), states, observation)[..., 0].reshape(2, 2, n)
        share[scale] = np.mean(found[:, 1] > 0.0, axis=1)
        np.testing.assert_allclose(np.mean(found[:, 0], axis=1), -0.5, atol=0.1)
        assert np.mean(found[:, 0] < 0.0) > 0.95
        assert np.mean(np.abs(np.abs(found) - 0.5) < 0.3) > 0.9
    np.testing.assert_allclose(share[0.0], 0.5, atol=0.1)
    odds = share[0.0] / (1.0 - share[0.0]) * np.exp([1.0, 3.0])
    np.testing.assert_allclose(share[1.0], odds / (1.0 + odds), atol=0.05)


# ------------------------------------------------------------------------------------------------------------- impossible


def test_one_support_action_is_refused() -> None:
    """It is a contrastive set of one: no loss and nothing to learn."""
    with pytest.raises(ConfigError, match=r"algorithm\.num_support_actions must be at least 2"):
        validate_method(qgpo.Config(num_support_actions=1))
