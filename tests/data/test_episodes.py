"""What ends an episode, in every loader alike: terminals, timeouts and jumps; and that statistics are of what was recorded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_loader import ALL, FILES, OF_NEXT, WITHOUT_NEXT, lerobot_directory, ogbench_file

from diffrl.data import columns, episodes
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.training.devices import make_mesh
from diffrl.training.slabs import Whole


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def replay() -> dict[str, np.ndarray]:
    """Three pieces of episodes, as a buffer may hold them: nothing but the observations says where one ends."""
    step = np.concatenate([np.arange(2), 10 + np.arange(4), 50 + np.arange(6)]).astype(np.float32)
    return {
        "observation": step[:, None],
        "next_observation": step[:, None] + 1,
        "action": np.zeros((12, 1)),
        "reward": np.full(12, 2.0),
        "terminal": np.zeros(12),
        "timeout": np.zeros(12),
    }


@pytest.mark.parametrize("loader", OF_NEXT)
def test_jumps_end_episodes(tmp_path, loader):
    source = loader(tmp_path, replay())
    dataset, _, card = build(source, Transforms(reward_scale="return_range"))
    assert source.recorded.returns.tolist() == [4, 8, 12]
    assert (card.episodes, card.return_min, card.return_mean, card.return_max, card.reward_scale) == (3, 4, 8, 12, 125)
    assert np.flatnonzero(source.transitions.timeout).tolist() == [1, 5, 11]
    assert not source.transitions.terminal.any()
    start, end = [0] * 2 + [2] * 4 + [6] * 6, [2] * 2 + [6] * 4 + [12] * 6
    assert (np.asarray(dataset.episode_start).tolist(), np.asarray(dataset.episode_end).tolist()) == (start, end)
    index, mask = columns.window_index(dataset, 3)
    assert [row.tolist() for row in np.asarray(index)[:3]] == [[0, 1, 1], [1, 1, 1], [2, 3, 4]]
    assert np.asarray(mask).sum(axis=1).tolist() == [2, 1, 3, 3, 2, 1, 3, 3, 3, 3, 2, 1]
    ahead = np.asarray(columns.n_step(dataset, 3, 1.0)["n_step_reward"]) / card.reward_scale
    np.testing.assert_allclose(ahead, [4, 2, 6, 6, 4, 2, 6, 6, 6, 6, 4, 2])
    np.testing.assert_allclose(columns.returns_to_go(dataset, 1.0)[::2] / card.reward_scale, [4, 8, 4, 12, 8, 4])


@pytest.mark.parametrize("loader", [*ALL, lerobot_directory])
def test_termination_wins_over_timeout(tmp_path, loader):
    """One row that is both: it stays, its terminal with it, and nothing is bootstrapped from it."""
    given = {"observation": np.arange(3.0)[:, None], "action": np.zeros((3, 1)), "reward": np.array([0.0, 0.0, 1.0])}
    given |= {"terminal": np.array([0, 0, 1]), "timeout": np.array([0, 0, 1])}
    if loader is ogbench_file:
        given["next_observation"] = given["observation"] + 1
    source = loader(tmp_path, given)
    assert source.transitions.reward.tolist() == [0, 0, 1]
    assert source.transitions.terminal.tolist() == [False, False, True]
    assert not source.transitions.timeout.any()
    assert source.recorded.returns.tolist() == [1]


@pytest.mark.parametrize("loader", WITHOUT_NEXT)
def test_statistics_are_of_the_episodes_as_recorded(tmp_path, loader):
    """Returns 10, 100, 18, 17; without next observations the last row of each is dropped, and with it one whole episode."""
    reward = np.array([6.0, 4.0, 100.0, 17.0, 1.0, 11.0, 6.0])
    given = {"observation": np.arange(7.0)[:, None], "action": np.zeros((7, 1)), "reward": reward}
    source = loader(tmp_path, given | {"terminal": np.zeros(7), "timeout": np.isin(np.arange(7), [1, 2, 4])})
    dataset, _, card = build(source, Transforms(reward_scale="return_range"))
    assert source.recorded.returns.tolist() == [10, 100, 18, 17]
    assert (card.rows, card.episodes, card.return_min, card.return_mean, card.return_max) == (3, 4, 10, 36.25, 100)
    assert card.reward_scale == pytest.approx(1000 / 90)
    assert source.transitions.reward.tolist() == [6, 17, 11]
    assert source.transitions.timeout.all()
    assert np.asarray(dataset.episode_end).tolist() == [1, 2, 3]


@pytest.mark.parametrize("loader", ALL)
def test_a_row_is_dropped_only_where_its_next_observation_is_missing(tmp_path, loader):
    """Rows 0 1 (timeout), 2 3 (terminal), 4 5 6 (left open): with next observations all stay, without them 1 and 6 go."""
    given = {"observation": np.arange(7.0)[:, None], "action": np.zeros((7, 1)), "reward": np.arange(7.0)}
    given |= {"terminal": np.arange(7) == 3, "timeout": np.arange(7) == 1}
    whole = loader(tmp_path, given | {"next_observation": given["observation"] + 1})
    assert whole.transitions.reward.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert np.flatnonzero(whole.transitions.timeout).tolist() == [1, 6]
    if loader in FILES:
        (folder := tmp_path / "short").mkdir()
        short = loader(folder, given)
        assert short.transitions.reward.tolist() == [0, 2, 3, 4, 5]
        assert short.transitions.timeout.tolist() == [True, False, False, False, True]
        assert short.transitions.terminal.tolist() == [False, False, True, False, False]
        assert short.recorded.returns.tolist() == whole.recorded.returns.tolist() == [1, 5, 15]


@pytest.mark.parametrize("scale, moved, found", [(1, 1e-7, 0), (1, 1e-5, 1), (1e6, 0.1, 0), (1e6, 10.0, 1), (1.7e9, 100.0, 0)])
def test_jumps_are_relative_for_large_values(scale, moved, found):
    """The tolerance is IQL's near 0; what float32 rounds away of large values is no jump."""
    observation = np.random.default_rng(0).uniform(0.5, 1, (9, 3)) * [scale, 1, 1]
    following = np.concatenate([observation[1:], observation[:1]])
    following[4, 0] += moved
    assert episodes.jumps(observation, following).sum() == found
    # A column of large numbers hides no jump in another.
    following[6, 1] += 1e-3
    assert episodes.jumps(observation, following)[6]


def test_many_rows_are_cut_as_few_are():
    """Blocks leave out none of the rows between them."""
    n = 3 * 2**16 + 5
    observation = np.arange(n, dtype=np.float64)[:, None]
    where = np.array([0, 2**16 - 2, 2**16 - 1, 2**16, 2**17, n - 2])
    following = observation + 1
    following[where] += 5000
    assert np.flatnonzero(episodes.jumps(observation, following)).tolist() == where.tolist()
    assert not episodes.jumps(observation[:1], following[:1]).any()


def test_bounds_recorded_and_derived_agree():
    """A dataset that has no bounds of episodes finds the same ones in its flags."""
    rng = np.random.default_rng(1)
    n = 50
    observation = rng.normal(size=(n + 1, 2))
    flagged = {"terminal": rng.random(n) < 0.1, "timeout": rng.random(n) < 0.1}
    given = {"observation": observation[:-1], "next_observation": observation[1:], "action": np.zeros((n, 1))}
    dataset, _, _ = build(from_arrays(**given, **flagged, reward=rng.normal(size=n)), Transforms())
    plain = dataset.replace(episode_start=None, episode_end=None)  # pyright: ignore[reportAttributeAccessIssue]
    for known, derived in zip(columns.episode_bounds(dataset), columns.episode_bounds(plain), strict=True):
        assert known.dtype == derived.dtype == np.int32
        np.testing.assert_array_equal(known, derived)
    np.testing.assert_allclose(columns.returns_to_go(dataset, 0.9), columns.returns_to_go(plain, 0.9))
    attached = columns.attach(dataset, lambda data: {"return": columns.returns_to_go(data, 0.9)})
    np.testing.assert_array_equal(attached.episode_end, dataset.episode_end)
    start, end = attached.episode_of(jnp.array([[3, 40]]))
    np.testing.assert_array_equal([start[0], end[0]], [dataset.episode_start[[3, 40]], dataset.episode_end[[3, 40]]])


def test_bounds_are_placed_with_the_rows():
    """They reach the chunks of the trainer, on all devices."""
    dataset, _, _ = build(from_arrays(**replay()), Transforms())
    placed = Whole(dataset, make_mesh(2, jax.devices()[:2])).at(0)
    np.testing.assert_array_equal(placed.episode_start, dataset.episode_start)
    np.testing.assert_array_equal(placed.episode_end, dataset.episode_end)
