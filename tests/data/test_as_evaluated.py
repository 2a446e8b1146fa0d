"""The data's own return is counted as an evaluation counts: of consecutive rows, as many as an episode has."""

import json

import numpy as np
import pytest
from every_loader import ALL, FILES, OF_NEXT

from diffrl.data.build import Transforms, build
from diffrl.data.episodes import Stretches, as_evaluated


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def card_of(source, steps):
    spec = json.dumps({"id": "Some-v0", "max_episode_steps": steps})
    return build(source._replace(env_spec=spec), Transforms())[2]


@pytest.mark.parametrize(
    "lengths, ends, steps, returns",
    [
        ([3, 3], "--", 3, [3, 12]),
        ([4, 4], "--", 2, [1, 5, 9, 13]),  # longer than an episode: cut
        ([5, 4], "--", 4, [6, 26]),  # what is left of the first is none
        ([2, 3], "TT", 9, [1, 9]),  # terminals end one at any length
        ([5, 1], "TT", 4, [6, 4, 5]),
        ([4, 2], "-T", 4, [6, 9]),
        ([2, 2, 2], "---", 4, []),  # all are cut short
        ([2, 2, 1], "--T", 4, []),  # and so are most rows
        ([1], "-", 1, [0]),
    ],
)
def test_counts(lengths, ends, steps, returns):
    last = np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1)
    terminal = np.zeros(len(last), bool)
    terminal[np.cumsum(lengths) - 1] = [end == "T" for end in ends]
    found = as_evaluated(Stretches(np.arange(len(last), dtype=np.float32), terminal, last), steps)
    assert found.tolist() == returns


def walk(going_on: bool, with_next: bool, n: int = 12) -> dict[str, np.ndarray]:
    """A timeout after every third row. The point goes on, seen once more where it was as in maze2d, or it is set elsewhere."""
    step = np.arange(n)
    where = (step - step // 3 if going_on else step + 10 * (step // 3)).astype(np.float32)
    rows = {"observation": where[:, None], "action": np.zeros((n, 1)), "reward": step.astype(np.float64)}
    rows |= {"terminal": np.zeros(n), "timeout": (step % 3 == 2).astype(np.float64)}
    return rows | ({"next_observation": where[:, None] + 1} if with_next else {})


WAYS = [(loader, True) for loader in OF_NEXT] + [(loader, False) for loader in FILES]


@pytest.mark.parametrize("loader, with_next", WAYS)
def test_a_timeout_after_which_the_state_goes_on_ends_nothing(tmp_path, loader, with_next):
    source = loader(tmp_path, walk(True, with_next))
    card = card_of(source, 6)
    assert card.episodes == 4
    assert card.return_mean == 66 / 4
    assert (card.comparable_return, card.comparable_episodes) == (33, 2)


@pytest.mark.parametrize("loader, with_next", WAYS)
def test_a_reset_does(tmp_path, loader, with_next):
    """Episodes shorter than the evaluation's are no picture of it; those of its length are."""
    source = loader(tmp_path, walk(False, with_next))
    card = card_of(source, 6)
    assert (card.comparable_return, card.comparable_episodes) == (None, 0)
    card = card_of(source, 3)
    assert (card.comparable_return, card.comparable_episodes) == (card.return_mean, 4)


@pytest.mark.parametrize("loader", ALL)
def test_episodes_that_end_as_the_evaluations_do_are_counted_as_recorded(tmp_path, loader):
    rows = walk(False, loader in OF_NEXT)
    terminal, timeout = rows["timeout"] * (np.arange(12) < 6), rows["timeout"] * (np.arange(12) >= 6)
    card = card_of(loader(tmp_path, rows | {"terminal": terminal, "timeout": timeout}), 3)
    assert (card.comparable_return, card.comparable_episodes) == (card.return_mean, card.episodes) == (16.5, 4)


def test_nothing_is_compared_where_no_time_limit_is_known(tmp_path):
    source = FILES[0](tmp_path, walk(False, True))
    for steps in (None, 0):
        card = card_of(source, steps)
        assert (card.comparable_return, card.comparable_episodes) == (None, None)
    card = card_of(source._replace(recorded=source.recorded._replace(stretches=None)), 3)
    assert (card.comparable_return, card.comparable_episodes) == (None, None)
