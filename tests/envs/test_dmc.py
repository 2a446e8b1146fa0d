"""Tasks of the DeepMind Control Suite: on MJX against dm_control, through gymnasium, and by name.

One control step from the same states, in float32, median / max: cartpole-swingup observation 9e-8 / 2e-7, reward 1e-8 / 6e-8;
cheetah-run 2e-6 / 5e-5, 0 / 1e-7; walker-walk (10 steps of physics, velocities up to 55) 8e-6 / 1.5e-3, 9e-9 / 7e-6. A
cheetah's start, 200 steps of physics from the same posture: 7e-6 / 2e-4.
"""

import functools
import importlib.metadata
import json
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from support import chosen, quick

from diffrl.data.dataset import DatasetError
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make, pointmaze
from diffrl.envs.dmc import registry, tasks
from diffrl.envs.dmc.gym import DmcEnv
from diffrl.envs.dmc.mjx import DmcMjx
from diffrl.envs.gymnasium_backend import BackendError, GymnasiumEnvironments
from diffrl.envs.mjx import State
from diffrl.envs.protocol import DeviceEnvironment
from diffrl.studies.planning import _Stepped


@functools.cache
def device(name: str) -> DmcMjx:
    env = make.choose("mjx", env_spec_of(f"dmc/{name}"), None).device
    assert isinstance(env, DmcMjx)
    return env


@functools.cache
def compiled(name: str):
    """The step, compiled once for all tests."""
    return quick(jax.vmap(device(name).step))


def host(name: str) -> DmcEnv:
    return DmcEnv(*name.split("-"))


def state_of(qpos: np.ndarray, qvel: np.ndarray) -> State:
    # astype copies: an array of JAX may share the memory of a float32 array, which the C simulator goes on to change.
    return State(jnp.asarray(qpos.astype(np.float32)), jnp.asarray(qvel.astype(np.float32)))


def transitions(name: str, starts: int, steps: int):
    """Rows of (qpos, qvel, action, qpos', qvel', observation', reward) of episodes under actions held for five steps."""
    env, rng, rows = host(name), np.random.default_rng(0), []
    for seed in range(starts):
        env.reset(seed=seed)
        for t in range(steps):
            if t % 5 == 0:
                # Beyond the motors' bounds, so that clipping is compared too.
                action = rng.uniform(-1.2, 1.2, env.action_space.shape).astype(np.float32)
            before = env.physics.data.qpos.copy(), env.physics.data.qvel.copy()
            observation, reward, terminated, truncated, info = env.step(action)
            assert (terminated, truncated, info) == (False, False, {})
            rows.append((*before, action, env.physics.data.qpos.copy(), env.physics.data.qvel.copy(), observation, reward))
    return [np.array(column) for column in zip(*rows, strict=True)]


# Name, bounds on the median and on the largest difference of observations and velocities, on that of rewards.
STEPS = [
    ("cartpole-swingup", 5e-7, 1e-5, 1e-6),
    pytest.param("cheetah-run", 1e-5, 1e-3, 1e-5, marks=pytest.mark.slow),
    pytest.param("walker-walk", 1e-4, 3e-2, 1e-3, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "median", "largest", "of_reward"), STEPS, ids=["cartpole", "cheetah", "walker"])
def test_one_step_from_dm_controls_states(name, median, largest, of_reward):
    env = device(name)
    assert isinstance(env, DeviceEnvironment)
    qpos, qvel, action, *expected = transitions(name, starts=5, steps=40)
    assert len(qpos) == 200
    after, result = compiled(name)(state_of(qpos, qvel), jnp.asarray(action))
    for ours, theirs in zip((after.qpos, after.qvel, result.observation), expected, strict=False):
        difference = np.abs(np.asarray(ours) - theirs).max(axis=1)
        assert np.median(difference) < median
        assert difference.max() < largest
    np.testing.assert_allclose(result.reward, expected[3], atol=of_reward)
    assert np.std(expected[3]) > 1e-3
    assert result.observation.dtype == result.reward.dtype == np.float32
    assert result.observation.shape == (200, env.observation_dim)
    assert not result.terminated.any()
    assert not result.success.any()
    assert env.max_episode_steps == 1000
    np.testing.assert_array_equal(env.action_low, -np.ones(action.shape[1]))
    np.testing.assert_array_equal(env.action_high, np.ones(action.shape[1]))


@pytest.mark.parametrize("name", chosen(["cartpole-balance", "cartpole-swingup", "walker-stand", "walker-walk", "walker-run"], 1))
def test_rewards_and_observations_of_any_state(name):
    """High, upright and fast ones too, which random actions do not reach."""
    env, there, rng = device(name), host(name), np.random.default_rng(0)
    walks = name.startswith("walker")
    num, width = 50, len(env.action_low)
    there.reset(seed=0)
    model = there.physics.model
    qpos = rng.uniform(-0.5, 0.5, (num, model.nq))
    qvel = rng.uniform(-1.0, 1.0, (num, model.nv)) * (8.0 if walks else 5.0)
    action = rng.uniform(-1.2, 1.2, (num, width)).astype(np.float32)
    qpos, qvel = qpos.astype(np.float32), qvel.astype(np.float32)

    def see(qpos, qvel, action):
        view = env._view(State(qpos, qvel))
        return env.task.observe(view), env.task.reward(view, action)

    seen, rewards = quick(jax.vmap(see))(qpos, qvel, action)
    expected = []
    for i in range(num):
        there.set_state(qpos[i], qvel[i])
        there.physics.set_control(action[i])
        task = there._env.task
        entries = task.get_observation(there.physics).values()
        np.testing.assert_allclose(seen[i], np.concatenate([np.ravel(entry) for entry in entries]), atol=1e-5)
        expected.append(float(task.get_reward(there.physics)))
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    assert np.ptp(expected) > 0.05


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({"margin": 2.0}, (0.0, 0.0)),
        ({"margin": 1.0, "sigmoid": "quadratic", "value_at_margin": 0.0}, (0.0, 0.0)),
        ({"margin": 10.0, "sigmoid": "linear", "value_at_margin": 0.0}, (10.0, np.inf)),
        ({"margin": 0.5, "sigmoid": "linear", "value_at_margin": 0.5}, (1.0, np.inf)),
        ({"margin": 0.6}, (1.2, np.inf)),
    ],
)
def test_tolerance_is_dm_controls(arguments, limits):
    registry.suite()
    from dm_control.utils import rewards

    x = np.linspace(-12.0, 15.0, 1001)
    ours = tasks.tolerance(jnp.asarray(x, jnp.float32), *limits, **arguments)
    np.testing.assert_allclose(ours, rewards.tolerance(x, bounds=limits, **arguments), atol=1e-5)


@pytest.mark.parametrize("name", chosen(["cartpole-balance", "cartpole-swingup", "walker-walk", "cheetah-run"], 1))
def test_starts_have_dm_controls_distribution(name):
    there, num = host(name), 300
    expected = np.stack([there.reset(seed=seed)[0] for seed in range(num)])
    state, observation = quick(jax.vmap(device(name).reset))(jax.random.split(jax.random.key(0), num))
    assert observation.shape == expected.shape
    error = 5.0 * np.sqrt(2.0 / num) * expected.std(axis=0) + 1e-5  # rounding, where all are equal
    assert (np.abs(np.mean(observation, axis=0) - expected.mean(axis=0)) < error).all()
    np.testing.assert_allclose(np.std(observation, axis=0), expected.std(axis=0), rtol=0.35, atol=1e-5)
    if name == "walker-walk":
        assert not np.asarray(state.qvel).any()
        assert not np.asarray(state.qpos[:, :2]).any()
        low, high = there.physics.model.jnt_range[3:].T
        assert ((state.qpos[:, 3:] >= low - 1e-6) & (state.qpos[:, 3:] <= high + 1e-6)).all()
        assert np.abs(state.qpos[:, 2]).max() == pytest.approx(np.pi, rel=0.05)


@pytest.mark.slow
def test_a_cheetah_settles_as_dm_controls(monkeypatch):
    """From the same postures, after 200 steps of physics."""
    env, there, num = device("cheetah-run"), host("cheetah-run"), 20
    expected = np.stack([there.reset(seed=seed)[0] for seed in range(num)])
    low, high = there.physics.model.jnt_range[3:].T
    drawn = np.stack([np.r_[np.zeros(3), np.random.RandomState(seed).uniform(low, high)] for seed in range(num)])

    def settle(posture):
        monkeypatch.setattr(tasks, "_posture", lambda *_: posture)
        return env.reset(jax.random.key(0))[1]

    difference = np.abs(quick(jax.vmap(settle))(jnp.asarray(drawn, jnp.float32)) - expected)
    assert np.median(difference.max(axis=1)) < 1e-3


@pytest.mark.slow
def test_random_actions_score_the_same():
    """Walker, 32 episodes of 100 steps on each."""
    env, step, there, num = device("walker-walk"), compiled("walker-walk"), host("walker-walk"), 32
    action = np.random.default_rng(0).uniform(-1.0, 1.0, (100, num, 6)).astype(np.float32)
    state, _ = quick(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), num))
    here, returns = np.zeros(num), np.zeros(num)
    for t in range(100):
        state, result = step(state, action[t])
        here += np.asarray(result.reward)
    for i in range(num):
        there.reset(seed=i)
        returns[i] = sum(there.step(action[t, i])[1] for t in range(100))
    assert abs(here.mean() - returns.mean()) < 4.0 * np.sqrt((here.var() + returns.var()) / num)


# The checker would have bounded observations.
@pytest.mark.filterwarnings("ignore:.*Box observation space")
@pytest.mark.parametrize("name", ["walker-walk", "ball_in_cup-catch"])
def test_gymnasium_adapter(name):
    env = host(name)
    check_env(env, skip_render_check=True)
    first, _ = env.reset(seed=3)
    assert not np.array_equal(env.reset(seed=4)[0], first)
    assert not np.array_equal(env.reset()[0], env.reset()[0])
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    # The start that dm_control itself gives, and its reward.
    theirs = registry.suite().load(*name.split("-"), task_kwargs={"random": 3})
    entries = theirs.reset().observation.values()
    np.testing.assert_array_equal(np.concatenate([np.ravel(e) for e in entries]).astype(np.float32), first)
    action = np.full(env.action_space.shape, 0.3, np.float32)
    for _ in range(30):
        result = theirs.step(action)
        observation, reward, *_ = env.step(action)
        assert reward == result.reward
    entries = result.observation.values()
    np.testing.assert_array_equal(np.concatenate([np.ravel(e) for e in entries]).astype(np.float32), observation)
    env.close()


def test_the_spec_limits_episodes():
    env = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env_spec_of("dmc/cartpole-balance-v0")))
    env.reset(seed=0)
    ended = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(1000)]
    assert ended == [(False, False)] * 999 + [(False, True)]
    assert env.render() is None
    env.close()


def test_names():
    text = env_spec_of("dmc/walker-walk-v0")
    assert env_spec_of("dmc/walker-walk") == text
    spec = json.loads(text)
    assert spec["id"] == "dmc/walker-walk-v0"
    assert spec["max_episode_steps"] == 1000
    assert registry.from_env_spec(text) == ("walker", "walk")
    assert registry.from_env_spec(env_spec_of("dmc/ball_in_cup-catch")) == ("ball_in_cup", "catch")
    for changes in (
        {"entry_point": "a:b"},
        {"max_episode_steps": None},
        {"kwargs": {"domain": "walker"}},
        {"kwargs": {**spec["kwargs"], "random": 1}},
        {"additional_wrappers": [{"name": "TransformReward", "entry_point": "x:y", "kwargs": {}}]},
    ):
        assert registry.from_env_spec(json.dumps({**spec, **changes})) is None
    drawn = {**spec["kwargs"], "render_mode": "rgb_array"}
    assert registry.from_env_spec(json.dumps({**spec, "kwargs": drawn})) == ("walker", "walk")
    assert registry.from_env_spec("no json") is None


def test_unknown_names_say_which_are_near():
    with pytest.raises(DatasetError, match=r"'dmc/walker-wolk-v0' is no task .*there are .*dmc/walker-walk"):
        env_spec_of("dmc/walker-wolk-v0")
    with pytest.raises(DatasetError, match=r"dmc/cheetah-run.*dmc/walker-walk"):
        env_spec_of("dmc/zzz")


def test_missing_package_names_its_extra(monkeypatch):
    text = env_spec_of("dmc/walker-walk")
    monkeypatch.setitem(sys.modules, "dm_control", None)
    message = r"needs.* dm_control, which is not installed: pip install 'diffrl\[dmc\]'"
    with pytest.raises(DatasetError, match=message):
        env_spec_of("dmc/walker-walk-v0")
    for backend in ("gymnasium", "mjx"):
        with pytest.raises(BackendError, match=message):
            make.choose(backend, text, None).host(1)


def test_backends():
    found = make.choose("auto", env_spec_of("dmc/hopper-hop"), None)
    assert found.name == "gymnasium"
    assert f"dm-control {importlib.metadata.version('dm-control')}" in found.simulator
    envs = found.host(2)
    assert envs.reset([0, 1]).shape == (2, 15)
    assert envs.step(np.zeros((2, 4), np.float32)).reward.shape == (2,)
    envs.close()
    with pytest.raises(BackendError, match=r"knows dmc/cartpole-balance, .*, not dmc/hopper-hop; use --backend=auto"):
        make.choose("mjx", env_spec_of("dmc/hopper-hop"), None)
    spec = json.loads(env_spec_of("dmc/cartpole-swingup"))
    short = make.choose("mjx", json.dumps({**spec, "max_episode_steps": 7}), None)
    assert short.device.max_episode_steps == 7
    assert "dm_control's model on MJX" in short.simulator


@pytest.mark.parametrize(
    "backend, name",
    [("gymnasium", "dmc/cartpole-swingup"), ("mujoco", "Hopper-v5"), pytest.param("device", "", marks=pytest.mark.slow)],
)
def test_some_environments_start_anew(backend, name):
    if backend == "device":
        envs = _Stepped(device("cartpole-swingup"), 3)
    else:
        envs = make.choose(backend, env_spec_of(name), None).host(3)
    first = envs.reset([0, 1, 2])
    action = np.zeros((3, len(envs.action_low)), np.float32)
    before = np.asarray(envs.step(action).observation)
    fresh = envs.reset_some(np.array([True, False, True]), [1, 7])
    assert fresh.shape == (2, first.shape[1])
    np.testing.assert_allclose(fresh[0], first[1], atol=1e-6)
    assert not np.allclose(fresh[1], first[2], atol=1e-6)
    # The one in the middle went on; the first follows the way of the one whose seed it took.
    after = np.asarray(envs.step(action).observation)
    np.testing.assert_allclose(after[0], before[1], atol=1e-5)
    assert not np.allclose(after[1], before[1], atol=1e-7)
    envs.reset([0, 1, 2])
    envs.step(action)
    np.testing.assert_allclose(envs.step(action).observation[1], after[1], atol=1e-5)
    if backend != "device":
        assert envs.reset_some(np.zeros(3, bool), []).shape == (0, first.shape[1])
    envs.close()


def test_a_finished_environment_starts_anew():
    """Hopper falls; started again, it moves again."""
    envs = make.choose("mujoco", env_spec_of("Hopper-v5"), None).host(2)
    theirs = GymnasiumEnvironments(env_spec_of("Hopper-v5"), None, 2)
    for batch in (envs, theirs):
        batch.reset([0, 1])
        while not (step := batch.step(np.ones((2, 3), np.float32))).terminated[0]:
            pass
        which = step.terminated
        assert not batch.step(np.ones((2, 3), np.float32)).reward[0]
        batch.reset_some(which, [5] * int(which.sum()))
        assert batch.step(np.ones((2, 3), np.float32)).reward[0] > 0
        np.testing.assert_array_equal(batch.action_low, -np.ones(3))
        np.testing.assert_array_equal(batch.action_high, np.ones(3))
        batch.close()


def test_bounds_of_a_maze():
    maze = pointmaze.from_env_spec(env_spec_of("PointMaze_UMaze-v3"), None)
    assert (maze.action_low, maze.action_high) == ((-1.0, -1.0), (1.0, 1.0))


def test_importing_brings_no_simulator():
    modules = ("diffrl.envs.make", "diffrl.data.env_id", "diffrl.envs.dmc.registry", "diffrl.envs.dmc.mjx")
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; "
    code += "print([m for m in ('gymnasium', 'mujoco', 'dm_control') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
