"""D4RL's maze2d tasks as environments of gymnasium, stepped by MuJoCo."""

from typing import Any

import gymnasium
import numpy as np

from diffrl.envs.maze2d.simulator import Simulator
from diffrl.envs.maze2d.tasks import MAZES, REWARDS, START_NOISE, START_SPEED, SUCCESS_RADIUS


class Maze2dEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One maze with its goal, which is not observed: x, y (m), vx, vy (m/s) are. It never terminates."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, maze: str, reward_type: str = "sparse", render_mode: str | None = None) -> None:
        """Make the simulator.

        Args:
            maze: a key of `tasks.MAZES`.
            reward_type: "sparse": 1 on every step that ends within 0.5 m of the goal; "dense": exp(-distance in m).
            render_mode: None, or "rgb_array" for frames of `render`.

        Raises:
            ValueError: there is no such maze or reward.
        """
        if maze not in MAZES or reward_type not in REWARDS:
            raise ValueError(f"maze is one of {', '.join(MAZES)} and reward_type of {', '.join(REWARDS)}")
        self.maze, self.reward_type, self.render_mode = MAZES[maze], reward_type, render_mode
        self.simulator = Simulator(self.maze)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode around any free cell, the goal's too; no options."""
        super().reset(seed=seed, options=options)
        cell = self.maze.free[int(self.np_random.integers(len(self.maze.free)))]
        position = cell + self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        return self.set_state(position, START_SPEED * self.np_random.standard_normal(2)), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the time limit is the wrapper's."""
        ax, ay = np.clip(np.asarray(action, np.float64), -1.0, 1.0).tolist()
        state = np.array(self.simulator.step(ax, ay))
        distance = float(self.maze.distance(state[:2]))
        success = distance <= SUCCESS_RADIUS
        reward = float(success) if self.reward_type == "sparse" else float(np.exp(-distance))
        return state.astype(np.float32), reward, False, False, {"success": success}

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Move the point to a position and a velocity, as gymnasium's robots can be; returns what it observes there."""
        self.simulator.place(*np.asarray(qpos, np.float64).tolist(), *np.asarray(qvel, np.float64).tolist())
        return np.concatenate([qpos, qvel]).astype(np.float32)

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """RGB `[height, width, 3]` from above; None without a render mode."""
        return self.simulator.frame() if self.render_mode else None

    def close(self) -> None:
        self.simulator.close()
