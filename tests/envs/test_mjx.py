"""Hopper, HalfCheetah and Walker2d on MJX against the C simulator.

From the same states, in float32: after one step coordinates differ by at most 1e-4 (median 1e-6) and rewards by 1e-4 (median
2e-6), after ten steps coordinates by 2e-5 in the median. Whole episodes are chaotic; a fixed policy's mean return and length
agree within three standard errors over 100 episodes. MJX takes 10 to 40 s to compile on a CPU, so only HalfCheetah, the
quickest, is in the fast suite.
"""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_mujoco_backend import linear_policy, spec_of, task_of

from diffrl.envs import make
from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.mjx import MjxEnvironment, State
from diffrl.envs.mujoco_backend import MujocoEnvironments

NUM = 100
TASKS = [
    "HalfCheetah-v5",
    pytest.param("Hopper-v5", marks=pytest.mark.slow),
    pytest.param("Walker2d-v5", marks=pytest.mark.slow),
]


@functools.cache
def compiled(name: str):
    """The environment, and its step compiled once for all tests."""
    chosen = make.choose("mjx", spec_of(name), None)
    assert (chosen.name, chosen.host) == ("mjx", None)
    assert f"{name} on MJX" in chosen.simulator
    return chosen.device, jax.jit(jax.vmap(chosen.device.step))


def state_of(qpos: np.ndarray, qvel: np.ndarray) -> State:
    # astype copies: an array of JAX may share the memory of a float32 array, which the C simulator goes on to change.
    return State(jnp.asarray(qpos.astype(np.float32)), jnp.asarray(qvel.astype(np.float32)))


@pytest.mark.slow  # in short, tests/envs/test_dmc.py: a cart-pole takes the same way
@pytest.mark.parametrize("name", TASKS)
def test_one_and_ten_steps_from_the_c_simulators_states(name: str):
    env, step = compiled(name)
    envs = MujocoEnvironments(env.task, NUM)
    envs.reset(list(range(NUM)))
    rng = np.random.default_rng(1)
    one, rewards, ten, ended = [], [], [], 0
    rounds = 1 if name == "HalfCheetah-v5" else 3  # which never falls
    for _ in range(rounds):
        forced, within = state_of(envs.qpos, envs.qvel), ~envs.done
        for _ in range(10):
            # Beyond the motors' bounds, so that clipping is compared too.
            action = rng.uniform(-1.2, 1.2, (NUM, env.task.model.nu)).astype(np.float32)
            start = state_of(envs.qpos, envs.qvel)
            there = envs.step(action)
            after, here = step(start, action)
            one.append(np.abs(np.asarray(after.qpos) - envs.qpos).max(axis=1))
            rewards.append(np.abs(np.asarray(here.reward) - there.reward))
            np.testing.assert_array_equal(here.terminated, there.terminated)
            np.testing.assert_allclose(here.observation, there.observation, atol=0.05)
            forced, _ = step(forced, action)
            ended += int(there.terminated.sum())
            within &= ~there.terminated
            over = np.flatnonzero(envs.done)
            envs.restart(over, [np.random.default_rng(1000 + ended + i) for i in over])
        ten.append(np.abs(np.asarray(forced.qpos) - envs.qpos).max(axis=1)[within])
    envs.close()
    one, rewards, ten = np.concatenate(one), np.concatenate(rewards), np.concatenate(ten)
    assert len(one) == 10 * rounds * NUM
    assert np.median(one) < 1e-6
    assert one.max() < 1e-4
    assert np.median(rewards) < 2e-6
    assert rewards.max() < 1e-4
    assert len(ten) >= NUM
    assert np.median(ten) < 2e-5
    assert ended > 20 or name == "HalfCheetah-v5"


@pytest.mark.parametrize("name", TASKS)
def test_starts_have_gymnasiums_distribution(name: str):
    env, _ = compiled(name)
    state, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4000))
    drawn = [env.task.start(np.random.default_rng(seed)) for seed in range(4000)]
    for ours, theirs in zip(state, (np.array(starts) for starts in zip(*drawn, strict=True)), strict=True):
        np.testing.assert_allclose(np.mean(ours, axis=0), theirs.mean(axis=0), atol=5 * env.task.noise / np.sqrt(4000))
        np.testing.assert_allclose(np.std(ours, axis=0), theirs.std(axis=0), rtol=0.08)
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.15)
    expected = env.task.observe(np, np.asarray(state.qpos), np.asarray(state.qvel))
    np.testing.assert_allclose(observation, expected, rtol=0.0, atol=1e-9)  # a compiler may add in another order


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5"])
def test_a_fixed_policy_scores_the_same(name: str):
    """100 episodes each, other starts."""
    env, step = compiled(name)
    policy, scores = linear_policy(name), []
    envs = MujocoEnvironments(env.task, NUM)
    state, first = jax.vmap(env.reset)(jax.random.split(jax.random.key(7), NUM))
    for observation in (envs.reset(list(range(NUM))), np.asarray(first)):
        host = not scores
        alive, returns, lengths = np.ones(NUM, bool), np.zeros(NUM), np.zeros(NUM)
        while alive.any():
            if host:
                result = envs.step(policy(observation))
            else:
                state, result = step(state, policy(observation))
            returns += np.where(alive, result.reward, 0.0)
            lengths += alive
            observation, alive = np.asarray(result.observation), alive & ~np.asarray(result.terminated)
        scores.append((returns, lengths))
    envs.close()
    for there, here in zip(*scores, strict=True):
        error = np.sqrt(there.var() / NUM + here.var() / NUM)
        assert there.mean() > 50
        assert abs(there.mean() - here.mean()) < 3 * error


def test_models_that_mjx_refuses():
    """Humanoid's model asks for the PGS solver."""
    inner = gymnasium.make("Humanoid-v5", disable_env_checker=True).unwrapped
    with pytest.raises(BackendError, match=r"MJX refuses this model.*PGS.*--backend=mujoco"):
        MjxEnvironment(task_of("Hopper-v5")._replace(model=inner.model))
    inner.close()
