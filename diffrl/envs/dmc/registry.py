"""Tasks of the DeepMind Control Suite by name, and the EnvSpecs of gymnasium that stand for them."""

import difflib
from typing import Any

from diffrl.envs import env_spec
from diffrl.envs.quiet import quiet_imports

PREFIX, VERSION = "dmc/", "-v0"
ENTRY_POINT = "diffrl.envs.dmc.gym:DmcEnv"
MAX_EPISODE_STEPS = 1000  # control steps, in every task of the benchmark


def suite() -> Any:
    """`dm_control.suite`, imported without what it says of a missing display.

    Raises:
        ImportError: dm_control is not installed.
    """
    with quiet_imports():
        from dm_control import suite
    return suite


def describe(domain: str, task: str) -> dict[str, Any]:
    """Arguments of gymnasium's EnvSpec: all that it takes to make the task again."""
    return {
        "id": f"{PREFIX}{domain}-{task}{VERSION}",
        "entry_point": ENTRY_POINT,
        "kwargs": {"domain": domain, "task": task},
        "max_episode_steps": MAX_EPISODE_STEPS,
    }


def env_spec_of(env_id: str) -> str:
    """EnvSpec of a task as JSON.

    Args:
        env_id: "dmc/walker-walk-v0" or "dmc/walker-walk"; a domain's own name may have underscores ("dmc/ball_in_cup-catch").

    Raises:
        ValueError: dm_control or gymnasium is not installed, or the suite has no such task.
    """
    try:
        from gymnasium.envs.registration import EnvSpec

        tasks = {f"{domain}-{task}": (domain, task) for domain, task in suite().ALL_TASKS}
    except ImportError as error:
        raise ValueError(f"env_id {env_id!r} needs {error.name}, which is not installed: pip install 'diffrl[dmc]'") from None
    name = env_id.removeprefix(PREFIX).removesuffix(VERSION)
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, n=4, cutoff=0.5) or list(tasks)
        raise ValueError(
            f"env_id {env_id!r} is no task of the DeepMind Control Suite; there are {', '.join(PREFIX + task for task in near)}"
        )
    return EnvSpec(**describe(*tasks[name]), disable_env_checker=True).to_json()


def from_env_spec(env_spec_json: str) -> tuple[str, str] | None:
    """(domain, task) that a gymnasium EnvSpec describes, or None where it describes something else.

    None too for one changed by wrappers or without a time limit.
    """
    spec = env_spec.read(env_spec_json)
    kwargs, wrappers = dict(spec.get("kwargs") or {}), {wrapper["name"] for wrapper in env_spec.wrappers(spec)}
    if spec.get("entry_point") != ENTRY_POINT or not wrappers <= env_spec.HARMLESS_WRAPPERS:
        return None
    kwargs.pop("render_mode", None)
    if set(kwargs) != {"domain", "task"} or not spec.get("max_episode_steps"):
        return None
    return str(kwargs["domain"]), str(kwargs["task"])
