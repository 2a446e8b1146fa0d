"""Block push by name: the EnvSpec of gymnasium that stands for it."""

from typing import Any

from diffrl.envs.blockpush.tasks import MAX_EPISODE_STEPS

PREFIX = "blockpush/"  # of the names of environments
ENV_ID = f"{PREFIX}multimodal-fixed-target-v0"


def describe() -> dict[str, Any]:
    """Arguments of gymnasium's EnvSpec."""
    return {
        "id": ENV_ID,
        "entry_point": "diffrl.envs.blockpush.gym:BlockPushEnv",
        "max_episode_steps": MAX_EPISODE_STEPS,
        "disable_env_checker": True,
    }


def env_spec_of(env_id: str) -> str:
    """EnvSpec as JSON.

    Raises:
        ValueError: no task has this name, or gymnasium is not installed.
    """
    if env_id != ENV_ID:
        raise ValueError(f"env_id {env_id!r} is no block push that there is: {ENV_ID}")
    try:
        from gymnasium.envs.registration import EnvSpec
    except ImportError:
        raise ValueError(f"env_id {env_id!r} needs gymnasium, which is not installed: pip install 'diffrl[envs]'") from None
    return EnvSpec(**describe()).to_json()
