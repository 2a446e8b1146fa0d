"""An environment of a package of the user's own: everything that an evaluation would refuse is refused before training."""

import importlib
import importlib.metadata
import itertools
import sys

import gymnasium
import numpy as np
import pytest

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig, OnlineConfig
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import DatasetError
from diffrl.data.env_id import env_spec_of
from diffrl.data.environment import matched
from diffrl.envs import make, trust
from diffrl.sweeps.plan import Group
from diffrl.sweeps.subjects import subjects
from diffrl.training.online.environment import opened
from diffrl.training.train import train

PACKAGE = """
import gymnasium, numpy as np
from gymnasium.envs.registration import register

class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}
    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}

class Broken(Line):
    def __init__(self):
        raise RuntimeError("no licence found")

register("Line-v0", "PACKAGE:Line", max_episode_steps=5)
register("Broken-v0", "PACKAGE:Broken", max_episode_steps=5)
register("Endless-v0", "PACKAGE:Line")
"""
ENV_IDS = ("Line-v0", "Broken-v0", "Endless-v0")
_numbers = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package that nothing has imported yet."""
    name = f"users_own_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(PACKAGE.replace("PACKAGE", name))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield name
    for env_id in ENV_IDS:
        gymnasium.registry.pop(env_id, None)
    sys.modules.pop(name, None)


def rows(width=3):
    state = np.random.default_rng(0).normal(size=(13, width))
    given = {"observation": state[:-1], "next_observation": state[1:], "action": np.zeros((12, 1))}
    return given | {"reward": np.arange(12.0), "terminal": np.zeros(12)}


def config(path, env_id) -> Config:
    method = bc.Config(hidden_dims=(4,), num_updates=2, batch_size=4)
    return Config(method, DatasetConfig(id=str(path), env_id=env_id), num_seeds=1)


def swept(asked: Config, workdir):
    return list(subjects([Group("all", workdir, (), asked, {})]))


WRONG = [
    ("Line-v0", False, 3, r"users_own_\d+, a package of your own, .*set DIFFRL_ENV_PACKAGES=users_own_\d+"),
    ("Broken-v0", True, 3, "cannot be made: RuntimeError: no licence found"),
    ("Endless-v0", True, 3, "no time limit.*register it with max_episode_steps"),
    ("Lin-v0", True, 3, "no environment of gymnasium"),
    ("Line-v0", True, 4, "an observation has 4 numbers in the data and 3 there"),
]


@pytest.mark.parametrize("env_id, named, width, message", WRONG)
@pytest.mark.parametrize("program", [train, swept])
def test_what_an_evaluation_would_refuse_is_refused_before_work(
    tmp_path, monkeypatch, package, program, env_id, named, width, message
):
    monkeypatch.setenv(trust.VARIABLE, package if named else "")
    np.savez(tmp_path / "rows.npz", **rows(width))
    asked = config(tmp_path / "rows.npz", f"{package}:{env_id}")
    with pytest.raises(DatasetError, match=message) as refused:
        program(asked, tmp_path / "w")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "w").exists()


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, package):
    (tmp_path / f"{package}.py").write_text("raise ZeroDivisionError('half done')")
    with pytest.raises(DatasetError, match=f"importing {package} failed with ZeroDivisionError: half done"):
        env_spec_of(f"{package}:Line-v0")
    with pytest.raises(DatasetError, match="which cannot be imported"):
        env_spec_of("no_such_package:Line-v0")


def test_one_that_passes_is_made_by_a_program_that_never_imported_it(monkeypatch, package):
    monkeypatch.setenv(trust.VARIABLE, f"other, {package}")
    source, unmatched = matched(from_arrays(**rows(), env_id=f"{package}:Line-v0"))
    assert unmatched == ""
    assert source.action_low.tolist() == [-1]
    for env_id in ENV_IDS:
        gymnasium.registry.pop(env_id)
    sys.modules.pop(package)
    host = make.choose("auto", source.env_spec, None).host
    assert host is not None
    envs = host(2)
    assert (envs.max_episode_steps, envs.reset([0, 1]).shape) == (5, (2, 3))
    envs.close()


def test_interaction_asks_the_same(monkeypatch, package):
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    with pytest.raises(DatasetError, match="DIFFRL_ENV_PACKAGES"), opened(OnlineConfig(env_id=f"{package}:Line-v0"), 1):
        pass


def test_known_packages_and_plug_ins_need_no_naming(monkeypatch):
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    for env_id in ("Hopper-v5", "PointMaze_UMaze-v3", "gymnasium_robotics:AdroitHandDoor-v1"):
        assert env_spec_of(env_id)
    plugged = importlib.metadata.EntryPoint("x", "plugged.registration:all", "gymnasium.envs")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [plugged] if group == plugged.group else [])
    assert trust.own_module({"entry_point": "plugged.envs:Env"}) == ""
    assert trust.own_module({"entry_point": "plugged_not.envs:Env"}) == "plugged_not.envs"
