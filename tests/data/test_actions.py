"""Actions beyond their bounds, bounds that the data do not have, and discrete actions, in every loader."""

import json
import warnings

import h5py
import minari
import numpy as np
import pytest
from every_loader import FILES, OF_NEXT, WITHOUT_NEXT, arrays_in_memory, hdf5_file, minari_dataset, npz_directory, npz_file
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig, override
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.environment import matched
from diffrl.data.load import load


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def rows(n=12, observation=3, **changes):
    state = np.random.default_rng(0).normal(size=(n + 1, observation))
    return {
        "observation": state[:-1],
        "next_observation": state[1:],
        "action": np.linspace(-1, 1, n)[:, None],
        "reward": np.arange(n, dtype=float),
        "terminal": np.zeros(n),
        **changes,
    }


@pytest.mark.parametrize("loader", [*OF_NEXT, minari_dataset])
def test_actions_beyond_the_bounds_are_clipped_where_that_is_asked_for(tmp_path, loader):
    """Of the form of D4RL's human demonstrations: a few actions reach 1.37 times the bound."""
    action = np.tile(np.linspace(-1.37, 1.27, 12)[:, None], (1, 2))
    action[:, 1] = 0.5
    source = loader(tmp_path, rows(action=action))
    config = Config(bc.Config(), DatasetConfig(id="a"))
    with pytest.raises(DatasetError, match=r"4 actions lie outside \[-1, 1\], first in row 0: \(-1.37, 0.5\).*") as refused:
        build(source, config.dataset)
    assert "\n" not in str(refused.value)
    # What the message names is a setting, and it helps.
    _, range_of_data, clip = str(refused.value).split("--config.")
    override(config, clip)
    dataset, spec, card = build(source, config.dataset)
    np.testing.assert_allclose(dataset[:].action, np.clip(action, -1, 1), atol=1e-6)
    assert (spec.action_low, spec.action_high) == ((-1, -1), (1, 1))
    assert card.description.endswith("4 actions clipped to the bounds")
    own = DatasetConfig(id="a")
    override(Config(bc.Config(), own), range_of_data.split(". ")[0])
    dataset, spec, card = build(source, own)
    np.testing.assert_allclose(spec.action_low, (-1.37, -0.5), rtol=1e-6)  # the second never moves: one unit to each side
    np.testing.assert_allclose(spec.action_high, (1.27, 1.5), rtol=1e-6)
    np.testing.assert_allclose(dataset[:].action, np.stack([np.linspace(-1, 1, 12), np.zeros(12)], axis=1), atol=1e-6)
    assert card.description.endswith("bounds of actions are the data's own")
    # The fingerprint is of the rows as they were found.
    assert card.sha256 == build(source._replace(action_low=np.full(2, -2.0), action_high=np.full(2, 2.0)), Transforms())[2].sha256


def test_a_file_like_door_human_trains(tmp_path):
    """28 actions beyond the bounds of AdroitHandDoor-v1, episodes that end by timeout, no next observations."""
    rng = np.random.default_rng(0)
    given = {"observation": rng.normal(size=(60, 39)), "action": rng.uniform(-1.37, 1.37, (60, 28)), "reward": rng.random(60)}
    given |= {"terminal": np.zeros(60), "timeout": np.arange(60) % 20 == 19}
    source, unmatched = matched(hdf5_file(tmp_path, given, env_id="AdroitHandDoor-v1"))
    assert unmatched == ""
    with pytest.raises(DatasetError, match="clip_actions=true"):
        build(source, Transforms())
    dataset, spec, card = build(source, Transforms(clip_actions=True))
    assert np.abs(np.asarray(dataset[:].action)).max() == 1.0
    assert (spec.observation_dim, spec.action_dim, card.rows, card.episodes) == (39, 28, 57, 3)


@pytest.mark.parametrize("loader", FILES)
@pytest.mark.parametrize("reach", [2.0, 0.9])
def test_bounds_are_the_environments_where_the_data_have_none(tmp_path, loader, reach):
    """Pendulum's torque is ±2: data that reach it are not refused, and those within ±1 are not trained for half of it."""
    given = rows(action=np.linspace(-reach, reach, 12)[:, None])
    source, unmatched = matched(loader(tmp_path, given, env_id="Pendulum-v1"))
    dataset, spec, card = build(source, Transforms())
    assert (unmatched, spec.action_low, spec.action_high) == ("", (-2.0,), (2.0,))
    np.testing.assert_allclose(dataset[:].action, given["action"] / 2, atol=1e-6)
    assert "unknown" not in card.description


@pytest.mark.parametrize("loader", WITHOUT_NEXT)
def test_without_an_environment_bounds_are_taken_to_be_1(tmp_path, loader):
    source, unmatched = matched(loader(tmp_path, rows()))
    _, spec, card = build(source, Transforms())
    assert (unmatched, spec.action_low, spec.action_high) == ("", (-1,), (1,))
    assert card.description.endswith("bounds of actions unknown, taken to be -1 and 1")


CHOICES = np.array([2, 0, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2])


@pytest.mark.parametrize("loader", [*OF_NEXT, minari_dataset])
@pytest.mark.parametrize("shape", [(12,), (12, 1)], ids=str)
def test_discrete_actions_become_one_hot_rows(tmp_path, loader, shape):
    source = loader(tmp_path, rows(action=CHOICES.reshape(shape)))
    dataset, spec, card = build(source, Transforms(standardize_observations=True))
    assert source.discrete
    assert (spec.num_actions, spec.action_dim, spec.action_low, spec.action_high) == (3, 3, (0, 0, 0), (1, 1, 1))
    assert (card.action_low, card.action_high) == (spec.action_low, spec.action_high)
    np.testing.assert_array_equal(dataset[:].action, np.eye(3)[CHOICES])
    assert dataset.rows.shape == (12, 3 + 3 + 3 + 3)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint8, bool])
def test_integers_of_every_kind_are_discrete(kind):
    action = (CHOICES > 0).astype(kind)
    dataset, spec, _ = build(from_arrays(**rows(action=action)), Transforms())
    assert spec.num_actions == 2
    np.testing.assert_array_equal(dataset[:].action, np.eye(2)[action.astype(int)])


def test_real_numbers_are_no_discrete_actions():
    _, spec, _ = build(from_arrays(**rows(action=(CHOICES % 2).astype(float)[:, None])), Transforms())
    assert (spec.num_actions, spec.action_dim) == (0, 1)


def test_their_number_is_the_argument_the_environment_or_what_occurs(tmp_path):
    few = CHOICES % 2
    assert build(from_arrays(**rows(action=few)), Transforms())[1].num_actions == 2
    assert build(from_arrays(**rows(action=few), num_actions=5), Transforms())[1].num_actions == 5
    np.savez(tmp_path / "b.npz", **rows(action=few), num_actions=4)
    assert build(load(str(tmp_path / "b.npz")), Transforms())[1].num_actions == 4
    for loader in (arrays_in_memory, npz_file, npz_directory, hdf5_file):
        folder = tmp_path / loader.__name__
        folder.mkdir()
        # Acrobot has three torques, of which these data know two.
        source, unmatched = matched(loader(folder, rows(observation=6, action=few), env_id="Acrobot-v1"))
        assert (unmatched, build(source, Transforms())[1].num_actions) == ("", 3)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_discrete_spaces_of_minari_begin_where_they_say(data_format):
    episode = EpisodeBuffer(
        id=None,
        observations=np.arange(5.0)[:, None],
        actions=np.array([-1, 1, 0, 2]),
        rewards=np.zeros(4),
        terminations=np.arange(4) == 3,
        truncations=np.zeros(4, bool),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "test/discrete-v0",
            [episode],
            observation_space=Box(-9, 9, (1,), np.float64),
            action_space=Discrete(5, start=-1),
            data_format=data_format,
        )
    dataset, spec, _ = build(load("test/discrete-v0"), Transforms())
    assert spec.num_actions == 5
    np.testing.assert_array_equal(dataset[:].action, np.eye(5)[[0, 2, 1, 3]])


@pytest.mark.parametrize(
    "action, options, message",
    [
        (CHOICES - 1, {}, r"4 discrete actions are none of 0 … 1, first in row 1: -1"),
        (CHOICES, {"num_actions": 2}, r"4 discrete actions are none of 0 … 1, first in row 0: 2"),
        (CHOICES * 10**9, {}, "2,000,000,001 of them are more than the 10,000 that rows can hold: give real numbers"),
        (np.stack([CHOICES, CHOICES], axis=1), {}, r"discrete, of shape \(12, 2\), expected \[rows\] or \[rows, 1\]"),
    ],
)
def test_integers_that_are_no_discrete_actions_are_refused(action, options, message):
    with pytest.raises(DatasetError, match=message):
        build(from_arrays(**rows(action=action), **options), Transforms())


def test_files_of_a_directory_have_the_same_kind_of_actions(tmp_path):
    np.savez(tmp_path / "a.npz", **rows(action=CHOICES))
    np.savez(tmp_path / "b.npz", **rows(action=np.zeros(12, int)))
    assert build(load(str(tmp_path)), Transforms())[1].num_actions == 3  # over all files
    np.savez(tmp_path / "b.npz", **rows(action=np.zeros((12, 1))))
    with pytest.raises(DatasetError, match=r"b\.npz' has real actions, .*a\.npz' has discrete ones"):
        load(str(tmp_path))


def test_discrete_actions_of_a_minari_file_that_are_none(tmp_path):
    minari_dataset(tmp_path, rows(action=CHOICES))
    path = tmp_path / "minari" / "test" / "episodes-v0" / "data"
    assert json.loads((path / "metadata.json").read_text())["total_steps"] == 12
    with h5py.File(path / "main_data.hdf5", "a") as file:
        del file["episode_0"]["actions"]
        file["episode_0"]["actions"] = np.zeros(12)
    with pytest.raises(DatasetError, match="malformed: TypeError: actions of type float64 are not discrete"):
        load("test/episodes-v0")
