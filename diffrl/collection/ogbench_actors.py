"""Who acts in OGBench's scripted data sets, after its data_gen_scripts and with the oracles of its package.

`Walker` (generate_locomaze.py) follows the maze's shortest path. `Arm` (generate_manipspace.py) pursues one random target after
another: "play" by plans that run to their end whatever came of them, with noise that is correlated in time; "noisy" by
closed-loop oracles, with noise of an episode's own strength and uniformly random actions in between.

Oracles and environments draw from numpy's global generator, as do these actors. No simulator is imported before work starts.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

NAVIGATE_NOISE = 0.5
STITCH_STEPS = 4  # cells from start to goal
PLAN_NOISE, PLAN_SMOOTHING = 0.1, 0.5
ACTION_NOISE = 0.1  # largest of an episode, in units of `_NOISE_RATIO`
_NOISE_RATIO = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
# Least and largest probability of an episode that a cube is to be stacked on another.
_STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
_STACKING_ELSEWHERE = (0.5, 0.5)
# What an environment remembers beside MuJoCo's state: it outlives a reset where an episode's first target is of another kind.
_REMEMBERED = ("_target_block", "_target_button", "_target_button_states", "_target_drawer_pos", "_target_window_pos")

Cell = tuple[int, int]


@runtime_checkable
class Actor(Protocol):
    """Chooses actions in an episode that `start` has begun."""

    def start(self, seed: int) -> np.ndarray:
        """Begins an episode; returns its first observation."""
        ...

    def act(self) -> np.ndarray:
        """The next action, not clipped."""
        ...

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        """What came of it."""
        ...


def make_actor(name: str, behaviour: str, env: Any) -> Actor:
    """The actor of a data set.

    Args:
        name: of the environment.
        behaviour: "navigate", "stitch", "play" or "noisy".
        env: gymnasium environment of that name in which data are collected.
    """
    if behaviour in ("navigate", "stitch"):
        return Walker(env, stitch=behaviour == "stitch")
    return Arm(env, name, noisy=behaviour == "noisy")


class Walker:
    """Walks from goal to goal, or with `stitch` to a near one, where it stays."""

    def __init__(self, env: Any, stitch: bool) -> None:
        self.env, self.maze, self.stitch = env, env.unwrapped, stitch
        self.free = [(int(i), int(j)) for i, j in np.argwhere(self.maze.maze_map == 0)]
        self.goals = goal_cells(self.maze.maze_map)
        self.next_cell: dict[tuple[Cell, Cell], np.ndarray] = {}

    def start(self, seed: int) -> np.ndarray:
        """Begins an episode in any free cell; returns its first observation."""
        cell = _draw(self.free)
        goal = _draw(cells_away(self.maze.maze_map, cell, STITCH_STEPS) or [cell]) if self.stitch else _draw(self.goals)
        return self.env.reset(seed=seed, options={"task_info": {"init_ij": cell, "goal_ij": goal}})[0]

    def act(self) -> np.ndarray:
        """A step's direction along the shortest path, with noise."""
        position = self.maze.get_xy()
        way = self.maze.xy_to_ij(position), self.maze.xy_to_ij(self.maze.cur_goal_xy)
        if way not in self.next_cell:
            self.next_cell[way] = self.maze.get_oracle_subgoal(position, self.maze.cur_goal_xy)[0]
        direction = self.next_cell[way] - position
        return direction / (np.linalg.norm(direction) + 1e-6) + np.random.normal(0.0, NAVIGATE_NOISE, 2)  # noqa: NPY002

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        """A reached goal is followed by another."""
        if info["success"] and not self.stitch:
            # By position: given a cell, OGBench 1.2.2 moves the marker of the goal to NaN.
            self.maze.set_goal(goal_xy=self.maze.add_noise(self.maze.ij_to_xy(_draw(self.goals))))


class Arm:
    """Pursues targets with the package's oracles: by plans, or `noisy` step by step."""

    def __init__(self, env: Any, name: str, noisy: bool) -> None:
        self.env, self.scene, self.noisy = env, env.unwrapped, noisy
        self.oracles = _oracles(env, name, noisy)
        self.random_share = 0.0 if not noisy else 0.2 if name.startswith("puzzle") else 0.1
        self.stacking = _STACKING.get(name.removeprefix("cube-"), _STACKING_ELSEWHERE)
        env.reset(seed=0)
        self.fresh = {key: np.copy(getattr(self.scene, key)) for key in _REMEMBERED if hasattr(self.scene, key)}
        self.sites = self.scene.model.site_pos.copy()

    def start(self, seed: int) -> np.ndarray:
        """Begins an episode with a random scene, the same whatever episode came before; returns its first observation."""
        for key, value in self.fresh.items():
            setattr(self.scene, key, value.copy() if value.ndim else value.item())
        self.scene.model.site_pos[:] = self.sites
        self.observation, self.info = self.env.reset(seed=seed)
        self.stack = np.random.uniform(*self.stacking)  # noqa: NPY002
        self.strength = np.random.uniform(0.0, ACTION_NOISE)  # noqa: NPY002
        self._pursue(self.observation, self.info)
        return self.observation

    def act(self) -> np.ndarray:
        """The oracle's action; where `noisy` with noise, or a uniformly random one."""
        if np.random.uniform() < self.random_share:  # noqa: NPY002
            return np.random.uniform(-1.0, 1.0, len(_NOISE_RATIO))  # noqa: NPY002
        action = self.oracle.select_action(self.observation, self.info)
        return np.random.normal(action, self.strength * _NOISE_RATIO) if self.noisy else action  # noqa: NPY002

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        """An oracle that is done is followed by that of another target; its first action is for the old target, as published."""
        self.observation, self.info = observation, info
        if self.oracle.done:
            self._pursue(*self.scene.set_new_target(p_stack=self.stack))

    def _pursue(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        self.oracle = self.oracles[info["privileged/target_task"]]
        self.oracle.reset(observation, info)


def _oracles(env: Any, name: str, noisy: bool) -> dict[str, Any]:
    """OGBench's oracles by the kind of target."""
    import importlib

    form, options = ("markov", {}) if noisy else ("plan", {"noise": PLAN_NOISE, "noise_smoothing": PLAN_SMOOTHING})
    kinds = {"cube": ("cube",), "puzzle": ("button",), "scene": ("cube", "button", "drawer", "window")}[name.split("-")[0]]
    made = {}
    for kind in kinds:
        module = importlib.import_module(f"ogbench.manipspace.oracles.{form}.{kind}_{form}")
        closed = {"gripper_always_closed": True} if name.startswith("puzzle") else {}
        made[kind] = getattr(module, f"{kind.title()}{form.title()}Oracle")(env=env, **options, **closed)
    return made


def goal_cells(maze: Int[np.ndarray, "height width"]) -> list[Cell]:
    """Cells (row, column) that goals are drawn from: free (0) and no straight corridor between two walls (1)."""
    cells = []
    for i, j in np.argwhere(maze == 0).tolist():
        sides = maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1]
        if sides not in ((0, 0, 1, 1), (1, 1, 0, 0)):
            cells.append((i, j))
    return cells


def cells_away(maze: Int[np.ndarray, "height width"], start: Cell, steps: int) -> list[Cell]:
    """Free cells (0) whose shortest way from `start` is so many steps."""
    seen, edge = {start}, [start]
    for _ in range(steps):
        around = [(i + di, j + dj) for i, j in edge for di, dj in ((-1, 0), (0, -1), (1, 0), (0, 1))]
        edge = [cell for cell in dict.fromkeys(around) if cell not in seen and maze[cell] == 0]
        seen |= set(edge)
    return edge


def _draw(cells: list[Cell]) -> Cell:
    return cells[np.random.randint(len(cells))]  # noqa: NPY002
