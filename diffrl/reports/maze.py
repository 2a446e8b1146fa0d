"""Where walls, positions and goals are, for the pictures of PointMaze and AntMaze (gymnasium-robotics) and maze2d (D4RL)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffrl.data.dataset import Card
from diffrl.envs import env_spec, pointmaze
from diffrl.envs.maze2d import registry as maze2d

_WIDTHS = {"achieved_goal": 2, "desired_goal": 2}  # of Dict observations; "observation" has the rest


class Maze(NamedTuple):
    """A maze in the units of its environment.

    Attributes:
        walls: [rows, columns]; row 0 is at the top (largest y).
        cell: side of a cell.
        position: where x and y stand in an observation.
        goal: where the goal's x and y stand in an observation, None where it is not observed.
        goal_cells: x, y of the cells marked as goals, None where the map marks none.
        centre: x and y of the maze's centre.
    """

    walls: Bool[np.ndarray, "rows columns"]
    cell: float
    position: slice
    goal: slice | None
    goal_cells: Float[np.ndarray, "cells 2"] | None
    centre: tuple[float, float] = (0.0, 0.0)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top."""
        height, width = np.array(self.walls.shape) / 2 * self.cell
        x, y = self.centre
        return x - width, x + width, y - height, y + height


def maze_of(card: Card, observation_dim: int) -> Maze | None:
    """The maze a dataset was recorded in, None where its environment is none or its observations hold no position."""
    spec = env_spec.read(card.env_spec)
    kwargs = spec.get("kwargs") or {}
    text = card.env_spec or ""
    point = pointmaze.from_env_spec(text, card.observation_keys) or maze2d.from_env_spec(text)
    cells = point.maze_map if point else kwargs.get("maze_map")
    keys = point.observation_keys if point else card.observation_keys or ("observation", "desired_goal")
    if not cells:
        return None
    columns, start = {}, 0
    rest = observation_dim - sum(_WIDTHS.get(key, 0) for key in keys)
    for key in keys:
        columns[key] = slice(start, start + _WIDTHS.get(key, rest))
        start = columns[key].stop
    # The ant's own observation leaves its position out; the point's starts with it.
    ant = "ant_maze" in str(spec.get("entry_point")) or "AntMaze" in str(spec.get("id"))
    if "achieved_goal" in columns:
        position = columns["achieved_goal"]
    elif "observation" in columns and not ant:
        position = slice(columns["observation"].start, columns["observation"].start + 2)
    else:
        return None
    cell = float(kwargs.get("maze_size_scaling", 4.0 if ant else 1.0))
    walls = np.array([[value in (1, "1") for value in row] for row in cells])
    marked = np.array([(i, j) for i, row in enumerate(cells) for j, value in enumerate(row) if value in ("g", "c")], float)
    rules = point.rules if point else pointmaze.PACKAGE_RULES
    goal_cells = None
    if len(marked):
        height, width = walls.shape
        goal_cells = np.stack([marked[:, 1] + 0.5 - width / 2, height / 2 - marked[:, 0] - 0.5], axis=1) * cell
        goal_cells += rules.off_centre + np.array(rules.origin)
    return Maze(walls, cell, position, columns.get("desired_goal"), goal_cells, rules.origin)
