"""Which way a policy takes past the forks of a maze, and how many ways it knows.

What demonstrations of several ways are for: a policy may succeed by one of them and still not imitate the data. The measure
is the entropy of behaviours of D3IL (Jia et al. 2024), here over whole paths.
"""

from collections import Counter

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from diffrl.evaluation import results
from diffrl.reports.maze import Maze, maze_of
from diffrl.reports.tables import Series

NEAR = 0.15  # of a cell: how close to a fork's middle a position counts as beside it


def forks(maze: Maze) -> Int[np.ndarray, "forks 2"]:
    """Row and column of the wall cells with free ways on both sides, from left to right; none unless all are in one row.

    Only a maze of such forks is passed from one end to the other, so that above or below says which way.
    """
    padded = np.pad(maze.walls, 1, constant_values=True)
    parts, _ = ndimage.label(padded)  # pyright: ignore[reportGeneralTypeIssues]
    islands = np.argwhere((parts != parts[0, 0]) & padded) - 1
    return islands[np.argsort(islands[:, 1])] if len(set(islands[:, 0])) == 1 else islands[:0]


def ways(maze: Maze, observations: Float[np.ndarray, "runs episodes time observation"]) -> list[list[str]]:
    """For each run and episode a letter per fork: u above, d below, - not passed."""
    height, width = maze.walls.shape
    cells = forks(maze)

    def one(episode: np.ndarray) -> str:
        x, y = episode[np.isfinite(episode).all(axis=1)][:, maze.position].T / maze.cell
        letters = ""
        for row, column in cells:
            beside = np.abs(x - (column + 0.5 - width / 2)) < NEAR
            above = y > height / 2 - row - 0.5
            letters += "-" if not beside.any() else "u" if above[beside].mean() > 0.5 else "d"
        return letters

    return [[one(episode) for episode in run] for run in observations]


def entropy(labels: list[str]) -> float:
    """The entropy of their frequencies, in bits."""
    share = np.array(list(Counter(labels).values())) / len(labels)
    return float(-(share * np.log2(share)).sum()) + 0.0


def in_words(group: list[Series]) -> str | None:
    """The entropies of all methods on one dataset, in a sentence; None where its maze has no forks or nothing was recorded."""
    found, forks_of, recorded = {}, 0, 0
    for one in group:
        observations = results.trajectories(one.workdir, one.last)
        maze = None if observations is None else maze_of(one.card, observations.shape[-1])
        if observations is None or maze is None or not len(forks(maze)):
            continue
        forks_of, recorded = len(forks(maze)), observations.shape[1]
        found[one.name] = np.mean([entropy(run) for run in ways(maze, observations)])
    if not found:
        return None
    values = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    return (
        f"ways past its {forks_of} forks, entropy in bits over the {recorded} recorded episodes of a run, mean over runs "
        f"(at most {min(forks_of, np.log2(recorded)):.1f}): {values}."
    )
