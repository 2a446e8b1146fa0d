"""Data and their environment are compared before training; what only draws never reaches an evaluation."""

import dataclasses
import json
import sys

import gymnasium
import jaxtyping
import numpy as np
import pytest
from every_loader import FILES
from support import quick_compilation

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig
from diffrl.data import minari
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.env_id import env_spec_of
from diffrl.data.environment import matched
from diffrl.envs import env_spec, make
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments
from diffrl.envs.make import interface
from diffrl.sweeps.plan import Group
from diffrl.sweeps.subjects import subjects
from diffrl.training.train import train


def rows(observation=3, actions=1, n=12, **changes):
    state = np.random.default_rng(0).normal(size=(n + 1, observation))
    given = {"observation": state[:-1], "next_observation": state[1:], "action": np.zeros((n, actions))}
    return given | {"reward": np.arange(n, dtype=float), "terminal": np.zeros(n), **changes}


ANT = "AntMaze_UMaze-v5"


@pytest.mark.parametrize(
    "given, env_id, message",
    [
        (rows(27, 8), ANT, r"AntMaze_UMaze-v5.*: an observation has 27 numbers in the data and 107 there"),
        (rows(3, 2), "Pendulum-v1", "an action has 2 numbers in the data and 1 there"),
        (rows(6, action=np.zeros((12, 1))), "Acrobot-v1", "actions are real numbers in the data and discrete, .* there"),
        (
            rows(3, action=np.zeros(12, int)),
            "Pendulum-v1",
            "actions are discrete, that is integers, in the data and real",
        ),
        (
            rows(6, action=np.zeros(12, int), num_actions=4),
            "Acrobot-v1",
            "discrete actions are 4 from 0 on in the data and 3 f",
        ),
        (
            rows(3, action_low=-1, action_high=1),
            "Pendulum-v1",
            r"action_low is -1 in the data and -2 there \(data without",
        ),
        (rows(3, action_low=-2, action_high=1), "Pendulum-v1", "action_high is 1 in the data and 2 there"),
        (rows(4, 2), "PointMaze_UMaze-v3", "an observation has 4 numbers in the data and 6 there"),
        (rows(3, 2), "diffrl/CartPoleSwingUp-v0", "an observation has 3 numbers in the data and 4 there"),
        (rows(1, 1), "Blackjack-v1", "an observation has 1 numbers in the data|only Box"),
    ],
)
def test_data_of_another_environment_are_refused(given, env_id, message):
    with pytest.raises(DatasetError, match=message) as refused:
        matched(from_arrays(**given, env_id=env_id))
    assert "\n" not in str(refused.value)
    assert "--config.dataset.env_id=" in str(refused.value)


@pytest.mark.parametrize(
    "given, env_id",
    [
        (rows(105 + 2, 8), ANT),
        (rows(3, action_low=-2, action_high=2.00001), "Pendulum-v1"),
        (rows(6, 2), "PointMaze_UMaze-v3"),
        (rows(11, 3), "Hopper-v5"),
        (rows(6, action=np.zeros(12, int), num_actions=3), "Acrobot-v1"),
        (rows(4, action=np.zeros(12, int)), "CartPole-v1"),
        (rows(3, 1), ""),
    ],
)
def test_data_of_their_environment_pass(given, env_id):
    assert matched(from_arrays(**given, env_id=env_id))[1] == ""


@pytest.mark.parametrize("loader", FILES)
def test_files_of_every_kind_are_compared(tmp_path, loader):
    with pytest.raises(DatasetError, match="an observation has 3 numbers in the data and 11 there"):
        matched(loader(tmp_path, rows(3, 3), env_id="Hopper-v5"))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Pendulum-v1", "PointMaze_UMaze-v3", "AdroitHandDoor-v1", "diffrl/Corridor-v0"])
def test_an_interface_is_what_the_evaluator_meets(env_id):
    spec = env_spec_of(env_id)
    found, envs = interface(spec, None), GymnasiumEnvironments(spec, None, 1)
    assert found.observation_dim == envs.reset([0]).shape[1]
    np.testing.assert_allclose(found.action_low, envs.action_low)
    np.testing.assert_allclose(found.action_high, envs.action_high)
    envs.close()


def config(path, **dataset) -> Config:
    method = bc.Config(hidden_dims=(4,), num_updates=2, batch_size=4)
    return Config(method, DatasetConfig(**dataset), num_seeds=1, updates_per_chunk=2, checkpoint_every=2)


@pytest.fixture
def _trainer_in_process(monkeypatch):
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    with quick_compilation():
        yield
    jaxtyping.config.update("jaxtyping_disable", checks)


def test_training_refuses_before_it_writes_anything(tmp_path):
    with pytest.raises(DatasetError, match="27 numbers in the data and 107 there"):
        train(config(tmp_path), tmp_path / "w", from_arrays(**rows(27, 8), env_id=ANT))
    assert not (tmp_path / "w").exists()


def test_a_sweep_refuses_before_it_starts(tmp_path):
    np.savez(tmp_path / "a.npz", **rows(27, 8))
    group = Group("all", tmp_path / "g", (), config(tmp_path, id=str(tmp_path / "a.npz"), env_id=ANT), {})
    with pytest.raises(DatasetError, match="27 numbers in the data and 107 there"):
        list(subjects([group]))


@pytest.mark.usefixtures("_trainer_in_process")
def test_without_the_simulator_training_goes_on_and_says_so_once(tmp_path, monkeypatch, capsys):
    source = from_arrays(**rows(27, 8), env_id=ANT)
    for name in [name for name in sys.modules if name.startswith("gymnasium_robotics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gymnasium.registry, ANT)
    chunked = dataclasses.replace(config(tmp_path, reward_shift=-1.0), action_chunk=2)
    assert train(chunked, tmp_path / "w", source).complete
    said = " ".join(capsys.readouterr().out.split())
    first = [
        said.index(words) for words in ("rewards plus -1 (reward_shift)", "columns derived from the rows: action_chunk", "2/2 ")
    ]
    assert first == sorted(first)
    assert said.count("the data were not compared with their environment: AntMaze_UMaze-v5") == 1
    assert "which is not installed: pip install 'diffrl[envs]'" in said
    card = json.loads((tmp_path / "w" / "dataset.json").read_text())
    assert card["description"].endswith("bounds of actions unknown, taken to be -1 and 1")


def in_a_window(spec: str) -> str:
    """As it is recorded by somebody who watches."""
    fields = json.loads(spec)
    window = {"name": "HumanRendering", "entry_point": "gymnasium.wrappers:HumanRendering", "kwargs": {}}
    fields["kwargs"] = {**fields["kwargs"], "render_mode": "human"}
    return json.dumps({**fields, "additional_wrappers": [window]})


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Pendulum-v1", "PointMaze_UMaze-v3", "diffrl/HoleIntegrator-v0"])
def test_no_window_is_opened(env_id, monkeypatch):
    """Neither by the comparison nor by any backend; and what draws nothing is recognised as what it is."""
    made = []
    monkeypatch.setattr(gymnasium, "make", lambda spec, made=gymnasium.make, record=made, **options: _record(made, spec, options))
    plain = env_spec_of(env_id)
    spec = in_a_window(plain)
    assert interface(spec, None).observation_dim == interface(plain, None).observation_dim
    backend = make.choose("auto", spec, None)
    assert backend.name == make.choose("auto", plain, None).name
    if backend.host is not None:
        envs = backend.host(1)
        assert envs.reset([0]).shape[0] == 1
        envs.close()
    assert not made


def _record(made, spec, options):
    assert "render_mode" not in spec.kwargs
    assert not spec.additional_wrappers
    return made(spec, **options)


def test_a_recorded_spec_loses_what_draws_and_nothing_else():
    plain = env_spec_of("Hopper-v5")
    assert json.loads(env_spec.without_display(in_a_window(plain))) == json.loads(plain)
    assert json.loads(minari._modern(in_a_window(plain)) or "") == json.loads(plain)
    other = {"name": "FlattenObservation", "entry_point": "gymnasium.wrappers:FlattenObservation", "kwargs": {}}
    kept = json.dumps({**json.loads(plain), "additional_wrappers": [other]})
    assert json.loads(env_spec.without_display(kept)) == json.loads(kept)
    for text in ("", "no json", "[]", '{"kwargs": 3}'):
        assert env_spec.without_display(text) == text


def test_a_source_without_an_environment_is_left_alone():
    source: Source = from_arrays(**rows())
    assert matched(source) == (source, "")
