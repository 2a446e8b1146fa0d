"""Action repeat (Mnih et al. 2015): every chosen action is carried out for several steps, whose rewards are summed.

A wrapper for either kind of environment. Where an episode ends within the repeats, what follows is not counted.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments, Step
from diffrl.types import Key


class RepeatError(ValueError):
    """An environment's time limit is no multiple of the repeats."""


def decisions(max_episode_steps: int, times: int) -> int:
    """How many actions are chosen in an episode of so many steps.

    Raises:
        RepeatError: the last would be cut.
    """
    if max_episode_steps % times:
        raise RepeatError(f"episodes have {max_episode_steps:,} steps, which {times} does not divide: choose a divisor")
    return max_episode_steps // times


@dataclasses.dataclass(frozen=True)
class RepeatedDevice:
    """`DeviceEnvironment` whose step is `times` steps of another."""

    env: DeviceEnvironment
    times: int

    @property
    def max_episode_steps(self) -> int:
        return decisions(self.env.max_episode_steps, self.times)

    @property
    def action_low(self) -> Any:
        return self.env.action_low

    @property
    def action_high(self) -> Any:
        return self.env.action_high

    @property
    def num_actions(self) -> int:
        return self.env.num_actions

    def reset(self, key: Key) -> tuple[Any, Float[Array, " observation"]]:
        """As the environment's."""
        return self.env.reset(key)

    def step(self, state: Any, action: Num[Array, "*action"]) -> tuple[Any, Step]:
        """The last step's observation, the sum of the rewards; an episode that ended stands still."""

        def again(before: tuple[Any, Step], _: None) -> tuple[tuple[Any, Step], None]:
            ended = before[1].terminated
            after = _flagged(*self.env.step(before[0], action))
            after = after[0], _joined(before[1], after[1])
            return jax.tree.map(lambda old, new: jnp.where(ended, old, new), before, after), None

        first = _flagged(*self.env.step(state, action))
        return jax.lax.scan(again, first, None, length=self.times - 1)[0]


class RepeatedHost:
    """`HostEnvironments` whose step is `times` steps of others; all else is theirs."""

    def __init__(self, envs: HostEnvironments, times: int) -> None:
        self.envs, self.times, self.num_envs = envs, times, envs.num_envs
        self.action_low, self.action_high, self.num_actions = envs.action_low, envs.action_high, envs.num_actions
        self.max_episode_steps = decisions(envs.max_episode_steps, times)

    def reset(self, seeds: list[int]) -> np.ndarray:
        """As the environments'."""
        return self.envs.reset(seeds)

    def reset_some(self, which: np.ndarray, seeds: list[int]) -> np.ndarray:
        """As the environments'."""
        return self.envs.reset_some(which, seeds)

    def step(self, action: np.ndarray) -> Step:
        """The last step's observation `[B, O]`, the sum of the rewards `[B]`; an episode that ended stands still."""
        total = self.envs.step(action)
        for _ in range(self.times - 1):
            ended, after = total.terminated, _joined(total, self.envs.step(action))
            total = Step(*(np.where(ended.reshape(-1, *[1] * (np.ndim(x) - 1)), x, y) for x, y in zip(total, after, strict=True)))
        return total

    def close(self) -> None:
        self.envs.close()


def _flagged(state: Any, step: Step) -> tuple[Any, Step]:
    """`truncated` is a plain False in an environment that never is; a scan carries arrays."""
    return state, step._replace(truncated=jnp.asarray(step.truncated, bool))


def _joined(first: Step, second: Step) -> Step:
    return second._replace(reward=first.reward + second.reward, success=first.success | second.success)
