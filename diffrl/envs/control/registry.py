"""The control tasks by name, and the EnvSpecs of gymnasium that stand for them. Adding a task is adding it here."""

import dataclasses
from typing import Any

from diffrl.envs import env_spec
from diffrl.envs.control.base import ControlTask
from diffrl.envs.control.cart_pole import CartPoleSwingUp
from diffrl.envs.control.corridor import Corridor
from diffrl.envs.control.hole import HoleIntegrator
from diffrl.envs.control.pendulum import PendulumKeypoints
from diffrl.envs.control.pixels import PixelIntegrator
from diffrl.envs.control.pusher import KeypointPusher

TASKS: dict[str, type[ControlTask]] = {
    task.__name__: task
    for task in (HoleIntegrator, CartPoleSwingUp, PendulumKeypoints, Corridor, PixelIntegrator, KeypointPusher)
}
PREFIX = "diffrl/"  # of the names of environments
ENTRY_POINT = "diffrl.envs.control.gym:ControlEnv"


def make(task: str, **fields: Any) -> ControlTask:
    """A task with some fields other than its defaults; lists, as JSON has them, become tuples.

    Raises:
        ValueError: no task has this name.
        TypeError: it has no such field.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task](**{name: _tuples(value) for name, value in fields.items()})


def describe(task: ControlTask) -> dict[str, Any]:
    """Arguments of gymnasium's EnvSpec: all that it takes to make the task again."""
    name = type(task).__name__
    return {
        "id": f"{PREFIX}{name}-v0",
        "entry_point": ENTRY_POINT,
        "kwargs": {"task": name, **dataclasses.asdict(task)},  # pyright: ignore[reportArgumentType]
        "max_episode_steps": task.max_episode_steps,
    }


def env_spec_of(env_id: str) -> str:
    """EnvSpec as JSON of a task as it is by default, e.g. "diffrl/CartPoleSwingUp-v0".

    Raises:
        ValueError: no task has this name, or gymnasium is not installed.
    """
    task = make(env_id.removeprefix(PREFIX).removesuffix("-v0"))
    try:
        from gymnasium.envs.registration import EnvSpec
    except ImportError:
        raise ValueError("gymnasium is not installed: pip install 'diffrl[envs]'") from None
    return EnvSpec(**describe(task)).to_json()


def from_env_spec(env_spec_json: str) -> ControlTask | None:
    """The task that a gymnasium EnvSpec describes, or None where it describes something else, or one changed by wrappers."""
    spec = env_spec.read(env_spec_json)
    wrappers = {wrapper["name"] for wrapper in env_spec.wrappers(spec)}
    if spec.get("entry_point") != ENTRY_POINT or not wrappers <= env_spec.HARMLESS_WRAPPERS:
        return None
    try:
        task = make(**(spec.get("kwargs") or {}))
    except (TypeError, ValueError):
        return None
    # The last step pays more than the others, so another time limit would be another task.
    return task if task.max_episode_steps == spec.get("max_episode_steps") else None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
