"""The gymnasium backend on environments of other kinds, and its errors."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from diffrl.envs import make, trust
from diffrl.envs.gymnasium_backend import BackendError, GymnasiumEnvironments, make_env


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """The environments of this file are no package's."""
    monkeypatch.setenv(trust.VARIABLE, f"{__name__}, no_such_package")


class Short(gymnasium.Env):
    """Ends after its first observation's number of steps; counts how often it is stepped."""

    observation_space = gymnasium.spaces.Dict(
        {"b": gymnasium.spaces.Box(-9, 9, (2,)), "a": gymnasium.spaces.Box(-9, 9, (1, 2), dtype=np.float64)}
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, seed
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        assert self.t <= self.end, "stepped beyond its end"
        return self._observe(), float(action[0]), self.t == self.end, False, {"is_success": np.bool_(self.t == 2)}

    def _observe(self):
        return {"b": np.full(2, self.t, np.float32), "a": np.full((1, 2), -self.t, np.float64)}


class Several(Short):
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])


def spec(name="Short", **changes):
    entry = {"id": "Short-v0", "entry_point": f"{__name__}:{name}", "max_episode_steps": 5, "reward_threshold": None}
    rest = {"nondeterministic": False, "order_enforce": True, "disable_env_checker": False, "kwargs": {}}
    return json.dumps({**entry, **rest, "additional_wrappers": [], "vector_entry_point": None, **changes})


def test_finished_environments_rest():
    envs = make.choose("auto", spec(), None).host(2)
    assert envs.reset([2, 4]).tolist() == [[0] * 4] * 2
    rewards, done, success = [], [], []
    for _ in range(4):
        step = envs.step(np.array([[0.5], [0.25]], np.float32))
        rewards.append(step.reward.tolist())
        done.append(step.terminated.tolist())
        success.append(step.success.tolist())
    assert rewards == [[0.5, 0.25], [0.5, 0.25], [0, 0.25], [0, 0.25]]
    assert done == [[False, False], [True, False], [True, False], [True, True]]
    assert success == [[False, False], [True, True], [False, False], [False, False]]
    # a before b: alphabetical.
    assert step.observation.tolist() == [[-2, -2, 2, 2], [-4, -4, 4, 4]]
    assert step.observation.dtype == np.float32
    envs.close()


def test_keys_choose_and_order():
    envs = GymnasiumEnvironments(spec(), ("b", "a"), 1)
    envs.reset([3])
    assert envs.step(np.zeros((1, 1), np.float32)).observation.tolist() == [[1, 1, -1, -1]]
    with pytest.raises(ValueError, match="as many seeds"):
        envs.reset([1, 2])
    envs.close()


def test_same_seed_same_episode():
    text = gymnasium.make("Pendulum-v1").spec.to_json()
    envs = GymnasiumEnvironments(text, None, 2)
    first = envs.reset([5, 5])
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(envs.reset([5, 6])[0], first[0])
    assert not envs.step(np.zeros((2, 1), np.float32)).success.any()
    envs.close()


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "not the JSON"),
        (spec(max_episode_steps=None), "no time limit"),
        (spec("Several"), "MultiDiscrete actions; only Box and Discrete"),
        (spec(entry_point="no_such_package.envs:Env"), r"no_such_package.*pip install 'diffrl\[envs\]'"),
        (spec(kwargs={"wrong": 1}), "cannot be made: TypeError"),
    ],
)
def test_errors_say_what_to_do(text, message):
    with pytest.raises(BackendError, match=message):
        GymnasiumEnvironments(text, None, 1)


def test_unknown_key():
    with pytest.raises(BackendError, match="'c'; there are a, b"):
        GymnasiumEnvironments(spec(), ("c",), 1)


def test_time_limit_override():
    assert GymnasiumEnvironments(spec(), None, 1, max_episode_steps=3).max_episode_steps == 3
    assert make_env(spec(), 3).spec.max_episode_steps == 3


def test_importing_brings_no_simulator():
    """Each module by itself, in one fresh process; what workers import brings no JAX either."""
    code = """
import sys, importlib
for name in ("collection.collect", "collection.recipes", "envs.flatten"):
    importlib.import_module("diffrl." + name)
importlib.import_module("launch.collect")
assert "jax" not in sys.modules, "jax"
for name in ("envs.make", "envs.pointmaze", "data.minari", "data.scores", "data.dataset", "algorithm", "registry"):
    importlib.import_module("diffrl." + name)
found = [name for name in ("gymnasium", "gymnasium_robotics", "minari", "mujoco", "h5py") if name in sys.modules]
assert not found, found
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
