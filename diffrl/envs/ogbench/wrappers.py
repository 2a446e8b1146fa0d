"""What OGBench's environments are wrapped in: a goal that policies see, and the reward that some papers train on."""

from typing import Any

import gymnasium
import numpy as np


class SparseReward(gymnasium.RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    """-1 until all objects are in place, and 0 then, as in Li et al. 2025 (Q-chunking, arXiv 2507.07969)."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reward(self, reward: Any) -> float:
        """The reward of a single task, which counts what is not in place from 0 down."""
        return 0.0 if float(reward) == 0.0 else -1.0


class GoalObservation(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """The observation beside that of the goal, which OGBench's goal-conditioned environments hand out at a reset."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gymnasium.spaces.Dict({"observation": space, "desired_goal": space})

    def reset(self, **options: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins an episode of one of the five tasks."""
        observation, info = self.env.reset(**options)
        self.goal = info["goal"]
        return {"observation": observation, "desired_goal": self.goal}, info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, Any, Any, dict[str, Any]]:
        """One step towards the same goal."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return {"observation": observation, "desired_goal": self.goal}, reward, terminated, truncated, info
