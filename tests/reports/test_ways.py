"""Ways past the forks of a maze."""

import numpy as np
import pytest

from diffrl.reports.maze import Maze
from diffrl.reports.ways import entropy, forks, ways

FORKED = ("1111111", "1000001", "0010100", "1000001", "1111111")  # two wall cells between an upper and a lower way


def maze_of(rows: tuple[str, ...]) -> Maze:
    return Maze(np.array([[value == "1" for value in row] for row in rows]), 1.0, slice(0, 2), None, None)


def path(*heights: float) -> np.ndarray:
    """From left to right, at these heights beside the forks at x = -1 and 1."""
    x = np.linspace(-3.0, 3.0, 61)
    return np.stack([x, np.interp(x, [-1.0, 1.0], heights), np.zeros(61), np.zeros(61)], axis=1)


def test_ways_are_read_off_positions() -> None:
    maze = maze_of(FORKED)
    np.testing.assert_array_equal(forks(maze), [[2, 2], [2, 4]])
    stuck = path(1.0, 1.0)
    stuck[25:] = np.nan  # ends between the forks
    episodes = np.stack([path(1.0, 1.0), path(1.0, -1.0), path(-1.0, -1.0), stuck])
    assert ways(maze, episodes[None]) == [["uu", "ud", "dd", "u-"]]


def test_mazes_without_a_row_of_forks_have_none() -> None:
    assert len(forks(maze_of(("11111", "10001", "11111")))) == 0
    assert len(forks(maze_of(("111111", "100001", "101001", "100101", "100001", "111111")))) == 0


@pytest.mark.parametrize(("labels", "bits"), [(["a"] * 8, 0.0), (["a", "b"] * 4, 1.0), (list("abcdefgh"), 3.0)])
def test_entropy(labels: list[str], bits: float) -> None:
    assert entropy(labels) == pytest.approx(bits)
