"""Action repeat: a decision is so many steps of the environment, counted and stored as one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.algorithms import sac
from diffrl.config import Config, ConfigError, DatasetConfig, OnlineConfig, validate
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make
from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.protocol import Step
from diffrl.envs.repeat import RepeatedDevice, RepeatedHost


class Counter(NamedTuple):
    """Ends at 5; a step pays the count it leads to."""

    max_episode_steps: int = 12
    action_low: tuple[float, ...] = (-1.0,)
    action_high: tuple[float, ...] = (1.0,)
    num_actions: int = 0

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, Step]:
        state = state + action[0]
        return state, Step(state[None], state, state >= 5, state == 4)


class Counters:
    """The same on the host, twice."""

    num_envs, max_episode_steps, num_actions = 2, 12, 0
    action_low, action_high = (-1.0,), (1.0,)

    def __init__(self) -> None:
        self.state = np.zeros(2)

    def reset(self, seeds: list[int]) -> np.ndarray:
        del seeds
        self.state = np.zeros(2)
        return self.state[:, None].copy()

    def reset_some(self, which: np.ndarray, seeds: list[int]) -> np.ndarray:
        raise AssertionError("nothing begins anew here")

    def close(self) -> None: ...

    def step(self, action: np.ndarray) -> Step:
        self.state = self.state + action[:, 0]
        return Step(self.state[:, None].copy(), self.state.copy(), self.state >= 5, self.state == 4)


def test_rewards_are_summed_and_an_end_is_the_end() -> None:
    """Three steps a decision: 1 + 2 + 3, then 4 + 5, where it ends, passes through its goal and stands."""
    env = RepeatedDevice(Counter(), 3)
    assert env.max_episode_steps == 4
    state, _ = env.reset(jax.random.key(0))
    state, first = env.step(state, jnp.ones(1))
    assert (float(first.reward), float(first.observation[0]), bool(first.terminated), bool(first.success)) == (6, 3, False, False)
    state, second = env.step(state, jnp.ones(1))
    assert (float(second.reward), float(second.observation[0]), bool(second.terminated), bool(second.success)) == (
        9,
        5,
        True,
        True,
    )
    assert float(state) == 5


def test_of_several_on_the_host_each_ends_for_itself() -> None:
    envs = RepeatedHost(Counters(), 3)
    assert envs.max_episode_steps == 4
    envs.reset([0, 1])
    envs.step(np.array([[1.0], [0.0]]))
    step = envs.step(np.array([[1.0], [1.0]]))
    np.testing.assert_array_equal(step.reward, [9.0, 6.0])
    np.testing.assert_array_equal(step.observation, [[5.0], [3.0]])
    np.testing.assert_array_equal(step.terminated, [True, False])
    np.testing.assert_array_equal(step.success, [True, False])
    np.testing.assert_array_equal(step.truncated, [False, False])


@pytest.mark.parametrize(("env_id", "backend"), [("diffrl/HoleIntegrator-v0", "jax"), ("Hopper-v5", "mujoco")])
def test_a_decision_is_as_many_single_steps(env_id: str, backend: str) -> None:
    """Of real simulators: the same states, and the sum of the same rewards."""
    single, repeated = (make.choose(backend, env_spec_of(env_id), None, times) for times in (1, 5))
    if backend == "jax":
        assert single.device is not None
        assert repeated.device is not None
        action = jnp.full(len(single.device.action_low), 0.1)
        state, _ = single.device.reset(jax.random.key(0))
        _, once = repeated.device.step(state, action)
        steps: list[Any] = []
        for _ in range(5):
            state, step = single.device.step(state, action)
            steps.append(step)
    else:
        assert single.host is not None
        assert repeated.host is not None
        ones, fives = single.host(2), repeated.host(2)
        np.testing.assert_array_equal(ones.reset([3, 4]), fives.reset([3, 4]))
        action = np.full((2, len(ones.action_low)), 0.1, np.float32)
        steps, once = [ones.step(action) for _ in range(5)], fives.step(action)
        ones.close()
        fives.close()
    np.testing.assert_allclose(once.observation, steps[-1].observation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(once.reward, np.sum([step.reward for step in steps], axis=0), rtol=1e-5, atol=1e-6)


def test_impossible_repeats_are_refused() -> None:
    online = OnlineConfig(env_id="Hopper-v5", action_repeat=2)
    with pytest.raises(ConfigError, match=r"action_repeat=2, and the dataset's rows are single steps: set 1"):
        validate(Config(algorithm=sac.Config(), dataset=DatasetConfig(id="some"), online=online))
    with pytest.raises(ConfigError, match="warmup_steps must be at least num_envs times action_repeat, 2, got 1"):
        validate(Config(algorithm=sac.Config(), online=OnlineConfig(env_id="Hopper-v5", action_repeat=2, warmup_steps=1)))
    with pytest.raises(BackendError, match="action_repeat=7: episodes have 1,000 steps, which 7 does not divide"):
        make.choose("mujoco", env_spec_of("Hopper-v5"), None, 7)
