"""D4RL's maze2d tasks, -v1 (Fu et al. 2020, arXiv 2004.07219; d4rl/pointmaze): the mazes and their numbers.

A maze is given by rows of characters: row w, column h is the cell with coordinates (w, h), so that rows run along x. Positions
are those observed. Starts, targets and the goal lie around the integer point (w, h), which is 0.2 m off the cell's centre
(w - 0.2, h - 0.2) along each axis, because the point's body stands at (1.2, 1.2) in a world whose cells have their centres
at (w + 1, h + 1).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CENTRE = -0.2  # m, of a cell, per axis, from its integer point
SUCCESS_RADIUS = 0.5  # m
START_NOISE = 0.1  # m, half width of the uniform noise on starts and targets, per axis
START_SPEED = 0.1  # m/s, standard deviation of the velocity at a start, per axis
MAX_SPEED = 5.0  # m/s, per axis, that a step begins with


class Maze(NamedTuple):
    """One maze: "#" a wall, "O" free, "G" free with the goal of the evaluation."""

    rows: tuple[str, ...]
    max_episode_steps: int

    @property
    def free(self) -> list[tuple[int, int]]:
        """Cells (w, h) where starts and targets are drawn, in D4RL's order: the goal's is the last."""
        cells = [(w, h) for w, row in enumerate(self.rows) for h, cell in enumerate(row) if cell == "O"]
        return [*cells, self.goal]

    @property
    def goal(self) -> tuple[int, int]:
        """Position (m) of the evaluation's goal, and its cell."""
        return next((w, row.index("G")) for w, row in enumerate(self.rows) if "G" in row)

    @property
    def walls(self) -> list[tuple[int, int]]:
        return [(w, h) for w, row in enumerate(self.rows) for h, cell in enumerate(row) if cell == "#"]

    def distance(self, position: Float[np.ndarray, "*rows 2"]) -> Float[np.ndarray, "*rows"]:
        """From the evaluation's goal, m."""
        return np.asarray(np.linalg.norm(position - np.array(self.goal, float), axis=-1))


MAZES = {
    "umaze": Maze(("#####", "#GOO#", "###O#", "#OOO#", "#####"), 300),
    "medium": Maze(
        ("########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########"),
        600,
    ),
    "large": Maze(
        (
            *("############", "#OOOO#OOOOO#", "#O##O#O#O#O#", "#OOOOOO#OOO#", "#O####O###O#"),
            *("#OO#O#OOOOO#", "##O#O#O#O###", "#OO#OOO#OGO#", "############"),
        ),
        800,
    ),
}
REWARDS = ("sparse", "dense")
