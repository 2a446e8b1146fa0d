"""D4RL's maze2d tasks by name: the EnvSpecs of gymnasium that stand for them, and the same tasks in JAX."""

from typing import Any

from diffrl.envs import env_spec
from diffrl.envs.maze2d.tasks import CENTRE, MAZES, REWARDS, START_NOISE, START_SPEED, SUCCESS_RADIUS, Maze
from diffrl.envs.pointmaze import PointMaze, Rules

PREFIX = "maze2d-"  # of the names of environments
_ENDINGS = {"sparse": "-v1", "dense": "-dense-v1"}
ENV_IDS = {f"{PREFIX}{maze}{_ENDINGS[reward]}": (maze, reward) for reward in REWARDS for maze in MAZES}
_MARGIN = 0.002  # m, that MuJoCo made of two geoms of 2 mm when the data were recorded


def describe(env_id: str) -> dict[str, Any]:
    """Arguments of gymnasium's EnvSpec.

    Raises:
        ValueError: no task has this name.
    """
    if env_id not in ENV_IDS:
        raise ValueError(f"env_id {env_id!r} is none of D4RL's maze2d tasks that there are: {', '.join(ENV_IDS)}")
    maze, reward_type = ENV_IDS[env_id]
    return {
        "id": env_id,
        "entry_point": "diffrl.envs.maze2d.gym:Maze2dEnv",
        "kwargs": {"maze": maze, "reward_type": reward_type},
        "max_episode_steps": MAZES[maze].max_episode_steps,
        "disable_env_checker": True,
    }


def env_spec_of(env_id: str) -> str:
    """EnvSpec as JSON of a task, e.g. "maze2d-umaze-v1" or "maze2d-large-dense-v1".

    Raises:
        ValueError: no task has this name, or gymnasium is not installed.
    """
    fields = describe(env_id)
    try:
        from gymnasium.envs.registration import EnvSpec
    except ImportError:
        raise ValueError(f"env_id {env_id!r} needs gymnasium, which is not installed: pip install 'diffrl[envs]'") from None
    return EnvSpec(**fields).to_json()


def from_env_spec(env_spec_json: str) -> PointMaze | None:
    """The task in JAX that a gymnasium EnvSpec describes, or None where it describes another, or one changed by wrappers."""
    spec = env_spec.read(env_spec_json)
    wrappers = {wrapper["name"] for wrapper in env_spec.wrappers(spec)}
    kwargs = dict(spec.get("kwargs") or {})
    kwargs.pop("render_mode", None)
    env_id, limit = spec.get("id"), spec.get("max_episode_steps")
    if env_id not in ENV_IDS or not limit or not wrappers <= env_spec.HARMLESS_WRAPPERS:
        return None
    known = describe(env_id)
    if (spec.get("entry_point"), kwargs) != (known["entry_point"], known["kwargs"]):
        return None
    maze, reward_type = ENV_IDS[env_id]
    return in_jax(MAZES[maze], reward_type, int(limit))


def in_jax(maze: Maze, reward_type: str, max_episode_steps: int) -> PointMaze:
    """The task of `gym.Maze2dEnv` as pure functions."""
    cells = {"#": 1, "O": "r", "G": "c"}
    width, height = len(maze.rows), len(maze.rows[0])
    return PointMaze(
        # Row 0 of a map is the largest y, and its columns run along x: D4RL's rows, from the back of each.
        maze_map=tuple(tuple(cells[row[h]] for row in maze.rows) for h in reversed(range(height))),
        max_episode_steps=max_episode_steps,
        reward_type=reward_type,
        observation_keys=("observation",),
        rules=Rules(
            margin=_MARGIN,
            success_radius=SUCCESS_RADIUS,
            goal_noise=0.0,
            start_noise=START_NOISE,
            start_speed=START_SPEED,
            min_start_distance=-1.0,
            off_centre=-CENTRE,
            origin=(width / 2 - 0.5 + CENTRE, height / 2 - 0.5 + CENTRE),
        ),
    )
