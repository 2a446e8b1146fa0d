"""On a line: x starts at 0, an action moves it, an episode ends at x >= 3. What follows the end is NaN, or a large reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.algorithm import Algorithm, no_carry
from diffrl.envs.protocol import Step
from diffrl.evaluation.rollout import Rollouts, device_rollout, episode_seeds, host_rollout

END, LIMIT = 3.0, 12


class Line:
    """DeviceEnvironment; starts where its key says if `random_start`."""

    max_episode_steps = LIMIT
    action_low, action_high = (-1.0,), (1.0,)
    num_actions = 0

    def __init__(self, random_start: bool = False, after: float = jnp.nan):
        self.random_start, self.after = random_start, after

    def reset(self, key):
        x = jax.random.uniform(key) if self.random_start else jnp.zeros(())
        return x, x[None]

    def step(self, state, action):
        x = state + action[0]
        reward = jnp.where(state >= END, self.after, 1.0)
        return x, Step(x[None], reward, x >= END, x >= END)


class HostLine:
    max_episode_steps = LIMIT
    action_low, action_high = (-1.0,), (1.0,)
    num_actions = 0

    def __init__(self, num_envs):
        self.num_envs, self.steps = num_envs, 0

    def reset_some(self, which, seeds):
        raise NotImplementedError("an evaluation begins each episode once")

    def reset(self, seeds):
        assert len(seeds) == self.num_envs
        self.x = np.zeros(self.num_envs, np.float32)
        return self.x[:, None]

    def step(self, action):
        self.steps += 1
        reward = np.where(self.x >= END, np.nan, 1.0)
        self.x = self.x + action[:, 0]
        return Step(self.x[:, None].copy(), reward, self.x >= END, self.x >= END)

    def close(self):
        pass


def walker(noise: float = 0.0, count: list | None = None) -> Algorithm:
    """Moves by the policy's speed plus noise; the carry counts steps and slows it down after four."""

    def act(policy, carry, observation, key):
        if count is not None:
            count.append(observation.shape)
        wobble = noise * jax.random.uniform(key, (observation.shape[0], 1))
        return jnp.where(carry[:, None] < 4, policy, policy / 2) + wobble, carry + 1

    def nothing(*_):
        raise AssertionError("acting needs neither state nor stages")

    return Algorithm(None, nothing, (), nothing, lambda policy, num_envs: jnp.zeros(num_envs), act)


def test_finished_episodes_no_longer_count():
    speeds = jnp.array([1.0, 0.5, 0.1])
    for after in (jnp.nan, 100.0):
        result = device_rollout(walker(), Line(after=after), num_episodes=2, num_recorded=1)(speeds, [0, 1, 2], 0)
        # Speed 1: ends at step 3. Speed 0.5: 2 after four steps, then 0.25 a step. Speed 0.1: never.
        np.testing.assert_array_equal(result.lengths, [[3, 3], [8, 8], [LIMIT, LIMIT]])
        np.testing.assert_array_equal(result.returns, result.lengths)
        np.testing.assert_array_equal(result.successes, [[True, True], [True, True], [False, False]])
        assert result.observations.shape == (3, 1, LIMIT + 1, 1)
        np.testing.assert_allclose(result.observations[0, 0, :4, 0], [0, 1, 2, 3])
        assert np.isnan(result.observations[0, 0, 4:]).all()
        assert np.isfinite(result.observations[2]).all()


def test_device_and_host_agree():
    speeds, seeds = jnp.array([1.0, 0.5, 0.1]), [4, 5, 6]
    algorithm = walker(noise=0.3)
    device = device_rollout(algorithm, Line(), 5, num_recorded=2)(speeds, seeds, 7)
    host = host_rollout(algorithm, HostLine(15), 5, num_recorded=2)(speeds, seeds, 7)
    np.testing.assert_array_equal(device.lengths, host.lengths)
    np.testing.assert_array_equal(device.successes, host.successes)
    np.testing.assert_allclose(device.returns, host.returns)
    steps = host.observations.shape[2]
    np.testing.assert_allclose(device.observations[:, :, :steps], host.observations, rtol=1e-6)
    assert len(np.unique(device.lengths)) > 2


def test_host_stops_when_all_have_ended_and_tells_its_progress():
    envs, told = HostLine(4), []
    host_rollout(walker(), envs, 2)(jnp.array([1.0, 1.5]), [0, 1], 0, told.append)
    assert envs.steps == 3
    assert told == [1, 1, 1]


def test_a_run_does_not_depend_on_its_neighbours():
    rollout = device_rollout(walker(noise=0.5), Line(random_start=True), 6)
    alone = rollout(jnp.array([0.3]), [11], 2)
    among = rollout(jnp.array([1.0, 0.3, 0.1]), [3, 11, 5], 2)
    np.testing.assert_array_equal(alone.lengths[0], among.lengths[1])
    np.testing.assert_allclose(alone.returns[0], among.returns[1])
    assert episode_seeds([11], 2, 6) == episode_seeds([3, 11, 5], 2, 6)[6:12]


def test_episodes_runs_and_evaluation_seeds_start_differently():
    rollout = device_rollout(walker(), Line(random_start=True), 4, num_recorded=4)
    starts = [rollout(jnp.array([0.1, 0.1]), [0, 1], seed).observations[:, :, 0, 0] for seed in (0, 1)]
    assert len(np.unique(np.stack(starts))) == 16
    assert len(set(episode_seeds([0, 1], 0, 4) + episode_seeds([0, 1], 1, 4))) == 16
    # More episodes are the same ones and more.
    assert episode_seeds([3], 0, 8)[:4] == episode_seeds([3], 0, 4)


@pytest.mark.parametrize("where", ["device", "host"])
def test_one_compilation_serves_all_checkpoints(where: str):
    traced: list = []
    algorithm = walker(count=traced)
    rollout = device_rollout(algorithm, Line(), 3) if where == "device" else host_rollout(algorithm, HostLine(6), 3)
    results = [rollout(jnp.array([speed, 0.5]), [0, 1], seed).lengths for seed, speed in enumerate((1.0, 0.5, 0.1))]
    assert len(traced) == 1
    assert traced[0] == (3, 1)
    assert [int(lengths[0, 0]) for lengths in results] == [3, 8, LIMIT]


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_diverged_run_is_nan_and_leaves_the_others_alone(where: str):
    algorithm = walker()
    rollout = device_rollout(algorithm, Line(), 2) if where == "device" else host_rollout(algorithm, HostLine(4), 2)
    result: Rollouts = rollout(jnp.array([jnp.nan, 1.0]), [0, 1], 0)
    assert np.isnan(result.returns[0]).all()
    np.testing.assert_array_equal(result.returns[1], [3, 3])
    assert not result.successes[0].any()


def test_host_needs_as_many_environments_as_episodes():
    with pytest.raises(ValueError, match="2 runs × 3 episodes need as many environments, not 4"):
        host_rollout(walker(), HostLine(4), 3)(jnp.array([1.0, 1.0]), [0, 1], 0)


def test_no_carry_is_a_carry():
    algorithm = walker()._replace(
        init_carry=no_carry, act=lambda policy, carry, observation, key: (jnp.full_like(observation, policy), carry)
    )
    assert device_rollout(algorithm, Line(), 2)(jnp.array([1.0]), [0], 0).lengths.tolist() == [[3, 3]]
