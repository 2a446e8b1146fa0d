"""D4RL's maze2d-{umaze,medium,large}-v1, made by its script's logic anew (scripts/generation/generate_maze2d_datasets.py).

A point walks from target to target and is never reset. The way-point controller plans a shortest path over the integer cells,
pushes with 10 (way-point - position) - velocity, clipped, and noise of N(0, 0.5²) is added and clipped again. What is odd about
the published data is kept, since learners see it:

* Where a target is reached, or has not been for as many steps as an episode of the evaluation has, another is drawn, a flag is
  set, and the observation is not refreshed: the next row repeats it, while the point has moved on.
* A target is reached where the point is within 0.1 m of its integer cell; one drawn in the same cell is reached at once.
* The reward is that of the observation in its own row, for the evaluation's goal, which the controller does not know.

The flags are timeouts, as in the published files (the script called them terminals). Rows come in streams of 100,000, each from
its own seed and ended by a flag of its own, so that they can be made in parallel; the published file is one stream. Physics
is MuJoCo in C. This module imports no JAX: worker processes start fast.
"""

import functools
import importlib.metadata
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffrl.collection.recipe import Cost, Product, Recipe, Shard, split_episodes
from diffrl.envs.maze2d.simulator import Simulator
from diffrl.envs.maze2d.tasks import MAZES, START_NOISE, START_SPEED, SUCCESS_RADIUS, Maze

STREAM_ROWS = 100_000
GAIN, BRAKE, REACH, JITTER, ACTION_NOISE = 10.0, 1.0, 0.1, 0.2, 0.5
_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # in the order that decides between equally short ways
_COLUMNS = ("observation", "action", "goal", "qpos", "qvel")

Cell = tuple[int, int]


class Controller:
    """D4RL's way-point controller. It plans anew only when the target's cell changes, also across episodes."""

    def __init__(self, maze: Maze, rng: np.random.Generator) -> None:
        self.maze, self.rng = maze, rng
        self.target: Cell | None = None

    def act(self, state: tuple[float, float, float, float], target: tuple[float, float]) -> tuple[float, float, bool]:
        """Action without noise for x, y (m), vx, vy (m/s), and whether the target (m) is reached."""
        x, y, vx, vy = state
        cell = round(target[0]), round(target[1])
        if cell != self.target:
            self.target, self.passed = cell, 0
            way = path(self.maze, (round(x), round(y)), cell)
            jitter = self.rng.uniform(0.0, JITTER, (len(way) - 1, 2)).tolist()
            self.way = [*((w - jx, h - jy) for (w, h), (jx, jy) in zip(way[:-1], jitter, strict=True)), cell]
        reached = math.hypot(cell[0] - x, cell[1] - y) < REACH
        to_x, to_y = cell if reached else self.way[self.passed]
        if not reached and math.hypot(to_x - x, to_y - y) < REACH:
            self.passed += 1
        return _clip(GAIN * (to_x - x) - BRAKE * vx), _clip(GAIN * (to_y - y) - BRAKE * vy), reached


@functools.cache
def path(maze: Maze, start: Cell, target: Cell) -> tuple[Cell, ...]:
    """Cells after `start` on the shortest way to `target` that D4RL's Q-iteration finds; at least the target itself.

    A wall's cell can be left but not entered.
    """
    distance = _distances(maze, target)
    way, cell = [], start
    while not way or cell != target:
        around = [(cell[0] + dw, cell[1] + dh) for dw, dh in _MOVES]
        # Into a wall there is no move, and waiting is worth it at the target alone.
        cell = cell if cell == target else min((near for near in around if near in distance), key=distance.__getitem__)
        way.append(cell)
    return tuple(way)


@functools.cache
def _distances(maze: Maze, target: Cell) -> dict[Cell, int]:
    """Moves to the target from every free cell."""
    free, distance, edge = set(maze.free), {target: 0}, [target]
    for cell in edge:  # grows while it is walked
        for dw, dh in _MOVES:
            near = cell[0] + dw, cell[1] + dh
            if near in free and near not in distance:
                distance[near] = distance[cell] + 1
                edge.append(near)
    return distance


def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))


def simulate(
    maze: Maze, seed: int, stream: int, rows: int, noise: float = ACTION_NOISE, refresh: bool = False
) -> dict[str, np.ndarray]:
    """One stream of rows, from its own seed.

    Args:
        maze: of `tasks.MAZES`.
        seed, stream: what the rows depend on.
        rows: how many; fewer are the first of more.
        noise: standard deviation of the action noise.
        refresh: observe the point anew after a target was reached, which D4RL does not.

    Returns:
        float32 [rows, ·]: observation, what the controller saw; action; goal, the target pursued; qpos and qvel, where the
        point was. bool [rows]: timeout, whether another target is drawn after the row. float32 [4]: last, where the point ended.
    """
    steps_rng, rng = np.random.default_rng(np.random.SeedSequence([seed, stream])).spawn(2)
    simulator, controller, free = Simulator(maze), Controller(maze, rng), maze.free

    def draw() -> tuple[float, float]:
        w, h = free[int(rng.integers(len(free)))]
        dx, dy = rng.uniform(-START_NOISE, START_NOISE, 2).tolist()
        return w + dx, h + dy

    target, start = draw(), (*draw(), *(START_SPEED * rng.standard_normal(2)).tolist())
    simulator.place(*start)
    seen = state = start
    clock, limit = 0, maze.max_episode_steps
    made: list[tuple[float, ...]] = []
    for nx, ny in _pairs(steps_rng, rows):
        ax, ay, reached = controller.act(seen, target)
        ax, ay = _clip(ax + noise * nx), _clip(ay + noise * ny)
        over = reached or clock >= limit
        made.append((*seen, ax, ay, *target, *state, over))
        state = simulator.step(ax, ay)
        if over:
            target, clock = draw(), 0
            seen = state if refresh else seen
        else:
            seen, clock = state, clock + 1
    *columns, over = np.split(np.array(made, np.float32), [4, 6, 8, 10, 12], axis=1)
    return {
        **dict(zip(_COLUMNS, columns, strict=True)),
        "timeout": over[:, 0] > 0.5,
        "last": np.array(state, np.float32),
    }


def _pairs(rng: np.random.Generator, rows: int) -> Iterator[list[float]]:
    """Normal numbers in twos, drawn by the thousand."""
    for first in range(0, rows, 1000):
        yield from rng.standard_normal((1000, 2))[: rows - first].tolist()


def run_shard(maze: str, seed: int, stream: int, rows: int) -> dict[str, np.ndarray]:
    """One unit of parallel work: `simulate` by the name of the maze."""
    return simulate(MAZES[maze], seed, stream, rows)


def versions() -> str:
    """What the rows depend on, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mujoco", "numpy"))


def joined(shards: dict[str, dict[str, np.ndarray]], maze: Maze) -> dict[str, np.ndarray]:
    """The streams one after another, each ended by a timeout, with the rewards and where each step truly led.

    Returns:
        what `simulate` gives by row; reward float32 [rows]; terminal, all False; next_observation [rows, 4].
    """
    streams = [shards[name] for name in sorted(shards)]
    rows = {name: np.concatenate([stream[name] for stream in streams]) for name in (*_COLUMNS, "timeout")}
    rows["timeout"][np.cumsum([len(stream["timeout"]) for stream in streams]) - 1] = True
    states = [np.concatenate([stream["qpos"], stream["qvel"]], axis=1) for stream in streams]
    return {
        **rows,
        "reward": (maze.distance(rows["observation"][:, :2]) <= SUCCESS_RADIUS).astype(np.float32),
        "terminal": np.zeros(len(rows["timeout"]), bool),
        "next_observation": np.concatenate(
            [part for state, stream in zip(states, streams, strict=True) for part in (state[1:], stream["last"][None])]
        ),
    }


def write_d4rl(maze: str, path: Path, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> list[Path]:
    """One HDF5 file with D4RL's keys, every row in order."""
    import h5py

    del seed, rows
    made, file = joined(shards, MAZES[maze]), path.with_name(f"{path.name}.hdf5")
    with h5py.File(file, "w") as target:
        for key, name in _D4RL_KEYS.items():
            target.create_dataset(key, data=made[name], compression="gzip")
    return [file]


_D4RL_KEYS = {
    **{"observations": "observation", "actions": "action", "rewards": "reward", "terminals": "terminal", "timeouts": "timeout"},
    **{"infos/goal": "goal", "infos/qpos": "qpos", "infos/qvel": "qvel"},
}


def _shards(maze: str, seed: int, rows: int) -> list[Shard]:
    shards = []
    for stream in range(math.ceil(rows / STREAM_ROWS)):
        made = min(STREAM_ROWS, rows - stream * STREAM_ROWS)
        shards.append(Shard(f"stream-{stream:04d}", made, run_shard, (maze, seed, stream, made)))
    return shards


def _product(maze: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from diffrl.data.scores import TABLE
    from diffrl.envs.maze2d.registry import PREFIX, env_spec_of

    made = joined(shards, MAZES[maze])
    episodes = split_episodes(made)
    name, spec = f"{PREFIX}{maze}", EnvSpec.from_json(env_spec_of(f"{PREFIX}{maze}-v1"))
    reference, mean_return = TABLE[name], float(made["reward"].sum() / len(episodes))
    which = "as many rows as the published file" if rows == _ROWS[maze] else f"a cut; the benchmark has {_ROWS[maze]} rows"
    description = (
        f"D4RL's {name}-v1 made anew, {rows} transitions ({which}) of a way-point controller with action noise {ACTION_NOISE} "
        f"that walks from target to target. An episode is the way to a target, {len(episodes)} in all, and ends in a timeout; "
        "the point is not reset, and an episode's first observation repeats the last but one of the episode before, as in D4RL. "
        f"The reward is 1 where the observation of the row itself is within {SUCCESS_RADIUS} m of {MAZES[maze].goal}, "
        f"{made['reward'].mean():.3%} of the rows. Seed {seed}, {versions()}."
    )
    return Product(
        episodes=episodes,
        env=gymnasium.make(spec),
        eval_env=gymnasium.make(spec),
        metadata={"algorithm_name": "waypoint controller", "mean_return": mean_return},
        reference=(reference.min, reference.max),
        reference_source=reference.source,
        description=description,
        requirements=["mujoco>=3.5,<3.12", "gymnasium>=1.2,<2"],
    )


def _recipe(name: str, maze: str, rows: int, summary: str) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        rows=rows,
        shards=functools.partial(_shards, maze),
        assemble=functools.partial(_product, maze),
        fingerprint=versions,
        formats={"d4rl": functools.partial(write_d4rl, maze)},
        cost=_COSTS[maze],
    )


# Measured on 200,000 rows.
_COSTS = {"umaze": Cost(18_000, 209), "medium": Cost(33_000, 115), "large": Cost(31_000, 89)}
_ROWS = {"umaze": 1_000_000, "medium": 2_000_000, "large": 4_000_000}
# The cuts have names of their own: a score on them is none of the benchmark.
RECIPES = (
    *(_recipe(f"d4rl/maze2d-{maze}-v1", maze, rows, f"D4RL's maze2d-{maze}-v1, full size") for maze, rows in _ROWS.items()),
    *(_recipe(f"maze2d/{maze}-200k-v0", maze, 200_000, f"the beginning of d4rl/maze2d-{maze}-v1") for maze in _ROWS),
)
