"""OGBench's 26 scripted data sets of states (Park et al. 2025, arXiv 2410.20092), made anew with the simulators of its package.

The published generation is not seeded, so that sets agree with it in distribution. Who acts is in `ogbench_actors.py`. Each
episode comes from its own seed, which depends on nothing but the dataset's seed and the episode's number; the first `episodes`
are the training set and a tenth as many more the validation set, as there.

One generation serves all tasks: `data/ogbench_tasks.py` labels rows when they are loaded. In Minari's form rewards and
terminations are those of the default task until then. No simulator and no JAX is imported before work starts.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffrl.collection.ogbench_actors import Actor, make_actor
from diffrl.collection.recipe import Cost, Product, Recipe, Shard
from diffrl.envs.ogbench import tasks

SHARD_ROWS = 5000
CUT_ROWS = 100_000
_SPLITS = ("train", "val")


class Set(NamedTuple):
    """A data set of OGBench: an environment, who acts in it, and how many training episodes of how many steps there are."""

    env: str
    behaviour: str
    episodes: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.env}-{self.behaviour}"

    @property
    def rows(self) -> int:
        """Transitions of the training set."""
        return self.episodes * self.steps


_MAZES = ("medium", "large", "giant", "teleport")
_ARMS = {
    **{"cube-single": 1000, "cube-double": 1000, "cube-triple": 3000, "cube-quadruple": 5000, "scene": 1000},
    **{"puzzle-3x3": 1000, "puzzle-4x4": 1000, "puzzle-4x5": 3000, "puzzle-4x6": 5000},
}
SETS = {
    each.name: each
    for each in (
        *(Set(f"pointmaze-{maze}", "navigate", *((500, 2000) if maze == "giant" else (1000, 1000))) for maze in _MAZES),
        *(Set(f"pointmaze-{maze}", "stitch", 5000, 200) for maze in _MAZES),
        *(Set(env, behaviour, episodes, 1000) for env, episodes in _ARMS.items() for behaviour in ("play", "noisy")),
    )
}


def make_env(name: str, steps: int) -> Any:
    """The gymnasium environment in which data are collected; its episodes do not end before `steps`."""
    import gymnasium

    from diffrl.envs.quiet import quiet_imports

    maze = name.startswith("pointmaze")
    options: dict[str, Any] = {} if maze else {"mode": "data_collection", "visualize_info": False}
    with quiet_imports():
        import ogbench  # noqa: F401  # pyright: ignore[reportMissingImports] - registers the environments

        env: Any = gymnasium.make(
            f"{name}-v0", disable_env_checker=True, terminate_at_goal=False, max_episode_steps=steps, **options
        )
    # The robot's action space is made anew for each use, from float64 bounds.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting to float32")
    if maze:
        # Mazes leave their model's file behind in the temporary directory.
        Path(env.unwrapped.fullpath).unlink(missing_ok=True)
    return env


@functools.cache
def _stage(name: str) -> tuple[Any, Actor]:
    """The environment and the actor of a set, once in a process."""
    each = SETS[name]
    env = make_env(each.env, each.steps + 2)
    return env, make_actor(each.env, each.behaviour, env)


def simulate_episode(name: str, seed: int, episode: int, steps: int) -> dict[str, np.ndarray]:
    """One episode of a set from its own seed, in the published form: a row more than steps, for the final state.

    Returns:
        by row: observations, actions, qpos and qvel, float32 [steps + 1, ·], before the action (the last row's leads nowhere);
        terminals, bool, at the last row; with buttons button_states, int64.
    """
    attempts = (_attempt(name, seed, episode, number, steps + 1) for number in itertools.count())
    return next(rows for rows in attempts if not name.startswith("scene") or in_sight(rows["qpos"][:, 14:17]))


def _attempt(name: str, seed: int, episode: int, number: int, count: int) -> dict[str, np.ndarray]:
    with _seeded(seed, episode, number) as env_seed:
        return _act(*_stage(name), env_seed, count)


def _act(env: Any, actor: Actor, env_seed: int, count: int) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {"observations": [], "actions": [], "qpos": [], "qvel": [], "button_states": []}
    observation = actor.start(env_seed)
    for _ in range(count):
        action = np.clip(actor.act(), -1.0, 1.0).astype(np.float32)
        rows["observations"].append(observation)
        rows["actions"].append(action)
        observation, _, _, _, info = env.step(action)
        actor.observe(observation, info)
        for key in ("qpos", "qvel", "button_states"):
            if f"prev_{key}" in info:
                rows[key].append(info[f"prev_{key}"])
    made = {
        key: np.stack(values).astype(np.int64 if key == "button_states" else np.float32) for key, values in rows.items() if values
    }
    return {**made, "terminals": np.arange(count) == count - 1}


def in_sight(cube: Float[np.ndarray, "rows 3"]) -> bool:
    """Whether scene's cube stays where goals can show it, or in the drawer; episodes in which it does not are made again."""
    y, z = cube[:, 1], cube[:, 2]
    return not ((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08)))).any()


def run_shard(name: str, seed: int, episodes: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """One unit of parallel work, in whatever process: episodes of a set by number, each of so many steps, one after another."""
    made = [simulate_episode(name, seed, episode, steps) for episode, steps in episodes]
    return {key: np.concatenate([rows[key] for rows in made]) for key in made[0]}


def versions() -> str:
    """The simulator's versions, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ogbench", "dm-control", "mujoco", "gymnasium"))


@contextlib.contextmanager
def _seeded(seed: int, episode: int, attempt: int) -> Iterator[int]:
    """Seed numpy's global generator, from which OGBench and its oracles draw; gives the seed for the environment's own."""
    stream = np.random.SeedSequence([seed, episode, attempt]).generate_state(2)
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(stream[0]))  # noqa: NPY002
    try:
        yield int(stream[1] % 2**31)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _shards(name: str, seed: int, rows: int) -> list[Shard]:
    steps = SETS[name].steps
    train = [(i, min(steps, rows - i * steps)) for i in range(math.ceil(rows / steps))]
    val = [(len(train) + i, steps) for i in range(max(1, len(train) // 10))]
    shards, together = [], SHARD_ROWS // steps
    for split, episodes in zip(_SPLITS, (train, val), strict=True):
        for first in range(0, len(episodes), together):
            part = episodes[first : first + together]
            made = sum(count for _, count in part)
            shards.append(Shard(f"{split}-{first:06d}", made, run_shard, (name, seed, part)))
    return shards


def _of(split: str, shards: dict[str, dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [shards[key] for key in sorted(shards) if key.startswith(split)]


def write_ogbench(path: Path, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> list[Path]:
    """The two files of numpy that `ogbench.make_env_and_datasets(..., dataset_path=...)` reads, training and validation."""
    del seed, rows
    files = [path.with_name(f"{path.name}.npz"), path.with_name(f"{path.name}-val.npz")]
    for split, file in zip(_SPLITS, files, strict=True):
        parts = _of(split, shards)
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        np.savez_compressed(file, allow_pickle=False, **joined)
    return files


def _episodes(name: str, shards: list[dict[str, np.ndarray]], goal: np.ndarray) -> list[dict[str, Any]]:
    """Minari's episodes, labelled with a task."""
    episodes = []
    for shard in shards:
        placed = tasks.in_place(name, shard["observations"], goal)
        ends = np.flatnonzero(shard["terminals"])
        for first, last in zip((0, *(ends[:-1] + 1).tolist()), ends.tolist(), strict=True):
            reached = placed[first:last].all(axis=1)
            truncated = np.arange(first, last) == last - 1
            episodes.append(
                {
                    "observations": shard["observations"][first : last + 1],
                    "actions": shard["actions"][first:last],
                    "rewards": placed[first:last].sum(axis=1) - float(placed.shape[1]),
                    "terminations": reached,
                    "truncations": truncated & ~reached,
                }
            )
    return episodes


def _assemble(name: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    from diffrl.envs.gymnasium_backend import make_env as make_from

    each = SETS[name]
    number = tasks.default_task(each.env)
    goal = tasks.goal(each.env, number)
    train, val = (_episodes(each.env, _of(split, shards), goal) for split in _SPLITS)
    at_goal = sum(int(episode["terminations"].sum()) for episode in train)
    mean_return = float(np.mean([episode["rewards"].sum() for episode in train]))
    size = "as many as the published set" if rows == each.rows else f"a cut; the benchmark has {each.rows:,}"
    description = (
        f"OGBench's {name} made anew, {rows:,} transitions ({size}) of its scripted behaviour in trajectories of {each.steps} "
        f"steps, which pursue random targets. Rewards and terminations are those of task {number}, dense, in the state before "
        f"the action; {at_goal:,} rows stand in the goal (terminal), and trajectories go on behind them. Other tasks: "
        f"--config.dataset.task. Seed {seed}, {versions()}."
    )
    return Product(
        episodes=train,
        validation=tuple(val),
        env=make_env(each.env, each.steps + 2),
        eval_env=make_from(tasks.spec_of(each.env, number)),
        metadata={"algorithm_name": "OGBench scripted actor", "mean_return": mean_return, "rows_in_goal": at_goal},
        reference=None,
        reference_source=f"OGBench scores by the rate of success, here of task {number}",
        description=description,
        requirements=["ogbench>=1.2,<1.3", "dm-control>=1.0.44,<1.0.45", "mujoco>=3.11,<3.12"],
    )


# Rates of a family's slowest set that was measured (BUILD.md); bytes of pointmaze-medium and of cube-single.
_COSTS = {"pointmaze": Cost(4_200, 49), "cube": Cost(200, 271), "scene": Cost(158, 271), "puzzle": Cost(127, 271)}


def _recipe(name: str, set_name: str, rows: int, summary: str) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        rows=rows,
        shards=functools.partial(_shards, set_name),
        assemble=functools.partial(_assemble, set_name),
        fingerprint=versions,
        extra="ogbench",
        formats={"ogbench": write_ogbench},
        cost=_COSTS[set_name.partition("-")[0]],
    )


# The cuts have names of their own: a score on them is none of the benchmark.
RECIPES = (
    *(_recipe(f"ogbench/{name}-v0", name, each.rows, f"OGBench's {name}, full size") for name, each in SETS.items()),
    *(_recipe(f"ogbench-cut/{name}-100k-v0", name, CUT_ROWS, f"the beginning of ogbench/{name}-v0") for name in SETS),
)
