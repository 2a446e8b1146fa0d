"""Multimodal block push as an environment of gymnasium, stepped by PyBullet."""

from typing import Any

import gymnasium
import numpy as np

from diffrl.envs.blockpush.simulator import Simulator
from diffrl.envs.blockpush.tasks import (
    BLOCKS,
    CONTROL_HZ,
    MAX_ACTION,
    TARGETS,
    TOLERANCE,
    Entries,
    draw_blocks,
    draw_targets,
)


class BlockPushEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """`tasks.PARTS` are observed; an action moves the effector's target by metres. It terminates when both blocks are in.

    `info` has "success", whether both are in different targets, and "completed", which targets were entered: 2 * block + target,
    in order.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(CONTROL_HZ)}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, tolerance: float = TOLERANCE, render_mode: str | None = None) -> None:
        """Make the simulator.

        Args:
            tolerance: distance (m) between a block and a target that it is in.
            render_mode: None, or "rgb_array" for frames of `render`.

        Raises:
            ImportError: PyBullet is not installed.
        """
        self.tolerance, self.render_mode = tolerance, render_mode
        self.simulator = Simulator(visible=render_mode is not None)
        self.action_space = gymnasium.spaces.Box(-MAX_ACTION, MAX_ACTION, (2,))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (16,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; no options."""
        super().reset(seed=seed, options=options)
        self.entries = Entries(self.tolerance)
        observation = self.simulator.reset(draw_blocks(self.np_random), draw_targets(self.np_random))
        return observation.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the time limit is the wrapper's."""
        observation = self.simulator.step(np.clip(np.asarray(action, np.float64), -MAX_ACTION, MAX_ACTION))
        reward, over, success = self.entries.step(observation[BLOCKS], observation[TARGETS])
        info = {"success": success, "completed": tuple(self.entries.order)}
        return observation.astype(np.float32), reward, over, False, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """RGB `[height, width, 3]` from across the table; None without a render mode."""
        return self.simulator.frame() if self.render_mode else None

    def close(self) -> None:
        self.simulator.close()
