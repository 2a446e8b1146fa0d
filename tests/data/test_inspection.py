"""Facts of rows against numbers counted by hand, through every loader; and what a file holds that no loader reads."""

import h5py
import numpy as np
import pytest
from every_loader import ALL, FILES, OF_NEXT

from diffrl.data import episodes, inspection
from diffrl.data.arrays import from_arrays
from diffrl.data.contents import Array, contents
from diffrl.data.inspection import inspect
from diffrl.data.load import load


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(episodes, "_BLOCK", 4)  # so that six rows are several blocks


def rows(**changed) -> dict[str, np.ndarray]:
    """Two episodes of three rows; the first column of observations stands still."""
    step = np.arange(6.0)
    given = {
        "observation": np.stack([np.full(6, 7.0), 10.0 + step], axis=1),
        "action": np.array([[-1.0], [0.5], [0.0], [0.0], [0.2], [1.0]]),
        "reward": step,
        "terminal": np.array([0, 0, 1, 0, 0, 0]),
        "timeout": np.array([0, 0, 0, 0, 0, 1]),
    }
    given["next_observation"] = given["observation"] + np.array([0.0, 1.0])
    return given | changed


@pytest.mark.parametrize("loader", ALL)
def test_facts_are_counted_alike_in_every_loader(tmp_path, loader):
    facts = inspect(loader(tmp_path, rows()))
    observation, reward = facts.fields["observation"], facts.fields["reward"]
    assert (facts.rows, facts.terminals, facts.timeouts, facts.duplicates) == (6, 1, 1, 0)
    assert (facts.lengths.tolist(), facts.returns.tolist()) == ([3, 3], [3, 12])
    assert (observation.low.tolist(), observation.high.tolist(), observation.constant) == ([7, 10], [7, 15], [0])
    np.testing.assert_allclose([observation.mean[1], observation.std[1], reward.mean[0]], [12.5, np.std(np.arange(6)), 2.5])
    assert facts.goes_on == 1  # the terminal's next observation is the next episode's first
    assert (facts.actions.beyond, facts.actions.at_bound, facts.actions.reach.tolist()) == (0, 2 / 6, [1.0])


# robomimic's files have one flag for both.
@pytest.mark.parametrize("loader", [loader for loader in OF_NEXT if loader.__name__ != "robomimic_file"])
def test_what_ends_have_is_told(tmp_path, loader):
    """A jump without a flag after row 1, and a row that is both."""
    given = rows(terminal=np.array([0, 0, 0, 0, 0, 1]))
    given["observation"] = given["observation"] + 100.0 * (np.arange(6) > 1)[:, None]
    given["next_observation"] = given["observation"] + np.array([0.0, 1.0])
    facts = inspect(loader(tmp_path, given))
    assert (facts.ends.both, facts.ends.unflagged, facts.ends.dropped, facts.ends.own_next) == (1, 1, 0, True)
    assert facts.lengths.tolist() == [2, 4]


@pytest.mark.parametrize("loader", FILES)
def test_rows_without_a_next_observation_are_told(tmp_path, loader):
    given = rows()
    del given["next_observation"]
    facts = inspect(loader(tmp_path, given))
    assert (facts.ends.dropped, facts.ends.own_next, facts.goes_on, facts.rows) == (1, False, None, 5)


def test_a_directory_has_the_ends_of_all_its_files(tmp_path):
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", **rows(timeout=np.ones(6)))
    assert inspect(load(str(tmp_path))).ends == episodes.Ends(both=2)


def test_values_that_are_not_finite_are_counted_by_column():
    given = rows()
    given["observation"] = given["observation"].copy()
    given["observation"][[1, 2], 1] = np.nan, 1e300
    given["reward"] = given["reward"] * np.array([1, 1, 1, 1, 1, np.inf])
    facts = inspect(from_arrays(**given))
    observation = facts.fields["observation"]
    assert (observation.bad.tolist(), observation.low.tolist(), observation.high.tolist()) == ([0, 2], [7, 10], [7, 15])
    np.testing.assert_allclose(observation.mean[1], np.mean([10, 13, 14, 15]))
    assert facts.fields["reward"].bad.tolist() == [1]


def test_deviations_of_large_offsets_keep_their_digits():
    value = (1.7e9 + np.arange(6.0))[:, None]
    field = inspection._field("observation", value)
    np.testing.assert_allclose([field.mean[0] - 1.7e9, field.std[0]], [2.5, np.std(np.arange(6))])


def test_duplicates_are_rows_equal_in_all_but_the_timeout():
    given = {name: np.concatenate([value, value, value[:1]]) for name, value in rows().items()}
    assert inspect(from_arrays(**given)).duplicates == 7
    given["reward"] = np.arange(13.0)
    assert inspect(from_arrays(**given)).duplicates == 0


def test_discrete_actions_have_no_bounds():
    facts = inspect(from_arrays(**rows(action=np.array([0, 1, 2, 0, 1, 2]))))
    assert (len(facts.actions.low), facts.actions.beyond, facts.fields["action"].high.tolist()) == (0, 0, [2])


def test_actions_are_held_against_the_bounds_they_have():
    facts = inspect(from_arrays(**rows(action=4.0 * rows()["action"]), action_low=-2.0, action_high=2.0))
    assert (facts.actions.known, facts.actions.beyond, facts.actions.at_bound) == (True, 2, 3 / 6)


def test_contents_are_listed_without_reading(tmp_path):
    np.savez(tmp_path / "a.npz", obs=np.zeros((3, 2), np.float32), info=np.array([{}, {}], object))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 7))
    assert contents(tmp_path / "a.npz") == [Array("info", (2,), "object"), Array("obs", (3, 2), "float32")]
    assert contents(tmp_path / "a.hdf5") == [Array("data/demo_0/actions", (4, 7), "float64")]
    assert contents(tmp_path) == contents(tmp_path / "a.npz")
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "a.hdf5").read_bytes()[:100])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert contents(tmp_path / "cut.hdf5") == contents(tmp_path / "cut.npz") == contents(tmp_path / "nowhere.npz") == []
