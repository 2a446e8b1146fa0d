"""Recipes for OGBench's scripted tasks as single-task offline RL (Park et al. 2025, arXiv 2410.20092).

Behaviour follows the benchmark's data_gen_scripts, with the oracles of its package; no checkpoint is needed.
`navigate` (generate_locomaze.py): walk along the maze's shortest path, action = unit direction + N(0, 0.5^2), clipped to
[-1, 1]; start in any free cell; a reached goal is followed by another, drawn over all cells that are no corridor.
`play` (generate_manipspace.py): a plan of keyframes for a random target, with temporally correlated noise (0.1, smoothing
0.5); a finished plan is followed by one for another target, whatever came of the first.

Episodes have 1,000 steps, each simulated from its own seed. Rewards and terminations are those of the benchmark's default
single task, computed by its own `relabel_dataset` from the state in which an action is taken: a row in the goal has reward 0
and is terminal, and the trajectory goes on behind it. No simulator and no JAX is imported before work starts.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from diffrl.collection.recipe import Cost, Product, Recipe, Shard

EPISODE_STEPS = 1000
EPISODES_PER_SHARD = 5
REFERENCE_EPISODES = 20
NAVIGATE_NOISE = 0.5
PLAN_NOISE, PLAN_SMOOTHING = 0.1, 0.5
# Seeds of reference episodes stand apart from those of the data.
_STREAM = {"play": 0, "random": 1, "oracle": 2}


class Task(NamedTuple):
    """An environment of OGBench, the kind of behaviour in it, and the number of its default single task."""

    env: str
    behaviour: str
    number: int
    summary: str

    @property
    def name(self) -> str:
        return f"ogbench/{self.env}-{self.behaviour}-v0"

    @property
    def eval_id(self) -> str:
        return f"{self.env}-singletask-task{self.number}-v0"


TASKS = (
    Task("pointmaze-medium", "navigate", 1, "OGBench's 8 x 8 maze, from corner to corner"),
    Task("pointmaze-large", "navigate", 1, "OGBench's 9 x 12 maze, from corner to corner"),
    Task("cube-single", "play", 2, "OGBench's robot arm: carry a cube to one place"),
    Task("puzzle-3x3", "play", 4, "OGBench's robot arm: press buttons until all lights are as asked"),
)
_TASKS = {task.name: task for task in TASKS}


@runtime_checkable
class _Actor(Protocol):
    """Chooses actions in an episode that `start` has begun."""

    def start(self, seed: int) -> np.ndarray: ...
    def act(self) -> np.ndarray: ...
    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None: ...


class _Walker:
    """Walks to the goal, or from goal to goal where `wander`."""

    def __init__(self, env: Any, wander: bool) -> None:
        self.env, self.maze, self.wander = env, env.unwrapped, wander
        self.free = [(int(i), int(j)) for i, j in np.argwhere(self.maze.maze_map == 0)]
        self.goals = goal_cells(self.maze.maze_map)

    def start(self, seed: int) -> np.ndarray:
        # The environment takes the task from `options` only where it has no task of its own.
        cells = {"init_ij": _draw(self.free), "goal_ij": _draw(self.goals)} if self.wander else {}
        return self.env.reset(seed=seed, options={"task_info": cells})[0]

    def act(self) -> np.ndarray:
        position = self.maze.get_xy()
        direction = self.maze.get_oracle_subgoal(position, self.maze.cur_goal_xy)[0] - position
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        return direction + np.random.normal(0.0, NAVIGATE_NOISE, 2) if self.wander else direction  # noqa: NPY002

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        if self.wander and info["success"]:
            # By position: given a cell, OGBench 1.2.2 moves the marker of the goal to NaN.
            self.maze.set_goal(goal_xy=self.maze.add_noise(self.maze.ij_to_xy(_draw(self.goals))))


class _Planner:
    """Follows plans of the package's oracles: for random targets where `wander`, else for the environment's task."""

    def __init__(self, env: Any, wander: bool) -> None:
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle  # pyright: ignore[reportMissingImports]
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle  # pyright: ignore[reportMissingImports]

        self.env, self.scene, self.wander = env, env.unwrapped, wander
        self.buttons = hasattr(self.scene, "_cur_button_states")
        noise = {"noise": PLAN_NOISE if wander else 0.0, "noise_smoothing": PLAN_SMOOTHING}
        self.oracle = (
            ButtonPlanOracle(env=env, gripper_always_closed=True, **noise) if self.buttons else CubePlanOracle(env=env, **noise)
        )

    def start(self, seed: int) -> np.ndarray:
        observation, info = self.env.reset(seed=seed)
        self._plan(observation, info)
        return observation

    def act(self) -> np.ndarray:
        return self.oracle.select_action(self.observation, self.info)

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        self.observation, self.info = observation, info
        if self.oracle.done:
            if self.wander:
                observation, info = self.scene.set_new_target(p_stack=0.0)
            self._plan(observation, info)

    def _plan(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        self.observation, self.info = observation, info if self.wander else {**info, **self._target()}
        self.oracle.reset(self.observation, self.info)

    def _target(self) -> dict[str, Any]:
        """What the environment tells its oracles while data are collected, for the task instead."""
        if not self.buttons:
            place = self.scene.cur_task_info["goal_xyzs"][0]
            return {
                "privileged/target_block": 0,
                "privileged/target_block_pos": place,
                "privileged/target_block_yaw": np.zeros(1),
            }
        shape = self.scene._num_rows, self.scene._num_cols
        wanted = self.scene._cur_button_states != self.scene._target_button_states
        button = next(iter(presses(wanted.reshape(shape).astype(int))), 0)
        return {"privileged/target_button_top_pos": self.scene.data.site_xpos[self.scene._button_site_ids[button]].copy()}


class _Random:
    """Uniformly random actions."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def start(self, seed: int) -> np.ndarray:
        return self.env.reset(seed=seed)[0]

    def act(self) -> np.ndarray:
        return np.random.uniform(-1.0, 1.0, self.env.action_space.shape)  # noqa: NPY002

    def observe(self, observation: np.ndarray, info: dict[str, Any]) -> None:
        pass


def goal_cells(maze: Int[np.ndarray, "height width"]) -> list[tuple[int, int]]:
    """Cells (row, column) that goals are drawn from: free (0) and no straight corridor between two walls (1)."""
    cells = []
    for i, j in np.argwhere(maze == 0).tolist():
        sides = maze[i - 1, j], maze[i + 1, j], maze[i, j - 1], maze[i, j + 1]
        if sides not in ((0, 0, 1, 1), (1, 1, 0, 0)):
            cells.append((i, j))
    return cells


def presses(wrong: Int[np.ndarray, "rows columns"]) -> tuple[int, ...]:
    """Fewest buttons, by row-major number, that put right the lights where `wrong` is 1.

    A press turns over its own light and those above, below, left and right. The search tries all sets, smallest first, which
    is for boards of 3 x 3.

    Raises:
        ValueError: no set of buttons does it.
    """
    rows, columns = wrong.shape
    place = np.stack(np.divmod(np.arange(rows * columns), columns))
    turns = np.abs(place[:, :, None] - place[:, None, :]).sum(0) <= 1
    for count in range(rows * columns + 1):
        for buttons in itertools.combinations(range(rows * columns), count):
            if (turns[list(buttons)].sum(0) % 2 == wrong.ravel()).all():
                return buttons
    raise ValueError(f"no presses turn over exactly these lights: {wrong.tolist()}")


@functools.cache
def _environment(name: str, evaluation: bool) -> Any:
    return make_env(name, evaluation)


def make_env(name: str, evaluation: bool) -> Any:
    """The gymnasium environment of a recipe: its single task for evaluation, else the one in which data are collected."""
    import gymnasium

    from diffrl.envs.quiet import quiet_imports

    task = _TASKS[name]
    options: dict[str, Any] = {}
    if not evaluation:
        mode = {} if task.behaviour == "navigate" else {"mode": "data_collection"}
        options = {"terminate_at_goal": False, "max_episode_steps": EPISODE_STEPS + 1, **mode}
    with quiet_imports():
        import ogbench  # noqa: F401 - registers the environments

        env: Any = gymnasium.make(task.eval_id if evaluation else f"{task.env}-v0", disable_env_checker=True, **options)
    # The robot's action space is made anew for each use, from float64 bounds.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting to float32")
    if task.behaviour == "navigate":
        # Mazes leave their model's file behind in the temporary directory.
        Path(env.unwrapped.fullpath).unlink(missing_ok=True)
    return env


def simulate_episode(name: str, seed: int, episode: int, steps: int) -> dict[str, np.ndarray]:
    """One episode of a recipe's behaviour from its own seed.

    Returns:
        observations [steps + 1, d], actions [steps, a] float32, and by row, before its action, what rewards are computed
        from: qpos [steps, q] and, in puzzles, button_states [steps, buttons].
    """
    actor = _actor(name, "play")
    rows: dict[str, list[np.ndarray]] = {"observations": [], "actions": [], "qpos": [], "button_states": []}
    with _seeded(seed, episode, "play") as env_seed:
        rows["observations"].append(actor.start(env_seed))
        for _ in range(steps):
            action = np.clip(actor.act(), -1.0, 1.0).astype(np.float32)
            observation, _, _, _, info = _environment(name, False).step(action)
            actor.observe(observation, info)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["qpos"].append(info["prev_qpos"])
            if "prev_button_states" in info:
                rows["button_states"].append(info["prev_button_states"])
    return {key: np.stack(values) for key, values in rows.items() if values}


def simulate_reference(name: str, policy: str, seed: int, episode: int) -> tuple[float, bool]:
    """Return and success of one evaluation episode of the "random" policy or the noise-free "oracle"."""
    env, actor = _environment(name, True), _actor(name, policy)
    total, ended, info = 0.0, False, {}
    with _seeded(seed, episode, policy) as env_seed:
        actor.start(env_seed)
        # A reset plays a few actions of a generator that nobody seeds, and the solver remembers them.
        env.unwrapped.data.qacc_warmstart[:] = 0.0
        while not ended:
            action = np.clip(actor.act(), -1.0, 1.0).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            actor.observe(observation, info)
            total, ended = total + float(reward), terminated or truncated
    return total, bool(info["success"])


def run_shard(name: str, kind: str, seed: int, first: int, last: int, rows: int) -> dict[str, np.ndarray]:
    """One unit of parallel work, in whatever process.

    Args:
        name: of the recipe.
        kind: "play" for data, "random" or "oracle" for reference episodes.
        seed: of the dataset.
        first, last: episodes, `first <= i < last`.
        rows: of the whole dataset; cuts its last episode.
    """
    if kind != "play":
        returns, successes = zip(*(simulate_reference(name, kind, seed, i) for i in range(first, last)), strict=True)
        return {"returns": np.array(returns), "successes": np.array(successes)}
    episodes = [simulate_episode(name, seed, i, min(EPISODE_STEPS, rows - i * EPISODE_STEPS)) for i in range(first, last)]
    return {key: np.concatenate([episode[key] for episode in episodes]) for key in episodes[0]}


def versions() -> str:
    """The simulator's versions, for the record."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ogbench", "dm-control", "mujoco", "gymnasium"))


def episodes_of(shard: dict[str, np.ndarray], reward: np.ndarray, terminal: np.ndarray) -> list[dict[str, Any]]:
    """The episodes that `run_shard` joined, all of 1,000 steps but perhaps the last, with their rewards and terminations."""
    steps, episodes = len(shard["actions"]), []
    for number, first in enumerate(range(0, steps, EPISODE_STEPS)):
        last = min(first + EPISODE_STEPS, steps)
        truncated = np.zeros(last - first, bool)
        truncated[-1] = True
        episodes.append(
            {
                # Each episode before this one has an observation more than it has steps.
                "observations": shard["observations"][first + number : last + number + 1],
                "actions": shard["actions"][first:last],
                "rewards": reward[first:last].astype(np.float64),
                "terminations": terminal[first:last],
                "truncations": truncated & ~terminal[first:last],
            }
        )
    return episodes


def _actor(name: str, policy: str) -> _Actor:
    env = _environment(name, policy != "play")
    if policy == "random":
        return _Random(env)
    kind = _Walker if _TASKS[name].behaviour == "navigate" else _Planner
    return kind(env, wander=policy == "play")


def _draw(cells: list[tuple[int, int]]) -> tuple[int, int]:
    return cells[np.random.randint(len(cells))]  # noqa: NPY002


@contextlib.contextmanager
def _seeded(seed: int, episode: int, policy: str) -> Iterator[int]:
    """Seed numpy's global generator, from which OGBench and its oracles draw; gives the seed for the environment's own."""
    stream = np.random.SeedSequence([seed, episode, _STREAM[policy]]).generate_state(2)
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(stream[0]))  # noqa: NPY002
    try:
        yield int(stream[1] % 2**31)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _shards(name: str, seed: int, rows: int) -> list[Shard]:
    episodes = math.ceil(rows / EPISODE_STEPS)
    shards = []
    for first in range(0, episodes, EPISODES_PER_SHARD):
        last = min(first + EPISODES_PER_SHARD, episodes)
        made = min(last * EPISODE_STEPS, rows) - first * EPISODE_STEPS
        shards.append(Shard(f"play-{first:06d}", made, run_shard, (name, "play", seed, first, last, rows)))
    for kind in ("random", "oracle"):
        for first in range(0, REFERENCE_EPISODES, EPISODES_PER_SHARD):
            arguments = (name, kind, seed, first, first + EPISODES_PER_SHARD, rows)
            shards.append(Shard(f"{kind}-{first:06d}", 0, run_shard, arguments))
    return shards


def _assemble(name: str, seed: int, rows: int, shards: dict[str, dict[str, np.ndarray]]) -> Product:
    from ogbench.relabel_utils import relabel_dataset  # pyright: ignore[reportMissingImports]

    task = _TASKS[name]
    eval_env = make_env(name, evaluation=True)
    episodes = []
    for shard in (shards[key] for key in sorted(shards) if key.startswith("play")):
        labels = {key: shard[key] for key in ("qpos", "button_states") if key in shard}
        relabel_dataset(task.eval_id, eval_env, labels)
        episodes += episodes_of(shard, labels["rewards"], labels["masks"] == 0.0)
    measured = {
        (kind, key): float(np.mean(np.concatenate([shards[each][key] for each in shards if each.startswith(kind)])))
        for kind in ("random", "oracle")
        for key in ("returns", "successes")
    }
    at_goal = sum(int(episode["terminations"].sum()) for episode in episodes)
    mean_return = float(np.mean([episode["rewards"].sum() for episode in episodes]))
    source = (
        f"mean return of {REFERENCE_EPISODES} episodes of {task.eval_id}: 0 is uniformly random actions (success "
        f"{measured['random', 'successes']:.0%}), 100 is the noise-free scripted oracle, which knows the task (success "
        f"{measured['oracle', 'successes']:.0%}); seed {seed}, {versions()}"
    )
    description = (
        f"OGBench {task.env}, {rows} transitions of its scripted '{task.behaviour}' behaviour in episodes of {EPISODE_STEPS} "
        f"steps, which pursue random targets. Rewards and terminations are those of {task.eval_id}, by OGBench's own "
        f"relabelling of the state before the action; {at_goal} rows stand in the goal (terminal), and trajectories go on "
        f"behind them. Mean episode return {mean_return:.3g}. Seed {seed}, {versions()}."
    )
    return Product(
        episodes=episodes,
        env=make_env(name, evaluation=False),
        eval_env=eval_env,
        metadata={"algorithm_name": "OGBench scripted oracle", "mean_return": mean_return, "rows_in_goal": at_goal},
        reference=(measured["random", "returns"], measured["oracle", "returns"]),
        reference_source=source,
        description=description,
        requirements=["ogbench>=1.2,<1.3", "dm-control>=1.0.44,<1.0.45", "mujoco>=3.11,<3.12"],
    )


# Measured on 2,000 to 4,000 rows, puzzle taken to be as cube.
_MAZE, _ARM = Cost(2_000, 49), Cost(170, 271)
RECIPES = tuple(
    Recipe(
        name=task.name,
        summary=task.summary,
        rows=100_000,
        shards=functools.partial(_shards, task.name),
        assemble=functools.partial(_assemble, task.name),
        fingerprint=versions,
        extra="ogbench",
        cost=_MAZE if "pointmaze" in task.name else _ARM,
    )
    for task in TASKS
)
