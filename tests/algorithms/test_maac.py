"""MAAC: without a step it is SAC; with steps its gradient is that of closed forms and of finite differences."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_trees_close, make_dataset, quick, runs_of, train_stages, trees_equal

from diffrl.algorithms import maac, sac
from diffrl.envs.control.base import State
from diffrl.envs.control.pendulum import PendulumKeypoints
from diffrl.learner import Learner
from diffrl.models.dynamics import Step
from diffrl.models.known import known_model
from diffrl.models.rollouts import path_return, return_gap, rollout
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP
from diffrl.registry import make
from diffrl.types import Spec

KEY = jax.random.key(0)
# s' = s + b u, reward -(s² + .1 u²), u = -k s: the card's example, at k = ½.
B, COST, GAMMA, K = 0.5, 0.1, 0.95, 0.5
SMALL: dict[str, Any] = {"hidden_dims": (16,), "num_updates": 1, "batch_size": 32}


def random_data(rows: int = 32) -> Any:
    rng = np.random.default_rng(0)
    s, a = rng.normal(size=(rows, 2)), rng.uniform(-1, 1, (rows, 1))
    return make_dataset(s, a, s[:, 0] * a[:, 0], s + 0.1 * a, rng.uniform(size=rows) < 0.2)


def test_loss_without_a_step_is_that_of_sac_to_the_bit() -> None:
    """Value, entropy and gradient, for the same noise."""
    policy, critics = MLP((8,), 2), Critics((8,))
    observation = jax.random.normal(KEY, (16, 2))
    params = policy.init(KEY, observation)["params"]
    critic_params = critics.init(KEY, observation, observation[:, :1])["params"]
    batch = dataclasses.replace(random_data(16)[:], observation=observation)

    def both(params: Any) -> list[Any]:
        def theirs(params: Any) -> Any:
            return sac.policy_loss(params, policy, critics, critic_params, batch, jnp.float32(0.3), KEY)

        def ours(params: Any) -> Any:
            given = (policy, critics, critic_params, linear(B), observation, 0, GAMMA, jnp.float32(0.3), KEY, KEY)
            return maac.policy_loss(params, *given)

        return [jax.value_and_grad(loss, has_aux=True)(params) for loss in (ours, theirs)]

    assert trees_equal(*quick(both)(params))


@pytest.mark.slow
def test_without_a_step_it_is_sac() -> None:
    """An update of H = 0 with critics of real rows alone: policy, critics, targets and α are those of SAC for the same key."""
    spec, data = Spec.plain(2, 1), random_data()
    config = maac.Config(**SMALL, horizon=0, imagine_for_critic=False, model_hidden_dims=(8,), num_models=2, num_elites=1)
    ours, theirs = maac.make(config, spec), sac.make(sac.Config(**SMALL), spec)
    state = quick(ours.init)(KEY, ours.hparams)
    names = ("critic", "target_critic_params", "log_entropy_weight")
    policy = Learner.create(state.policy.params, optax.adam(3e-4))
    plain = sac.State(jnp.int32(0), theirs.hparams, policy, **{name: getattr(state, name) for name in names})
    found, expected = (
        [after.policy.params, *(getattr(after, name) for name in names), metrics["policy/loss"]]
        for after, metrics in (
            quick(algorithm.stages[0].update)(before, data[:], KEY) for algorithm, before in ((ours, state), (theirs, plain))
        )
    )
    assert not trees_equal(found[0], state.policy.params)
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-7)


def linear(b: float, noise: float = 0.0) -> Any:
    def imagine(observation: jax.Array, action: jax.Array, key: jax.Array) -> Step:
        draw = noise * jax.random.normal(key, observation.shape) if noise else 0.0
        reward = -(observation[:, 0] ** 2 + COST * action[:, 0] ** 2)
        return Step(observation + b * action + draw, reward, jnp.ones(len(observation)))

    return imagine


def lqr_return(k: Any, horizon: int, *, b: float = B, value_scale: float = 1.0, noise: float = 0.0, paths: int = 1) -> Any:
    """J_H of the gain, with the exact Q of k = ½ (its P times `value_scale`) at the end."""
    discounted_squares = (1.0 - B * K) ** 2 * GAMMA
    p = value_scale * (1.0 + COST * K**2) / (1.0 - discounted_squares)

    def choose(observation: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return -k * observation, jnp.zeros(len(observation))

    path = rollout(jnp.ones((paths, 1)), choose, linear(b, noise), horizon, KEY)
    s = path.observation[-1][:, 0]
    u = -k * s
    floor = p * GAMMA * noise**2 / (1.0 - GAMMA)
    q = -(s**2 + COST * u**2 + GAMMA * p * (s + B * u) ** 2) - floor
    return jnp.mean(path_return(path, q, GAMMA, 0.2))


@pytest.mark.parametrize(
    ("horizons", "settings", "expected"),
    [
        ((0, 1, 3, 5, 10, 30), {}, (1.46846, 2.25316, 2.89657, 3.08030, 3.15053, 3.15373)),
        ((0, 1, 3, 5, 10), {"value_scale": 0.5}, (0.68423, 1.41502, 2.41789, 2.87526, 3.13415)),
        ((0, 1, 3, 5, 10), {"b": 0.6}, (1.46846, 2.34024, 2.70133, 2.70273, 2.67772)),
    ],
    ids=["exact", "half of Q", "another model"],
)
def test_gradient_of_a_linear_quadratic_system(horizons: Any, settings: Any, expected: Any) -> None:
    """The derivative by the gain, Q frozen: errors of Q are washed out by H, errors of the model are not."""
    found = quick(lambda k: [jax.grad(lqr_return)(k, horizon, **settings) for horizon in horizons])(K)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_value_of_a_linear_quadratic_system_is_that_of_every_horizon() -> None:
    found = quick(lambda k: [lqr_return(k, horizon) for horizon in (0, 1, 5)])(K)
    np.testing.assert_allclose(found, -2.2013423, rtol=1e-5)


def test_gradient_with_noise() -> None:
    """σ = .2, 100,000 paths; at H = 60 of the card it is 5.422."""
    found = quick(lambda k: [jax.grad(lqr_return)(k, horizon, noise=0.2, paths=100_000) for horizon in (0, 1, 5)])(K)
    np.testing.assert_allclose(found, [1.468, 2.310, 3.514], atol=0.02)


def test_gradient_is_that_of_finite_differences_and_goes_through_the_states() -> None:
    """`policy_loss` with networks, noise and entropy, three steps; without the derivative of s' by s and a it is another one."""
    policy, critics = MLP((8,), 2, activation=jnp.tanh), Critics((8,), activation=jnp.tanh)
    world = MLP((8,), 3, activation=jnp.tanh)
    keys = jax.random.split(KEY, 6)
    observation = jax.random.normal(keys[0], (16, 2))
    params = policy.init(keys[1], observation)["params"]
    critic_params = critics.init(keys[2], observation, observation[:, :1])["params"]
    world_params = world.init(keys[3], observation, observation[:, :1])["params"]

    def imagine(observation: jax.Array, action: jax.Array, key: jax.Array, through: Any) -> Step:
        said: Any = world.apply({"params": world_params}, observation, action)
        following = observation + said[:, :2] + 0.1 * jax.random.normal(key, observation.shape)
        following = through * following + (1.0 - through) * jax.lax.stop_gradient(following)
        return Step(following, said[:, 2], jnp.full(len(observation), 0.9))

    flat, shape = jax.flatten_util.ravel_pytree(params)

    def loss(flat: jax.Array, through: Any) -> jax.Array:
        def step(*given: jax.Array) -> Step:
            return imagine(*given, through)

        given = (policy, critics, critic_params, step, observation, 3, 0.9, 0.3, keys[4], keys[5])
        return maac.policy_loss(shape(flat), *given)[0]

    directions = jnp.asarray(np.random.default_rng(0).normal(size=(3, *flat.shape)), jnp.float32)
    points = jnp.concatenate([flat[None], flat[None], flat + 1e-2 * directions, flat - 1e-2 * directions])
    through = jnp.ones(len(points)).at[1].set(0.0)
    values, gradients = quick(jax.vmap(jax.value_and_grad(loss)))(points, through)
    np.testing.assert_allclose(directions @ gradients[0], (values[2:5] - values[5:]) / 2e-2, rtol=0.02, atol=2e-3)
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-5)
    assert float(jnp.linalg.norm(gradients[0] - gradients[1])) > 0.05 * float(jnp.linalg.norm(gradients[0]))


def test_paths_weigh_what_follows_by_the_probability_of_coming_there() -> None:
    """Reward 1 and entropy 1 nat a step, going on with .8: Σ (.8 γ)^t (1 + α) + (.8 γ)³ V."""

    def imagine(observation: jax.Array, action: jax.Array, key: jax.Array) -> Step:
        return Step(observation + 1.0, jnp.ones(len(observation)), jnp.full(len(observation), 0.8))

    path = rollout(jnp.zeros((4, 1)), lambda s, key: (s, -jnp.ones(len(s))), imagine, 3, KEY)
    np.testing.assert_array_equal(path.observation[:, 0, 0], [0.0, 1.0, 2.0, 3.0])
    found = path_return(path, jnp.full(4, 7.0), 0.9, 0.5)
    np.testing.assert_allclose(found, 1.5 * (1 + 0.72 + 0.72**2) + 7 * 0.72**3, rtol=1e-5)


def test_gap_is_what_the_model_promises_too_much() -> None:
    """None of the true system, and .1 a reward with a model that pays .1 too much."""
    rows = maac.Rows.of(make_dataset(np.ones((8, 1)), np.ones((8, 1)), np.full(8, -1.1), np.full((8, 1), 1.5), False)[:], GAMMA)
    value = lambda observation, key: observation[:, 0]  # noqa: E731
    generous = lambda *x: linear(B)(*x)._replace(reward=linear(B)(*x).reward + 0.1)  # noqa: E731
    assert float(return_gap(linear(B), rows, value, GAMMA, KEY)) == pytest.approx(0.0, abs=1e-6)
    assert float(return_gap(generous, rows, value, GAMMA, KEY)) == pytest.approx(0.1, abs=1e-6)


def test_known_model_is_the_environment() -> None:
    """In units of training: what `step` of the pendulum gives, and -its cost but for the last step's; other tasks are refused."""
    task = PendulumKeypoints(state_weight=3.0)
    stretch = {
        "observation_mean": (0.1, 0.0, 1.0),
        "observation_std": (0.5, 0.2, 3.0),
        "action_low": (-5.0,),
        "action_high": (5.0,),
    }
    spec = dataclasses.replace(Spec.plain(3, 1), **stretch)
    mean, std = (np.array(stretch[name]) for name in ("observation_mean", "observation_std"))
    physical = jnp.array([[0.3, -1.0], [2.0, 4.0]])
    x, u = jax.vmap(task.observe)(physical), jnp.array([[-2.5], [5.0]])
    found = known_model(task, spec)((x - mean) / std, u / 5.0, KEY)
    _, real = jax.vmap(task.step)(State(physical, jnp.zeros(2, jnp.int32), jnp.ones(2, bool)), u)
    np.testing.assert_allclose(found.observation * std + mean, real.observation, atol=1e-5)
    np.testing.assert_allclose(found.reward, real.reward, rtol=1e-5)
    with pytest.raises(ValueError, match="name the task that"):
        maac.make(maac.Config(known_model="CartPoleSwingUp"), Spec.plain(3, 1))


def test_elites_are_members() -> None:
    with pytest.raises(ValueError, match="num_elites=6 of num_models=5"):
        maac.make(maac.Config(num_elites=6), Spec.plain(2, 1))


@pytest.mark.slow
def test_policy_finds_what_only_paths_see() -> None:
    """Points at u's mercy, s' = s + .5 u, paid -s'²: from data of random actions the policy brings them to 0 in one step."""
    rng = np.random.default_rng(0)
    s, u = rng.uniform(-0.4, 0.4, (4_096, 1)), rng.uniform(-1, 1, (4_096, 1))
    data = make_dataset(s, u, -((s + 0.5 * u)[:, 0] ** 2), s + 0.5 * u, False)
    config = maac.Config(
        hidden_dims=(32, 32), model_hidden_dims=(32, 32), num_models=3, num_elites=2, learning_rate=3e-3, tau=0.05
    )
    config = dataclasses.replace(config, num_updates=600, batch_size=128, initial_entropy_weight=1e-3, discount=0.9)
    algorithm = make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, 2), data)
    points = jnp.array([[-0.3], [0.0], [0.3]])
    for run in range(2):
        policy = algorithm.policy(jax.tree.map(lambda x: x[run], states))  # noqa: B023
        action = algorithm.act(policy, (), points, KEY)[0]
        np.testing.assert_allclose(action, -2.0 * points, atol=0.15)
