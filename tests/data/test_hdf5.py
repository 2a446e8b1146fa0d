"""D4RL's HDF5 files, row by row against the loop of `qlearning_dataset`."""

import h5py
import numpy as np
import pytest
from row_reference import qlearning_rows, rows_of

from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.hdf5 import load as load_hdf5
from diffrl.data.load import load


def contents(n=40, seed=0, terminal=(), timeout=(), **changes):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(n, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.isin(np.arange(n), terminal),
        "timeouts": np.isin(np.arange(n), timeout),
        "infos/goal": np.zeros((n, 2)),
        **changes,
    }


def write(path, data):
    with h5py.File(path, "w") as file:
        for name, value in data.items():
            if value is not None:
                file[name] = value
    return str(path)


@pytest.mark.parametrize(
    "terminal, timeout",
    [
        ((), (9, 19, 29, 39)),
        ((4, 20), (9, 19, 29)),
        ((4, 5, 30), (6, 7, 20)),  # episodes of one row: 5 ends terminally, 7 by timeout
        ((9,), (9, 19)),  # both at once
        ((12,), ()),
    ],
)
def test_rows_are_those_of_qlearning_dataset(tmp_path, terminal, timeout):
    data = contents(terminal=terminal, timeout=timeout)
    source = load(write(tmp_path / "a.hdf5", data))
    rows = rows_of(source.transitions)
    assert [row[:5] for row in rows] == qlearning_rows(data)
    # An episode's last row that was kept is marked: where the next row of the file was dropped, or is another episode's.
    original = [i for i in range(39) if i in terminal or i not in timeout]
    ends = {i for i in original if i + 1 in set(timeout) - set(terminal) or i + 1 == 39} - set(terminal)
    assert [original[i] for i in np.flatnonzero(source.transitions.timeout)] == sorted(ends)
    assert source.description.startswith(f"D4RL HDF5 file, {len(rows)} of 40 rows")
    assert source.id == str(tmp_path / "a.hdf5")
    _, spec, card = build(source, Transforms())
    assert (spec.action_low, spec.action_high, card.env_spec) == ((-1.0, -1.0), (1.0, 1.0), None)
    assert card.episodes == len({*terminal, *timeout, 39})


def test_a_terminal_in_the_last_row_is_kept(tmp_path):
    """D4RL's loop stops before it."""
    data = contents(terminal=(39,), timeout=(19,))
    rows = rows_of(load(write(tmp_path / "a.h5", data)).transitions)
    assert [row[:5] for row in rows[:-1]] == qlearning_rows(data)
    assert rows[-1][:3] == (data["observations"][39].tolist(), data["actions"][39].tolist(), float(data["rewards"][39]))
    assert rows[-1][4:] == (True, False)


def test_own_next_observations_are_used(tmp_path):
    data = contents(terminal=(4, 5), timeout=(5, 9, 20))
    data["next_observations"] = np.concatenate([data["observations"][1:], data["observations"][:1]])
    data["next_observations"][[4, 20, 30]] += 1.0
    source = load(write(tmp_path / "a.hdf5", data))
    t = source.transitions
    np.testing.assert_array_equal(t.observation, data["observations"])
    np.testing.assert_array_equal(t.next_observation, data["next_observations"])
    assert np.flatnonzero(t.terminal).tolist() == [4, 5]
    assert np.flatnonzero(t.timeout).tolist() == [9, 20, 30, 39]
    assert "40 of 40 rows, with its own next observations" in source.description


def test_goal_switches_of_maze2d_are_no_terminals(tmp_path):
    """Its `timeouts` fall at goal switches, hundreds in a run without a terminal: every one cuts, none is terminal."""
    switches = tuple(range(5, 40, 6))
    t = load(write(tmp_path / "a.hdf5", contents(timeout=switches))).transitions
    assert not t.terminal.any()
    assert t.timeout.sum() == len(switches) + 1


def test_columns_of_early_files(tmp_path):
    data = contents(terminal=(3,), timeout=(9,))
    plain = rows_of(load(write(tmp_path / "a.hdf5", data)).transitions)
    tall = {name: value[:, None] if value.ndim == 1 else value for name, value in data.items()}
    assert rows_of(load(write(tmp_path / "b.hdf5", tall)).transitions) == plain


def test_without_timeouts_jumps_cut(tmp_path):
    """Where the next observation is not the following row's, as in the code of IQL."""
    data = contents(terminal=(4,), timeouts=None)
    data["next_observations"] = np.concatenate([data["observations"][1:], data["observations"][:1]])
    data["next_observations"][[4, 10, 25]] += 1.0
    t = load(write(tmp_path / "a.hdf5", data)).transitions
    assert np.flatnonzero(t.timeout).tolist() == [10, 25, 39]
    assert np.flatnonzero(t.terminal).tolist() == [4]


def test_without_timeouts_the_time_limit_cuts(tmp_path):
    path = write(tmp_path / "a.hdf5", contents(terminal=(13,), timeouts=None))
    # Steps 0–9 and 10–13 (terminal), 14–23, 24–33, 34–39: rows 9, 23, 33 and 39 have no next observation.
    expected = contents(terminal=(13,), timeout=(9, 23, 33))
    assert [row[:5] for row in rows_of(load_hdf5(path, max_episode_steps=10).transitions)] == qlearning_rows(expected)
    with pytest.raises(DatasetError, match=r"neither timeouts nor next_observations.*give dataset\.env_id"):
        load(path)
    # Hopper-v5 is cut after 1,000 steps, so that here only the end of the file is.
    assert len(load(path, env_id="Hopper-v5").transitions.reward) == 39


def test_env_id_makes_the_data_evaluable(tmp_path):
    source = load(write(tmp_path / "a.hdf5", contents()), env_id="Hopper-v5")
    assert '"id": "Hopper-v5"' in (build(source, Transforms())[2].env_spec or "")
    with pytest.raises(DatasetError, match=r"'Hoper-v5' is no environment of gymnasium.*Did you mean"):
        load(source.id, env_id="Hoper-v5")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"actions": None, "terminals": None},
            r"has no action \(actions, acts\); there are infos, observations, rewards",
        ),
        ({"terminals": None, "timeouts": None}, "does not say where its episodes end"),
        ({"rewards": np.zeros((40, 2))}, r"reward has shape \(40, 2\)"),
        ({"actions": np.zeros((39, 2))}, "action has 39 rows, reward 40"),
        ({"observations": np.zeros(40)}, r"observation has shape \(40,\)"),
        ({"actions": np.zeros((40, 2), np.int32)}, "actions are integers"),
        ({"timeouts": np.ones(40, bool)}, "every episode is one row long. Add next_observation"),
        ({"timeouts": None, "next_observations": np.zeros((40, 2))}, r"observation \(40, 3\) and next_observation \(40, 2\) d"),
        ({"rewards": np.full(40, np.nan)}, "reward has 39 values that are not finite, first in row 0"),
        ({"actions": np.full((40, 2), 1.1)}, r"39 actions lie outside \[-1, 1\].*clip_actions=true"),
    ],
)
def test_bad_files_are_refused(tmp_path, changes, message):
    path = write(tmp_path / "bad.hdf5", contents(**changes))
    with pytest.raises(DatasetError, match=message) as caught:
        build(load(path), Transforms())
    assert path in str(caught.value)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.hdf5"
    write(path, contents(400))
    whole = path.read_bytes()
    for keep in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:keep])
        with pytest.raises(DatasetError, match=r"a\.hdf5' is damaged, cut short or no HDF5 file .*: fetch it anew"):
            load(str(path))


def test_a_minari_file_is_recognised(tmp_path):
    path = write(tmp_path / "main_data.hdf5", {"episode_0/actions": np.zeros((3, 2))})
    with pytest.raises(DatasetError, match="looks like a Minari file: name that dataset by its Minari id"):
        load(path)
