"""LeRobot's tables: episodes across files, columns by name, and what is left to imitation."""

import builtins

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load

EPISODE = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])


def columns(**changes):
    """Row t is at (t, -t); rewards and flags are there, images are in videos elsewhere."""
    t = np.arange(9, dtype=np.float32)
    table = {
        "observation.state": pyarrow.FixedSizeListArray.from_arrays(np.stack([t, -t], axis=1).ravel(), 2),
        "observation.environment_state": pyarrow.array([[10 * x] for x in t]),
        "observation.note": ["text"] * 9,
        "action": pyarrow.array([[512.0 - x, 3.0] for x in t]),
        "next.reward": np.ones(9, np.float32),
        "next.done": np.append(EPISODE[1:] != EPISODE[:-1], True),
        "timestamp": t,
        "episode_index": EPISODE,
        "frame_index": np.arange(9),
    }
    return {name: value for name, value in (table | changes).items() if value is not None}


def write(folder, data, cuts=(2, 5)):
    """Episodes run on from file to file; the second chunk comes last."""
    table, begin = pyarrow.table(data), 0
    for number, end in enumerate((*cuts, len(table))):
        path = folder / "data" / f"chunk-{number // 2:03d}" / f"file-{number % 2:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table[begin:end], path)
        begin = end
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta" / "info.json").write_text('{"codebase_version": "v3.0"}')
    return str(folder)


def test_rows_and_their_episodes(tmp_path):
    source = load(write(tmp_path, columns()))
    t = source.transitions
    assert source.observation_parts == (("observation.environment_state", 1), ("observation.state", 2))
    np.testing.assert_array_equal(t.observation[:, 1], np.arange(9))
    np.testing.assert_array_equal(t.observation[:, 2], -np.arange(9.0))
    assert np.flatnonzero(t.terminal).tolist() == [2, 6, 8]
    assert source.recorded.returns.tolist() == [3, 4, 2]
    assert (
        "3 tables, 9 of 9 rows, observations of observation.environment_state, observation.state (left out" in source.description
    )


def test_truncated_episodes_are_cut_and_lose_their_last_row(tmp_path):
    done = columns()["next.done"]
    t = load(write(tmp_path, columns(**{"next.truncated": done & (EPISODE == 1)}))).transitions
    assert t.observation[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert np.flatnonzero(t.terminal).tolist() == [2, 7]
    assert np.flatnonzero(t.timeout).tolist() == [5]


def test_terminations_are_believed_where_they_are_recorded(tmp_path):
    """`next.done` is set at ends of either kind then, as LeRobot's recorder does."""
    done = columns()["next.done"]
    flags = {"next.terminated": done & (EPISODE != 1), "next.truncated": done & (EPISODE == 1)}
    for name, given in (("both", flags), ("beside done", {"next.terminated": flags["next.terminated"]})):
        given = given | ({"next.done": None} if name == "both" else {})
        t = load(write(tmp_path / name, columns(**given))).transitions
        assert t.observation[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
        assert np.flatnonzero(t.terminal).tolist() == [2, 7]
        assert np.flatnonzero(t.timeout).tolist() == [5]


def test_tables_without_rewards_are_for_imitation(tmp_path):
    """What most recordings of robots are: no reward, no flag, actions in units of their own."""
    path = write(tmp_path, columns(**{"next.reward": None, "next.done": None}))
    source = load(path, observation_keys=("observation.state",))
    assert not source.has_rewards
    assert source.transitions.observation[:, 0].tolist() == [0, 1, 3, 4, 5, 7]
    assert not source.transitions.terminal.any()
    with pytest.raises(DatasetError, match="action_bounds=data"):
        build(source, Transforms())
    dataset, spec, card = build(source, Transforms(action_bounds="data"))
    assert (spec.action_low, spec.action_high) == ((505, 2), (512, 4))
    np.testing.assert_allclose(dataset[:].action[:, 0], 1 - 2 * source.transitions.observation[:, 0] / 7, atol=1e-6)
    assert not card.has_returns


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"action": None}, "has no action; there are observation.state"),
        ({"episode_index": None, "action": None}, "has no action and no episode_index; there are"),
        ({"action": pyarrow.array([[0.0] * (1 + i % 2) for i in range(9)])}, "action has rows of different lengths"),
        ({"observation.state": pyarrow.array([[0.0]] * 8 + [None])}, "observation.state has rows of different lengths"),
        ({"next.done": np.full(9, 3)}, "done must be 0 or 1 everywhere"),
        ({"next.reward": np.full(9, np.inf)}, "reward has 9 values that are not finite"),
        (
            {"observation.state": None, "observation.environment_state": None},
            r"no vector among its .*none \(left out: observation.n",
        ),
    ],
)
def test_bad_tables_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as refused:
        build(load(write(tmp_path, columns(**changes))), Transforms(action_bounds="data"))
    assert str(tmp_path) in str(refused.value)


def test_damaged_and_missing_tables_are_named(tmp_path):
    path = write(tmp_path, columns())
    table = tmp_path / "data" / "chunk-000" / "file-001.parquet"
    table.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DatasetError, match=r"incomplete .file-001\.parquet: it is a pointer of Git LFS"):
        load(path)
    write(tmp_path, columns())
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="is damaged or incomplete"):
        load(path)
    pyarrow.parquet.write_table(pyarrow.table(columns(**{"next.done": None}))[2:5], table)
    with pytest.raises(DatasetError, match="is damaged or incomplete"):
        load(path)
    for file in (tmp_path / "data").glob("*/*.parquet"):
        file.unlink()
    with pytest.raises(DatasetError, match="LeRobot dataset without tables"):
        load(path)


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    path, original = write(tmp_path, columns()), builtins.__import__

    def without(name, *args, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=r"pyarrow, which is not installed: pip install 'diffrl\[envs\]'"):
        load(path)
