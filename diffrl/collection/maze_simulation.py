"""Recipes for PointMaze data: a waypoint controller in MuJoCo, in the manner of D4RL's maze2d and Minari's pointmaze.

Controller (Minari's dataset-generation scripts, scripts/pointmaze/controller.py): walk a shortest path over the cells;
action = 10 (waypoint - position) - velocity, plus N(0, 0.5^2), clipped to [-1, 1]; the next waypoint comes up within
0.1 m of this one; intermediate waypoints lie off the cell's centre by -U(0, 0.2) per axis. A reached goal (0.45 m) is
followed by another, drawn over all free cells.

`fixedgoal`: observation (x, y, vx, vy), goals left out, reward 1 where the next position is within 0.45 m of the centre of
the evaluation environment's goal cell (D4RL's maze2d relabelling): undirected data in which imitation fails.
`goal`: Minari's layout, one episode per goal, the goal observed; unlike there, row 0 has the goal that its reward is for.
Either with sparse rewards or, `-dense`, exp(-distance in m).
`demonstrations` (maze tworoutes): from one end to the other, every fork passed above or below with equal probability; the mean
of the two ways is a wall, and a policy with one mode knows one way (reports/ways.py).

Physics is `mujoco.mj_step` on gymnasium-robotics' own model. A block of 1,000 steps is simulated from its own seed, so
data do not depend on how blocks are spread over processes. This module imports no JAX: worker processes start fast.
"""

import importlib.metadata
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

BLOCK_STEPS = 1000
REFERENCE_EPISODES = 100
SUCCESS_RADIUS = 0.45  # m, gymnasium-robotics maze_v4.py
POSITION_NOISE = 0.25  # m, the same file
MAX_SPEED = 5.0  # m/s, the same package's point.py
GAIN, BRAKE, REACH, JITTER, ACTION_NOISE = 10.0, 1.0, 0.1, 0.2, 0.5
# Seeds of evaluation episodes stand apart from those of data blocks.
_REFERENCE_STREAM = {"random": 1, "controller": 2}
_DEMONSTRATION_STREAM = 3
DEMONSTRATION_STEPS = 1000


class Task(NamedTuple):
    """A maze, its environment and the goal cell of its evaluation map (that of Minari's pointmaze datasets)."""

    env_id: str
    rows: tuple[str, ...]
    goal_cell: tuple[int, int]
    start_cell: tuple[int, int] | None = None  # None: any free cell
    time_limit: int | None = None  # None: the environment's own


TASKS = {
    "umaze": Task("PointMaze_UMaze-v3", ("11111", "10001", "11101", "10001", "11111"), (1, 1)),
    "medium": Task(
        "PointMaze_Medium-v3",
        ("11111111", "10011001", "10010001", "11000111", "10010001", "10100101", "10001001", "11111111"),
        (6, 6),
    ),
    "large": Task(
        "PointMaze_Large-v3",
        (
            *("111111111111", "100001000001", "101101010101", "100000010001", "101111011101"),
            *("100101000001", "110101010111", "100100010001", "111111111111"),
        ),
        (7, 9),
    ),
    "tworoutes": Task(
        "PointMaze_UMaze-v3",
        ("1111111111111111", "1110001000100011", "1000100010001001", "1110001000100011", "1111111111111111"),
        (2, 14),
        start_cell=(2, 1),
        time_limit=DEMONSTRATION_STEPS,
    ),
}


class Grid:
    """Cells of a maze and shortest paths over them, 4-connected."""

    def __init__(self, free: Bool[np.ndarray, "height width"]) -> None:
        self.height, self.width = free.shape
        self.free = free
        self.free_cells = [(int(i), int(j)) for i, j in np.argwhere(free)]
        self._next: dict[tuple[int, int], Int[np.ndarray, "height width 2"]] = {}

    def cell(self, x: float, y: float) -> tuple[int, int]:
        return math.floor(self.height / 2 - y), math.floor(x + self.width / 2)

    def centre(self, cell: tuple[int, int]) -> tuple[float, float]:
        """Position (m) of the centre of a cell (row, column)."""
        return cell[1] + 0.5 - self.width / 2, self.height / 2 - cell[0] - 0.5

    def next_cell(self, cell: tuple[int, int], goal: tuple[int, int]) -> tuple[int, int]:
        """The neighbour of `cell` on a shortest path to `goal`; the goal itself once there."""
        if goal not in self._next:
            self._next[goal] = self._search(goal)
        i, j = self._next[goal][cell]
        return int(i), int(j)

    def distance(self, cell: tuple[int, int], goal: tuple[int, int]) -> int:
        """Steps of a shortest path."""
        steps = 0
        while cell != goal:
            cell, steps = self.next_cell(cell, goal), steps + 1
        return steps

    def _search(self, goal: tuple[int, int]) -> Int[np.ndarray, "height width 2"]:
        following = np.full((self.height, self.width, 2), -1)
        following[goal] = goal
        waiting = deque([goal])
        while waiting:
            i, j = waiting.popleft()
            for neighbour in ((i, j + 1), (i, j - 1), (i - 1, j), (i + 1, j)):
                if self.free[neighbour] and following[neighbour][0] < 0:
                    following[neighbour] = (i, j)
                    waiting.append(neighbour)
        return following


class Controller:
    """Walks to a goal. Plain floats throughout: numpy's overhead on two numbers would double the cost of a step."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        self.grid, self.rng = grid, rng
        self.goal = (math.nan, math.nan)

    def act(self, x: float, y: float, vx: float, vy: float, goal: tuple[float, float]) -> tuple[float, float]:
        """Unclipped action without noise, for position (m), velocity (m/s) and goal (m)."""
        if goal != self.goal:
            self.goal, self.goal_cell = goal, self.grid.cell(*goal)
            self.waypoint_cell = self.grid.next_cell(self.grid.cell(x, y), self.goal_cell)
            self.waypoint = goal if self.waypoint_cell == self.goal_cell else self.grid.centre(self.waypoint_cell)
        dx, dy = self.waypoint[0] - x, self.waypoint[1] - y
        if dx * dx + dy * dy <= REACH**2 and self.waypoint_cell != self.goal_cell:
            self.waypoint_cell = self.grid.next_cell(self.waypoint_cell, self.goal_cell)
            if self.waypoint_cell == self.goal_cell:
                self.waypoint = goal
            else:
                cx, cy = self.grid.centre(self.waypoint_cell)
                jx, jy = self.rng.uniform(0.0, JITTER, 2).tolist()
                self.waypoint = (cx - jx, cy - jy)
            dx, dy = self.waypoint[0] - x, self.waypoint[1] - y
        return GAIN * dx - BRAKE * vx, GAIN * dy - BRAKE * vy


class Simulator:
    """MuJoCo's model of a maze, stepped without gymnasium's wrappers: the same physics at twice the speed."""

    def __init__(self, maze: str) -> None:
        import mujoco

        env = make_env(maze, "demonstrations" if TASKS[maze].start_cell else "goal", evaluation=True, observe_all=True)
        point = env.unwrapped.point_env
        self.env, self.model, self.data = env, point.model, point.data
        self._mujoco: Any = mujoco
        self.grid = Grid(np.array([[cell == "0" for cell in row] for row in TASKS[maze].rows]))

    def place(self, x: float, y: float) -> None:
        """Put the point somewhere, at rest, with no memory of what was before."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = x, y

    def run(self, actor: Any, steps: int) -> Iterator[tuple[float, float, float, float]]:
        """Yield (x, y, vx, vy) after each step; `actor(t, x, y, vx, vy)` returns the clipped action, float32 `[2]`."""
        step, model, data = self._mujoco.mj_step, self.model, self.data
        qpos, qvel, ctrl = data.qpos, data.qvel, data.ctrl
        (x, y), (vx, vy) = qpos.tolist(), qvel.tolist()
        for t in range(steps):
            ctrl[:] = actor(t, x, y, vx, vy)
            if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
                np.clip(qvel, -MAX_SPEED, MAX_SPEED, out=qvel)
            step(model, data)
            (x, y), (vx, vy) = qpos.tolist(), qvel.tolist()
            yield x, y, vx, vy

    def close(self) -> None:
        self.env.close()


def make_env(maze: str, layout: str, evaluation: bool, observe_all: bool = False) -> Any:
    """The gymnasium environment of a dataset: for evaluation one fixed goal cell, for collection goals that move.

    Where the goal is no part of the observation, wrappers in the spec leave it out, so that the spec alone recovers the
    environment and its Box observation; `observe_all` keeps everything.
    """
    import gymnasium

    from diffrl.envs.quiet import quiet_imports

    with quiet_imports():
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)
    task = TASKS[maze]
    options: dict[str, Any] = {"reward_type": "dense"} if layout.endswith("-dense") else {}
    if task.time_limit:
        options["max_episode_steps"] = task.time_limit
    hidden_goal = layout == "demonstrations" or layout.startswith("fixedgoal")
    if evaluation or hidden_goal:
        cells: list[list[int | str]] = [[int(cell) for cell in row] for row in task.rows]
        cells[task.goal_cell[0]][task.goal_cell[1]] = "g"
        if task.start_cell:
            cells[task.start_cell[0]][task.start_cell[1]] = "r"
        # A demonstration ends at its goal.
        options |= {"maze_map": cells, "continuing_task": layout != "demonstrations", "reset_target": False}
    else:
        options |= {"continuing_task": True, "reset_target": True}
    env: Any = gymnasium.make(task.env_id, disable_env_checker=True, **options)
    # gymnasium-robotics leaves the model's file behind in the temporary directory.
    Path(env.unwrapped.tmp_xml_file_path).unlink(missing_ok=True)
    if hidden_goal and not observe_all:
        env = gymnasium.wrappers.FlattenObservation(gymnasium.wrappers.FilterObservation(env, ["observation"]))
    return env


def evaluation_goal(maze: str) -> np.ndarray:
    """Centre (m) of the evaluation environment's goal cell, `[2]`; its goals lie within 0.25 m per axis of it."""
    task = TASKS[maze]
    (i, j), height, width = task.goal_cell, len(task.rows), len(task.rows[0])
    return np.array([j + 0.5 - width / 2, height / 2 - i - 0.5])


def simulate_block(simulator: Simulator, seed: int, block: int, steps: int) -> dict[str, np.ndarray]:
    """One block of goal-switching play from its own seed.

    Returns:
        states [steps + 1, 4] (x, y, vx, vy), actions [steps, 2] float32, goals [steps, 2] active during each step, and
        success [steps].
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, block]))
    grid = simulator.grid
    noise = rng.normal(0.0, ACTION_NOISE, (BLOCK_STEPS, 2)).tolist()
    states, goals = np.empty((steps + 1, 4)), np.empty((steps, 2))
    actions, success = np.empty((steps, 2), np.float32), np.zeros(steps, bool)
    controller = Controller(grid, rng)

    def draw() -> tuple[float, float]:
        cx, cy = grid.centre(grid.free_cells[int(rng.integers(len(grid.free_cells)))])
        nx, ny = rng.uniform(-POSITION_NOISE, POSITION_NOISE, 2).tolist()
        return cx + nx, cy + ny

    def draw_goal(x: float, y: float) -> tuple[float, float]:
        while True:
            goal = draw()
            if math.hypot(goal[0] - x, goal[1] - y) > SUCCESS_RADIUS:
                return goal

    start = draw()
    goal = draw_goal(*start)
    states[0] = (*start, 0.0, 0.0)

    def actor(t: int, x: float, y: float, vx: float, vy: float) -> np.ndarray:
        ax, ay = controller.act(x, y, vx, vy, goal)
        goals[t] = goal
        actions[t] = min(max(ax + noise[t][0], -1.0), 1.0), min(max(ay + noise[t][1], -1.0), 1.0)
        return actions[t]

    simulator.place(*start)
    for t, (x, y, vx, vy) in enumerate(simulator.run(actor, steps)):
        states[t + 1] = x, y, vx, vy
        if math.hypot(goal[0] - x, goal[1] - y) <= SUCCESS_RADIUS:
            success[t] = True
            goal = draw_goal(x, y)
    return {"states": states, "actions": actions, "goals": goals, "success": success}


def simulate_demonstrations(simulator: Simulator, maze: str, seed: int, shard: int, rows: int) -> dict[str, np.ndarray]:
    """`rows` steps of demonstrations, each from start to goal by ways drawn at every fork; the last is cut to fit.

    Returns:
        states [rows + episodes, 4], actions [rows, 2] float32, success [rows] and lengths [episodes] of each in turn.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, shard, _DEMONSTRATION_STREAM]))
    parts, made = [], 0
    while made < rows:
        parts.append(_demonstrate(simulator, maze, rng, rows - made))
        made += len(parts[-1]["actions"])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**joined, "lengths": np.array([len(part["actions"]) for part in parts])}


def _demonstrate(simulator: Simulator, maze: str, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """One demonstration of at most `rows` steps."""
    grid, task = simulator.grid, TASKS[maze]
    assert task.start_cell is not None
    noise = rng.uniform(-POSITION_NOISE, POSITION_NOISE, (2, 2))
    start = (grid.centre(task.start_cell) + noise[0]).tolist()
    goal = tuple((evaluation_goal(maze) + noise[1]).tolist())
    via = [grid.centre(cell) for cell in _drawn_way(grid, task.start_cell, task.goal_cell, rng)[1:-1]] + [goal]
    controller, action_noise = Controller(grid, rng), rng.normal(0.0, ACTION_NOISE, (DEMONSTRATION_STEPS, 2)).tolist()
    states, actions, success = [(*start, 0.0, 0.0)], [], []

    def actor(t: int, x: float, y: float, vx: float, vy: float) -> np.ndarray:
        if len(via) > 1 and math.hypot(via[0][0] - x, via[0][1] - y) <= 2 * REACH:
            via.pop(0)
        ax, ay = controller.act(x, y, vx, vy, via[0])
        ax, ay = ax + action_noise[t][0], ay + action_noise[t][1]
        actions.append(np.array([min(max(ax, -1.0), 1.0), min(max(ay, -1.0), 1.0)], np.float32))
        return actions[-1]

    simulator.place(*start)
    for state in simulator.run(actor, min(DEMONSTRATION_STEPS, rows)):
        states.append(state)
        success.append(math.hypot(goal[0] - state[0], goal[1] - state[1]) <= SUCCESS_RADIUS)
        if success[-1]:
            break
    return {"states": np.array(states), "actions": np.array(actions), "success": np.array(success)}


def _drawn_way(grid: Grid, start: tuple[int, int], goal: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Cells of a shortest path, drawn at every fork with equal probability."""
    way = [start]
    while way[-1] != goal:
        i, j = way[-1]
        ahead = [cell for cell in ((i, j + 1), (i, j - 1), (i - 1, j), (i + 1, j)) if grid.free[cell]]
        left = [grid.distance(cell, goal) for cell in ahead]
        best = [cell for cell, distance in zip(ahead, left, strict=True) if distance == min(left)]
        way.append(best[int(rng.integers(len(best)))])
    return way


def simulate_reference(simulator: Simulator, policy: str, seed: int, episode: int, layout: str) -> float:
    """Return of one evaluation episode of the "random" policy or the noise-free "controller", started by gymnasium's reset."""
    stream = np.random.SeedSequence([seed, episode, _REFERENCE_STREAM[policy]])
    rng = np.random.default_rng(stream)
    observation, _ = simulator.env.reset(seed=int(stream.generate_state(1)[0] % 2**31))
    limit = simulator.env.spec.max_episode_steps
    goal = (float(observation["desired_goal"][0]), float(observation["desired_goal"][1]))
    controller = Controller(simulator.grid, rng)
    random = rng.uniform(-1.0, 1.0, (limit, 2)).astype(np.float32)

    def actor(t: int, x: float, y: float, vx: float, vy: float) -> np.ndarray:
        if policy == "random":
            return random[t]
        ax, ay = controller.act(x, y, vx, vy, goal)
        return np.array([min(max(ax, -1.0), 1.0), min(max(ay, -1.0), 1.0)], np.float32)

    simulator.place(*observation["observation"][:2].tolist())
    distances = (math.hypot(goal[0] - x, goal[1] - y) for x, y, _, _ in simulator.run(actor, limit))
    if layout == "demonstrations":
        return float(any(distance <= SUCCESS_RADIUS for distance in distances))
    return float(sum(math.exp(-d) if layout.endswith("-dense") else d <= SUCCESS_RADIUS for d in distances))


_simulators: dict[str, Simulator] = {}


def run_shard(maze: str, kind: str, seed: int, first: int, last: int, rows: int, layout: str) -> dict[str, np.ndarray]:
    """One unit of parallel work, in whatever process.

    Args:
        maze: a key of `TASKS`.
        kind: "play" for data blocks, "demonstrations", "random" or "controller" for reference episodes.
        seed: of the dataset.
        first, last: blocks or episodes, `first <= i < last`.
        rows: of the whole dataset, which cuts its last block; of this shard for demonstrations.
        layout: whose rewards the reference episodes count.
    """
    if maze not in _simulators:
        _simulators[maze] = Simulator(maze)
    simulator = _simulators[maze]
    if kind == "demonstrations":
        return simulate_demonstrations(simulator, maze, seed, first, rows)
    if kind != "play":
        return {"returns": np.array([simulate_reference(simulator, kind, seed, i, layout) for i in range(first, last)])}
    blocks = [simulate_block(simulator, seed, i, min(BLOCK_STEPS, rows - i * BLOCK_STEPS)) for i in range(first, last)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def versions() -> str:
    """The simulator's versions, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mujoco", "gymnasium-robotics", "gymnasium"))
