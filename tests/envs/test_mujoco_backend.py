"""Hopper, HalfCheetah and Walker2d on MuJoCo's thread pool against gymnasium's own environments.

From the same states, a step equals gymnasium's to 2e-6 (observations, whose values reach 10) and 1e-6 (rewards): gymnasium
carries the contact solver's warm start from step to step, this backend does not. Whole episodes of a fixed policy have the
same lengths.
"""

import json

import gymnasium
import numpy as np
import pytest

from diffrl.envs import locomotion, make
from diffrl.envs.gymnasium_backend import BackendError, GymnasiumEnvironments
from diffrl.envs.mujoco_backend import MujocoEnvironments

TASKS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"]


def spec_of(name: str, **options) -> str:
    return gymnasium.spec(name).to_json() if not options else changed(gymnasium.spec(name).to_json(), **options)


def changed(text: str, **kwargs) -> str:
    spec = json.loads(text)
    spec["kwargs"].update(kwargs)
    return json.dumps(spec)


def task_of(name: str, **options) -> locomotion.Task:
    task = locomotion.from_env_spec(spec_of(name, **options))
    assert task is not None
    return task


def linear_policy(name: str):
    """A fixed random linear policy with saturating actions; of 150 tried, those on which the robots stay up longest."""
    task, seed = task_of(name), {"Hopper-v5": 23, "Walker2d-v5": 35, "HalfCheetah-v5": 0}[name]
    width = len(task.observe(np, task.init_qpos, task.init_qvel))
    weights = 0.5 * np.random.default_rng(seed).normal(size=(width, task.model.nu)) / np.sqrt(width)
    return lambda observation: np.tanh(observation @ weights).astype(np.float32)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("observed", [True, False])
def test_the_same_seed_starts_the_same_episode(name: str, observed: bool):
    options = {} if observed else {"exclude_current_positions_from_observation": False}
    theirs = GymnasiumEnvironments(spec_of(name, **options), None, 3)
    ours = MujocoEnvironments(task_of(name, **options), 3)
    np.testing.assert_array_equal(ours.reset([0, 7, 123]), theirs.reset([0, 7, 123]))
    assert ours.max_episode_steps == theirs.max_episode_steps == 1000
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", TASKS)
def test_one_step_equals_gymnasiums(name: str):
    """400 random steps, each from the state that gymnasium itself reached: observations, rewards and terminations."""
    env = gymnasium.make(name, disable_env_checker=True)
    envs = MujocoEnvironments(task_of(name), 1)
    rng = np.random.default_rng(3)
    inner = env.unwrapped
    env.reset(seed=5)
    ended = 0
    for _ in range(400):
        # Some actions exceed the bounds of the motors, which clip them; the reward's cost does not.
        action = rng.uniform(-1.3, 1.3, inner.action_space.shape).astype(np.float32)
        envs.reset([0])
        envs.qpos[0], envs.qvel[0] = inner.data.qpos, inner.data.qvel
        observation, reward, terminated, _, _ = inner.step(action)
        step = envs.step(action[None])
        np.testing.assert_allclose(step.observation[0], observation, atol=2e-6)
        np.testing.assert_allclose(step.reward[0], reward, atol=1e-6)
        assert bool(step.terminated[0]) == bool(terminated)
        if terminated:
            ended += 1
            env.reset()
    assert ended >= (0 if name == "HalfCheetah-v5" else 5)
    envs.close()
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_arguments_of_the_environment_are_taken_over(name: str):
    options = {"forward_reward_weight": 2.5, "ctrl_cost_weight": 0.25, "reset_noise_scale": 0.02, "frame_skip": 3}
    if name != "HalfCheetah-v5":
        options |= {"healthy_reward": 0.5, "terminate_when_unhealthy": False, "healthy_z_range": [1.2, 1.24]}
    theirs = GymnasiumEnvironments(spec_of(name, **options), None, 2)
    ours = MujocoEnvironments(task_of(name, **options), 2)
    np.testing.assert_array_equal(ours.reset([1, 2]), theirs.reset([1, 2]))
    policy = linear_policy(name)
    observation = ours.observation
    for _ in range(20):
        action = policy(observation)
        here, there = ours.step(action), theirs.step(action)
        observation = here.observation
        np.testing.assert_allclose(observation, there.observation, atol=1e-4)
        np.testing.assert_allclose(here.reward, there.reward, atol=1e-4)
        np.testing.assert_array_equal(here.terminated, there.terminated)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5"])
def test_whole_episodes_of_a_fixed_policy(name: str):
    """Twelve episodes until each has ended: the same lengths, returns to 1e-3. Those that have ended rest."""
    seeds = list(range(12))
    theirs, ours = GymnasiumEnvironments(spec_of(name), None, 12), MujocoEnvironments(task_of(name), 12)
    policy, episodes = linear_policy(name), []
    for envs in (theirs, ours):
        observation, alive = envs.reset(seeds), np.ones(12, bool)
        returns, lengths = np.zeros(12), np.zeros(12, int)
        while alive.any():
            step = envs.step(policy(observation))
            np.testing.assert_array_equal(step.reward[~alive], 0.0)
            np.testing.assert_array_equal(step.observation[~alive], observation[~alive])
            assert step.terminated[~alive].all()
            returns, lengths = returns + step.reward, lengths + alive
            observation, alive = step.observation, ~step.terminated
        episodes.append((lengths, returns))
        envs.close()
    np.testing.assert_array_equal(episodes[0][0], episodes[1][0])
    np.testing.assert_allclose(episodes[0][1], episodes[1][1], atol=1e-3)
    assert len(set(episodes[0][0].tolist())) > 3


def test_number_of_threads_and_of_neighbours_change_nothing():
    task, policy = task_of("Walker2d-v5"), linear_policy("Walker2d-v5")
    many, one = MujocoEnvironments(task, 5, num_threads=2), MujocoEnvironments(task, 1, num_threads=1)
    all_of_them, alone = many.reset([3, 4, 5, 6, 7]), one.reset([5])
    for _ in range(30):
        all_of_them, alone = many.step(policy(all_of_them)).observation, one.step(policy(alone)).observation
        np.testing.assert_array_equal(all_of_them[2], alone[0])
    with pytest.raises(ValueError, match="as many seeds"):
        many.reset([1])
    many.close()
    one.close()


def test_backends_are_chosen():
    for name in TASKS:
        chosen = make.choose("auto", spec_of(name), None)
        assert (chosen.name, chosen.device) == ("mujoco", None)
        assert f"{name}, the original model stepped by MuJoCo's thread pool (gymnasium 1." in chosen.simulator
        envs = chosen.host(2)
        assert isinstance(envs, MujocoEnvironments)
        envs.close()
        chosen = make.choose("gymnasium", spec_of(name), None)
        assert (chosen.name, chosen.device) == ("gymnasium", None)
        assert f"{name}, the original environment (" in chosen.simulator
    pendulum = gymnasium.spec("Pendulum-v1").to_json()
    assert make.choose("auto", pendulum, None).name == "gymnasium"
    with pytest.raises(BackendError, match=r"--backend=mujoco knows Hopper, HalfCheetah and Walker2d.*not Pendulum-v1"):
        make.choose("mujoco", pendulum, None)
    with pytest.raises(BackendError, match=r"not Humanoid-v5 \(MJX refuses models with the PGS solver"):
        make.choose("mjx", gymnasium.spec("Humanoid-v5").to_json(), None)


def test_what_is_not_exactly_the_task_is_left_to_gymnasium():
    wrapped = json.loads(spec_of("Hopper-v5"))
    wrapped["additional_wrappers"].append({"name": "RescaleAction", "entry_point": "x:y", "kwargs": {}})
    assert locomotion.from_env_spec(json.dumps(wrapped)) is None
    assert locomotion.from_env_spec("[]") is None
    assert locomotion.from_env_spec(json.dumps({**json.loads(spec_of("Hopper-v5")), "max_episode_steps": None})) is None
    assert locomotion.from_env_spec(spec_of("Hopper-v5"), max_episode_steps=7).max_episode_steps == 7
    with pytest.raises(BackendError, match="Hopper-v5 cannot be made"):
        locomotion.from_env_spec(spec_of("Hopper-v5", no_such_argument=1))
