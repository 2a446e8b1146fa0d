"""OGBench's tasks in numbers (Park et al. 2025, arXiv 2410.20092): what success is in them, and their EnvSpecs by name.

Each environment has five tasks. A task asks for some objects in some places, and observations hold the objects' places, so
success and reward are a function of an observation and a goal. Imports no simulator.
"""

import functools
import re
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffrl import records
from diffrl.envs import env_spec

NUM_TASKS = 5
Reward = Literal["dense", "sparse"]
# 1.2 computes reward and success of a single task from the state before the action, as the rows' are; 1.1 from the one after.
Version = Literal["1.2", "1.1"]
_TIMING = {"1.2": "pre", "1.1": "post"}

_CUBES = {"single": 1, "double": 2, "triple": 3, "quadruple": 4, "octuple": 8}
_NAME = re.compile(
    rf"(?:^|[/_])((?:point|ant|humanoid)maze-(?:medium|large|giant|teleport)|cube-(?:{'|'.join(_CUBES)})|scene|puzzle-4x[456]"
    r"|puzzle-3x3)-"
)
# Of observations: metres from the arm's centre times ten, and the other scales (ogbench.relabel_utils).
_CENTRE, _SCALE, _DRAWER, _WINDOW = np.array([0.425, 0.0, 0.0]), 10.0, 18.0, 15.0
_ARM = 19  # numbers of an observation before those of objects
_WRAPPERS = "diffrl.envs.ogbench.wrappers"


class Part(NamedTuple):
    """An object that a task asks for.

    Attributes:
        columns: of an observation, that say where the object is.
        tolerance: largest distance, in the units of these columns, at which it counts as in its place.
    """

    columns: tuple[int, ...]
    tolerance: float


def name_in(text: str) -> str | None:
    """The environment that a file's or an environment's name begins with, such as "cube-single"; None for none of OGBench's."""
    found = _NAME.search(text)
    return found and found[1]


def default_task(name: str) -> int:
    """The task that papers tune on and report first."""
    if name.split("-")[0].endswith("maze"):
        return 1
    return 4 if name in ("puzzle-3x3", "puzzle-4x4") else 2


def parts(name: str) -> tuple[Part, ...]:
    """The objects of an environment, in the order of OGBench's goal representations."""
    family, _, kind = name.partition("-")
    if family.endswith("maze"):
        return (Part((0, 1), 1.0 if family == "pointmaze" else 0.5),)
    if family == "puzzle":
        rows, columns = map(int, kind.split("x"))
        return tuple(_button(_ARM + 4 * i) for i in range(rows * columns))
    cubes = tuple(Part(tuple(range(_ARM + 9 * i, _ARM + 9 * i + 3)), 0.04 * _SCALE) for i in range(_CUBES.get(kind, 1)))
    if family == "cube":
        return cubes
    return (*cubes, _button(28), _button(32), Part((36,), 0.04 * _DRAWER), Part((38,), 0.04 * _WINDOW))


def _button(first: int) -> Part:
    # A one-hot state of two, of which the second is 1 where the button is in state 1.
    return Part((first + 1,), 0.5)


@functools.cache
def goal(name: str, number: int) -> Float[np.ndarray, " goal"]:
    """Where a task wants the objects of `parts`, in the units of observations, all columns one after another.

    Raises:
        ImportError: ogbench is not installed.
    """
    import gymnasium

    from diffrl.envs.quiet import quiet_imports

    with quiet_imports():
        import ogbench  # noqa: F401  # pyright: ignore[reportMissingImports] - registers the environments

        env = gymnasium.make(f"{name}-singletask-task{number}-v0", disable_env_checker=True)
    task: dict[str, Any] = env.unwrapped.task_infos[number - 1]  # pyright: ignore[reportAttributeAccessIssue]
    env.close()
    if "goal_xy" in task:
        return np.array(task["goal_xy"], np.float64)
    if "goal_button_states" in task:
        return np.array(task["goal_button_states"], np.float64)
    wanted = task.get("goal", {})
    cubes = (np.asarray(task["goal_xyzs"] if "goal_xyzs" in task else wanted["block_xyzs"]) - _CENTRE) * _SCALE
    if not wanted:
        return cubes.ravel()
    rest = [*wanted["button_states"], wanted["drawer_pos"] * _DRAWER, wanted["window_pos"] * _WINDOW]
    return np.concatenate([cubes.ravel(), rest])


def columns(name: str) -> list[int]:
    """The columns of an observation that goals are about."""
    return [column for part in parts(name) for column in part.columns]


def in_place(
    name: str, observation: Float[np.ndarray, "rows observation"], goal: Float[np.ndarray, "*each goal"]
) -> Bool[np.ndarray, "rows objects"]:
    """Which objects are where the goal wants them, row by row; success is all of them.

    Args:
        name: of the environment.
        observation: of the rows.
        goal: as `goal` gives it; one for each row `[rows, goal]`, or one for all `[goal]`.
    """
    off = observation[:, columns(name)].astype(np.float64) - goal
    found, first = [], 0
    for part in parts(name):
        width = len(part.columns)
        found.append(np.linalg.norm(off[:, first : first + width], axis=1) <= part.tolerance)
        first += width
    return np.stack(found, axis=1)


def spec_of(name: str, number: int | None, reward: Reward = "dense", version: Version = "1.2") -> str:
    """EnvSpec as JSON of a single task, or of all five with their goals in the observation where `number` is None.

    Args:
        name: of the environment.
        number: of the task.
        reward: of the environment of a single task; "sparse" is -1 until all objects are in place.
        version: of OGBench, whose moment of looking the environment of a single task has.

    Raises:
        ImportError: ogbench is not installed.
    """
    import gymnasium

    from diffrl.envs.quiet import quiet_imports

    with quiet_imports():
        import ogbench  # noqa: F401  # pyright: ignore[reportMissingImports] - registers the environments
    spec = env_spec.read(gymnasium.spec(f"{name}-v0" if number is None else f"{name}-singletask-task{number}-v0").to_json())
    wrapper = "GoalObservation" if number is None else "SparseReward" if reward == "sparse" else ""
    if wrapper:
        spec["additional_wrappers"] = [{"name": wrapper, "entry_point": f"{_WRAPPERS}:{wrapper}", "kwargs": {}}]
    if number is not None:
        spec["kwargs"] = {**spec["kwargs"], "success_timing": _TIMING[version]}
    return records.foreign_text(spec)


def scored_by_success(env_spec_json: str) -> bool:
    """Whether an EnvSpec is of one of OGBench's single tasks, or of its five tasks with their goals."""
    spec = env_spec.read(env_spec_json)
    goals = any(wrapper["name"] == "GoalObservation" for wrapper in env_spec.wrappers(spec))
    return str(spec.get("entry_point", "")).startswith("ogbench.") and (goals or "-singletask" in str(spec.get("id", "")))
