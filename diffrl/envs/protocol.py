"""What evaluator and online trainer ask of an environment: a batch of episodes, stepped on the host or inside the program."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jax import Array

from diffrl.types import Key


class Step(NamedTuple):
    """Result of one step of `B` environments (numpy on the host, jax arrays on the device).

    `success` is the task's own notion of having reached the goal in this step; all False where it has none.
    """

    observation: Any  # [B, O] float32
    reward: Any  # [B] float32
    terminated: Any  # [B] bool: the episode ended before its time limit
    success: Any  # [B] bool
    truncated: Any = False  # [B] bool: it ended, but the task would have gone on: by the time limit, or by another cut


@runtime_checkable
class HostEnvironments(Protocol):
    """`B` environments of a host simulator, stepped together. A finished one may be stepped on; its results are ignored."""

    num_envs: int
    max_episode_steps: int
    action_low: Any  # [A] bounds of actions: float32, or a tuple of floats; A zeros and ones where they are discrete
    action_high: Any
    num_actions: int  # 0 for actions in a box; A where they are discrete

    def reset(self, seeds: list[int]) -> np.ndarray:
        """Start one episode per seed; returns observations `[B, O]` float32."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Apply actions `[B, A]`, in the environment's units; of discrete ones the numbers `[B]`, counted from 0."""
        ...

    def close(self) -> None: ...

    def reset_some(self, which: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Start new episodes where `which` `[B]` says so, one per seed in order; returns observations `[some, O]`."""
        ...


@runtime_checkable
class DeviceEnvironment(Protocol):
    """One environment as pure functions; the evaluator maps them over runs and episodes inside one compiled program."""

    @property
    def max_episode_steps(self) -> int: ...

    @property
    def action_low(self) -> Any:
        """`[A]` lower bounds of actions: float32, or a tuple of floats; zeros where they are discrete."""
        ...

    @property
    def action_high(self) -> Any:
        """`[A]` upper bounds; ones where they are discrete."""
        ...

    @property
    def num_actions(self) -> int:
        """0 for actions in a box; A where they are discrete, and `step` takes their number, counted from 0."""
        ...

    def reset(self, key: Key) -> tuple[Any, Array]:
        """Returns (state, observation `[O]`)."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, Step]:
        """Returns (state, Step without the batch axis)."""
        ...
