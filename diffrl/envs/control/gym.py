"""The control tasks as environments of gymnasium, for Minari and for other libraries. Importing this registers them.

`gymnasium.make("diffrl.envs.control.gym:diffrl/CartPoleSwingUp-v0", plant="code")` makes one.
"""

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec

from diffrl.envs.control import registry
from diffrl.envs.control.base import ControlTask, State


class ControlEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One control task, stepped by compiled functions. `info` says whether the step was a success."""

    def __init__(self, task: str, **fields: Any) -> None:
        """Make the environment.

        Args:
            task, fields: as for `registry.make`.
        """
        self.task = registry.make(task, **fields)
        low, high = (np.array(bound, np.float32) for bound in (self.task.action_low, self.task.action_high))
        self.action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.task.observation_dim,))
        self._reset, self._step = jax.jit(self.task.reset), jax.jit(self.task.step)
        self._state: State | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; no options."""
        super().reset(seed=seed, options=options)
        self._state, observation = self._reset(jax.random.key(int(self.np_random.integers(2**31))))
        return np.asarray(observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the time limit is the wrapper's."""
        self._state, result = self._step(self._state, np.asarray(action, np.float32))
        info = {"success": bool(result.success)}
        return np.asarray(result.observation), float(result.reward), bool(result.terminated), False, info


def spec_of(task: ControlTask) -> EnvSpec:
    """The EnvSpec that `gymnasium.make` and `registry.from_env_spec` take."""
    return EnvSpec(**registry.describe(task), disable_env_checker=True)


for _task in registry.TASKS.values():
    _spec = spec_of(_task())
    gymnasium.register(
        _spec.id, _spec.entry_point, max_episode_steps=_spec.max_episode_steps, disable_env_checker=True, kwargs=_spec.kwargs
    )
