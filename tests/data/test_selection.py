"""Some episodes of the data, and some rows of them: the same from every loader."""

import itertools

import numpy as np
import pytest
from every_loader import ALL, OF_NEXT

from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.mix import mixed

LENGTHS = (3, 1, 4, 6)  # the second and the last end in a terminal


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def rows(lengths=LENGTHS) -> dict[str, np.ndarray]:
    """Row t of all is observed as t; its reward is the number of its episode."""
    n, last = sum(lengths), np.cumsum(lengths) - 1
    terminal = np.isin(np.arange(n), last[1::2])
    return {
        "observation": np.arange(n, dtype=np.float32)[:, None],
        "next_observation": np.arange(1, n + 1, dtype=np.float32)[:, None],
        "action": np.zeros((n, 1)),
        "reward": np.repeat(np.arange(len(lengths)), lengths).astype(np.float64),
        "terminal": terminal,
        "timeout": np.isin(np.arange(n), last) & ~terminal,
    }


def built(source, **chosen):
    dataset, spec, card = build(source, Transforms(**chosen))
    return np.asarray(dataset[:].observation)[:, 0].tolist(), dataset, spec, card


@pytest.mark.parametrize("loader", ALL)
def test_episodes_are_counted_in_order_of_time(tmp_path, loader):
    source = loader(tmp_path, rows())
    observed, dataset, _, card = built(source, first_episode=1, num_episodes=2)
    assert observed == [3, 4, 5, 6, 7]
    assert (card.episodes, card.rows, card.return_min, card.return_max) == (2, 5, 1, 8)
    assert np.asarray(dataset.episode_end).tolist() == [1, 5, 5, 5, 5]
    assert np.asarray(dataset[:].terminal).tolist() == [True, False, False, False, False]
    assert "episodes 1 … 2" in card.description
    assert built(source, first_episode=3)[0] == [8, 9, 10, 11, 12, 13]
    assert built(source, num_episodes=4)[0] == built(source)[0] == list(range(14))


@pytest.mark.parametrize("loader", OF_NEXT)
def test_rows_with_others_between_them_do_not_meet(tmp_path, loader):
    observed, dataset, _, card = built(loader(tmp_path, rows()), keep_every=3)
    assert observed == [0, 3, 4, 7, 8, 11]
    kept = dataset[:]
    assert np.asarray(kept.next_observation)[:, 0].tolist() == [1, 4, 5, 8, 9, 12]
    assert np.asarray(kept.terminal).tolist() == [False, True, False, False, False, False]
    assert (np.asarray(kept.terminal) | np.asarray(kept.timeout)).all()
    assert np.asarray(dataset.episode_end).tolist() == [1, 2, 3, 4, 5, 6]
    assert (card.episodes, card.return_max) == (4, 18)  # of whole episodes


@pytest.mark.parametrize("length, pairs", [(500, 25), (89, 5), (107, 6), (20, 1), (21, 2)])
def test_pairs_of_an_episode(length, pairs):
    assert built(from_arrays(**rows((length,))), keep_every=20)[1].size == pairs


def test_repetitions_overlap():
    """Ten repetitions of ten episodes each, the k-th from episode k on, use nineteen in all."""
    source = from_arrays(**rows(tuple(range(1, 25))))
    used = [set(built(source, first_episode=k, num_episodes=10, keep_every=100)[0]) for k in range(10)]
    assert len(set.union(*used)) == 19
    assert all(len(a & b) == 9 for a, b in itertools.pairwise(used))


def test_actions_are_as_many_as_occur_in_all_of_the_data():
    data = rows((2, 2)) | {"action": np.array([0, 1, 2, 4])}
    assert built(from_arrays(**data), num_episodes=1)[2].num_actions == 5


@pytest.mark.parametrize("chosen", [{"first_episode": 4}, {"num_episodes": 5}, {"first_episode": 3, "num_episodes": 2}])
def test_episodes_that_are_not_there(chosen):
    with pytest.raises(DatasetError, match=r"there are 4 episodes, asked for those up to 5 \(dataset.first_episode="):
        built(from_arrays(**rows()), **chosen)


@pytest.mark.parametrize("chosen", [{"first_episode": 1}, {"num_episodes": 1}, {"keep_every": 2}], ids=str)
def test_of_a_mix_nothing_is_chosen(chosen):
    """Shares count the rows of its parts: of other rows they would be wrong without a word."""
    parts = [from_arrays(observation=np.arange(6.0)[:, None], action=np.zeros((6, 1)), timeout=np.arange(6) % 3 == 2)] * 2
    with pytest.raises(DatasetError, match="of a mix cannot be chosen: leave out dataset"):
        build(mixed(parts, {"b": 0.25}), Transforms(**chosen))
