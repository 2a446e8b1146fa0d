"""Tasks of the DeepMind Control Suite as environments of gymnasium."""

from typing import Any

import gymnasium
import numpy as np

from diffrl.envs.dmc import registry

_PIXELS = 480  # height and width of a frame, those of gymnasium's robots


class DmcEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task, its observations' entries flattened and joined in dm_control's order.

    The time limit is the EnvSpec's; only a discount of 0, which hardly a task has, terminates. A start is the one that
    dm_control gives for `random=seed`.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, domain: str, task: str, render_mode: str | None = None) -> None:
        """Load the task.

        Args:
            domain, task: dm_control's names, e.g. "walker", "walk".
            render_mode: None, or "rgb_array" for frames of `render`.

        Raises:
            ImportError: dm_control is not installed.
            ValueError: the suite has no such task.
        """
        # Some models are drawn at random too: a fixed one makes all copies the same. The limit would end longer episodes.
        self._env: Any = registry.suite().load(domain, task, task_kwargs={"random": 0, "time_limit": float("inf")})
        self.render_mode, self._seeded = render_mode, False
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self._env.control_timestep())}
        bounds, size = self._env.action_spec(), _flat(self._env.reset().observation).size
        low, high = (np.broadcast_to(bound, bounds.shape).astype(np.float32) for bound in (bounds.minimum, bounds.maximum))
        self.action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,))

    @property
    def physics(self) -> Any:
        """dm_control's simulator of this copy."""
        return self._env.physics

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; no options."""
        super().reset(seed=seed, options=options)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**32))
        if seed is not None:
            self._env.task.random.seed(seed % 2**32)
            self._seeded = True
        return _flat(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step, several of physics."""
        result = self._env.step(np.asarray(action, np.float64))
        return _flat(result.observation), float(result.reward), result.discount == 0.0, False, {}

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Move the simulator to coordinates and velocities, as gymnasium's robots can be."""
        with self.physics.reset_context():
            self.physics.data.qpos[:], self.physics.data.qvel[:] = qpos, qvel

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """RGB `[height, width, 3]` from the model's first camera; None without a render mode."""
        return self.physics.render(_PIXELS, _PIXELS, camera_id=0) if self.render_mode else None

    def close(self) -> None:
        self._env.close()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(entry) for entry in observation.values()]).astype(np.float32)
