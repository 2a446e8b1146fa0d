"""Pictures of the states that any simulator has computed, drawn by the original environment's renderer without a display."""

import os
import subprocess
import sys
from typing import Any

import numpy as np

from diffrl import records
from diffrl.envs import env_spec
from diffrl.envs.gymnasium_backend import make_env

NO_RENDERER = (
    "neither EGL nor OSMesa draws here; on Debian and Ubuntu install one: apt install libegl1 libgl1 libgl1-mesa-dri (EGL), "
    "or libosmesa6 libgl1 (OSMesa)"
)
# Environments of gymnasium whose view stays where the robot started; their models have a camera that follows it.
_LEFT_BEHIND = ("gymnasium.envs.mujoco.half_cheetah", "gymnasium.envs.mujoco.ant", "gymnasium.envs.mujoco.swimmer")
_PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"


def prepare_offscreen() -> bool:
    """Set MUJOCO_GL to the first of EGL and OSMesa that draws here; False where neither does.

    A MUJOCO_GL that is set already is left alone, and so are systems other than Linux, where MuJoCo needs no choice. Each is
    tried in a process of its own: one that failed could not be replaced in this one.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MUJOCO_GL"):
        return True
    for name in ("egl", "osmesa"):
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": name},
            capture_output=True,
            timeout=120,
            check=False,
            close_fds=False,  # then Python spawns instead of forking, which JAX warns of
        )
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return True
    return False


def drawing(env_spec_json: str) -> str:
    """The same EnvSpec, for an environment that draws, and whose view follows the robot."""
    spec = env_spec.read(env_spec_json)
    view = {"camera_name": "track"} if str(spec.get("entry_point")).startswith(_LEFT_BEHIND) else {}
    return records.foreign_text({**spec, "kwargs": {**view, **(spec.get("kwargs") or {}), "render_mode": "rgb_array"}})


class Camera:
    """Draws states of a MuJoCo environment by setting the original environment to them."""

    def __init__(self, env_spec_json: str) -> None:
        """Make the original environment.

        Raises:
            BackendError: it cannot be made.
        """
        self._env = make_env(drawing(env_spec_json))
        self._env.reset(seed=0)

    def frame(self, qpos: Any, qvel: Any, goal: Any = None) -> np.ndarray:
        """RGB `[height, width, 3]` of coordinates and velocities; `goal` (m) is that of a maze, which may have it fixed."""
        env = self._env.unwrapped
        body = getattr(env, "point_env", env)
        if body is not env:
            env.goal = np.asarray(goal, np.float64)
            env.update_target_site_pos()
        body.set_state(np.asarray(qpos, np.float64), np.asarray(qvel, np.float64))
        return np.asarray(self._env.render())

    def close(self) -> None:
        self._env.close()
