"""Files of numpy: OGBench's against its rule trajectory by trajectory, plain ones, and directories of episodes."""

import numpy as np
import pytest
from row_reference import ogbench_rows, rows_of

from diffrl.algorithms import td3_bc
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load
from diffrl.registry import make

LENGTHS = (4, 2, 6)  # rows of each trajectory in a downloaded file; the last holds only the final observation


def contents(success=(1, 7, 8), seed=0):
    rng, n = np.random.default_rng(seed), sum(LENGTHS)
    masks = 1.0 - np.isin(np.arange(n), success)
    return {
        "observations": rng.normal(size=(n, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "terminals": np.isin(np.arange(n), np.cumsum(LENGTHS) - 1),
        "rewards": (-masks).astype(np.float32),
        "masks": masks.astype(np.float32),
        "qpos": rng.normal(size=(n, 5)),
    }


def write(path, data):
    np.savez(path, **data)
    return str(path)


def regular(data):
    """What `ogbench.utils.load_dataset` returns, whose names are saved by `np.savez(path, **train)`."""
    keep = ~data["terminals"]
    following = np.concatenate([[False], keep[:-1]])
    made = {name: data[name][keep] for name in ("observations", "actions", "rewards", "masks")}
    return made | {
        "next_observations": data["observations"][following],
        "terminals": np.append(data["terminals"][1:], True)[keep].astype(np.float32),
    }


def compact(data):
    ends = data["terminals"].astype(np.float32)
    made = {name: data[name] for name in ("observations", "actions", "rewards", "masks")}
    return made | {"valids": 1 - ends, "terminals": np.minimum(ends + np.append(ends[1:], 1.0), 1.0)}


@pytest.mark.parametrize("form", [dict, regular, compact])
def test_ogbench_rows(tmp_path, form):
    data = contents()
    source = load(write(tmp_path / "cube-single-play-singletask-v0.npz", form(data)))
    rows = rows_of(source.transitions)
    expected = ogbench_rows(data)
    assert [row[:4] for row in rows] == [row[:4] for row in expected]
    # Only a mask of 0 cuts the bootstrap; the end of a trajectory is a timeout.
    assert [row[4] for row in rows] == [row[4] == 0 for row in expected]
    assert [row[4] or row[5] for row in rows] == [row[4] == 0 or row[5] for row in expected]
    assert [row[5] for row in rows if not row[4]] == [row[5] for row in expected if row[4] == 1]
    assert len(rows) == sum(LENGTHS) - len(LENGTHS)
    assert "OGBench file" in source.description


@pytest.mark.parametrize("form", [dict, regular, compact])
def test_ogbench_returns_are_of_steps(tmp_path, form):
    """A row that holds only a final observation has no reward, and is no episode of its own after a success."""
    data = contents(success=(2, 7))
    source = load(write(tmp_path / "a.npz", form(data)))
    # Rows 0 … 2 (success), 4 (row 5 is the final observation), 6 7 (success), 8 … 10.
    assert build(source, Transforms())[2].episodes == 4
    assert source.recorded.returns.tolist() == [-2, -1, -1, -3]


def test_states_of_a_simulator_do_not_make_a_file_ogbenchs(tmp_path):
    """`qpos` and `qvel` are what anybody records: terminals stay terminals."""
    data = contents() | {"qvel": np.zeros(12)}
    del data["masks"]
    t = load(write(tmp_path / "a.npz", data)).transitions
    assert np.flatnonzero(t.terminal).tolist() == [3, 5, 11]
    assert not t.timeout.any()


def test_ogbench_without_rewards_says_what_to_do(tmp_path):
    data = contents()
    del data["rewards"], data["masks"]
    source = load(write(tmp_path / "a.npz", data))
    assert not source.has_rewards
    assert not load(str(tmp_path)).has_rewards  # nor has a directory with such a file
    with pytest.raises(ValueError, match=r"the data have none \(OGBench's tasks give them: dataset.task\)"):
        make(td3_bc.Config(), build(source, Transforms())[1])
    with pytest.raises(DatasetError, match="has no terminals; there are actions, masks, observations, rewards"):
        load(write(tmp_path / "b.npz", {k: v for k, v in contents().items() if k not in ("terminals", "qpos")}))


def episode(first, steps, terminal=False, **changes):
    """Observation t is (t, -t)."""
    t = first + np.arange(steps)
    return {
        "observation": np.stack([t, -t], axis=1).astype(float),
        "action": np.full((steps, 1), 0.5),
        "reward": 1.0 * t,
        "terminal": (np.arange(steps) == steps - 1) & terminal,
        "next_observation": np.stack([t + 1, -t - 1], axis=1).astype(float),
        **changes,
    }


def test_plain_files_in_singular_and_plural(tmp_path):
    one = episode(0, 5, terminal=True, timeout=np.arange(5) == 2)
    many = {f"{name}s": value for name, value in one.items()}
    first, second = load(write(tmp_path / "a.npz", one)), load(write(tmp_path / "b.npz", many))
    assert rows_of(first.transitions) == rows_of(second.transitions)
    assert first.transitions.observation[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert first.transitions.terminal.tolist() == [False] * 4 + [True]
    assert first.transitions.timeout.tolist() == [False, False, True, False, False]
    with pytest.raises(DatasetError, match="has both reward and rewards"):
        load(write(tmp_path / "c.npz", {**one, "rewards": one["reward"]}))
    # D4RL's arrays as npz: with timeouts, `terminals` are terminals.
    del one["next_observation"]
    shifted = load(write(tmp_path / "d.npz", {f"{name}s": value for name, value in one.items()} | {"qpos": np.zeros(5)}))
    assert shifted.transitions.next_observation[:, 0].tolist() == [1, 2, 4, 4]


def test_bounds_in_the_file(tmp_path):
    source = load(write(tmp_path / "a.npz", episode(0, 3, action=np.full((3, 1), 4.0), action_low=-5.0, action_high=[5.0])))
    assert (source.action_low.tolist(), source.action_high.tolist()) == ([-5], [5])
    dataset, _, _ = build(source, Transforms())
    np.testing.assert_allclose(dataset[:].action, 0.8, rtol=1e-6)


def test_directory_of_episodes(tmp_path):
    """By name, not by time of writing; the end of a file ends an episode; one of a single step is like any other."""
    write(tmp_path / "episode_10.npz", episode(20, 2))
    write(tmp_path / "episode_02.npz", episode(10, 1))
    write(tmp_path / "episode_01.npz", episode(0, 3, terminal=True))
    (tmp_path / "notes.txt").write_text("")
    source = load(str(tmp_path))
    t = source.transitions
    assert t.observation[:, 0].tolist() == [0, 1, 2, 10, 20, 21]
    assert t.next_observation[:, 0].tolist() == [1, 2, 3, 11, 21, 22]
    assert t.terminal.tolist() == [False, False, True, False, False, False]
    assert t.timeout.tolist() == [False, False, False, True, False, True]
    assert (source.id, source.description) == (str(tmp_path), "3 files, 6 rows")
    assert build(source, Transforms())[2].episodes == 3


def test_directory_of_episodes_with_final_observations(tmp_path):
    for i, steps in enumerate((3, 1)):
        one = episode(10 * i, steps)
        del one["next_observation"]
        write(tmp_path / f"{i}.npz", one | {"observation": episode(10 * i, steps + 1)["observation"]})
    t = load(str(tmp_path)).transitions
    assert t.observation[:, 0].tolist() == [0, 1, 2, 10]
    assert t.next_observation[:, 0].tolist() == [1, 2, 3, 11]
    assert t.timeout.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "second, message",
    [
        (episode(0, 0), r"b\.npz' has no transitions"),
        (episode(0, 2, observation=np.zeros((2, 5)), next_observation=np.zeros((2, 5))), r"b\.npz': observation has 5 numbers"),
        (episode(0, 2, action_low=-1.0, action_high=2.0), r"b\.npz' has other action bounds than .*a\.npz"),
        ({"reward": np.zeros(2)}, r"b\.npz' has no observation \(.*\) and no action \(actions, acts\); there are reward"),
        ({name: value for name, value in episode(0, 2).items() if name != "reward"}, r"b\.npz' has no rewards and .*a\.npz' has"),
        (episode(0, 1, next_observation=np.zeros((2, 2)), reward=np.zeros(2)), r"b\.npz': observation has 1 rows, reward 2"),
    ],
)
def test_bad_files_of_a_directory_are_named(tmp_path, second, message):
    write(tmp_path / "a.npz", episode(0, 3, action_low=-1.0, action_high=1.0))
    write(tmp_path / "b.npz", second)
    with pytest.raises(DatasetError, match=message):
        load(str(tmp_path))


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.npz"
    write(path, episode(0, 500))
    whole = path.read_bytes()
    for keep in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:keep])
        with pytest.raises(DatasetError, match=r"a\.npz' is damaged, cut short or no \.npz file"):
            load(str(path))
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(DatasetError, match="is damaged"):
        load(str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DatasetError, match="is damaged, cut short or no"):
        load(str(path))
    # Objects would be unpickled, which runs code.
    write(path, episode(0, 1) | {"observation": np.array([{}], object)})
    with pytest.raises(DatasetError, match="is damaged, cut short or no"):
        load(str(path))
