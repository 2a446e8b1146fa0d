"""What the control tasks of score-guided planning have in common: plain functions for planners, episodes for evaluators.

The tasks are those of Suh et al. 2023 (arXiv 2306.14079) and of its released code (github.com/hjsuh94/score_po, `examples/`).
Data fill a region of the observations; a planner that trusts a learned model leaves it, and is wrong there.
"""

import abc
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from diffrl.envs.protocol import Step
from diffrl.types import Key

# Of the actions tried in one step of an episode of data, one that stays in the region is taken.
_CANDIDATES = 8


class State(NamedTuple):
    """`physical`: the simulator's own coordinates; `time`: steps taken; `inside`: all observations so far lay in the region."""

    physical: Float[Array, " physical"]
    time: Int[Array, ""]
    inside: Bool[Array, ""]


class Episodes(NamedTuple):
    """Offline episodes: the first `length` actions of each are data, and so is one observation more; the rest is padding."""

    observation: Float[Array, "n steps_and_one observation"]
    action: Float[Array, "n steps action"]
    length: Int[Array, " n"]


class ControlTask(abc.ABC):
    """A `DeviceEnvironment` whose model and cost are open to planners. Subclasses are frozen dataclasses.

    `dynamics`, `cost`, `final_cost`, `inside` and `reached` are functions of single observations and actions in their units,
    to be mapped with `jax.vmap`. `dynamics` does not clip actions, `step` does. An episode's return is minus the objective
    of trajectory optimisation: every step pays `cost`, and the last one of `max_episode_steps` pays `final_cost` of where it
    ends as well. `success` is to have reached the goal without having left the region of the data before.

    Attributes:
        observation_dim, action_dim: lengths.
        action_low, action_high: `[action_dim]` bounds, those of the data.
        max_episode_steps: horizon of the task.
        filters_next: whether transitions that leave the region are missing from the data; where not, they are the last.
        data_steps: length of an uncut episode of `episodes`.
    """

    observation_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_episode_steps: int
    num_actions = 0
    filters_next: bool = False
    data_steps: int = 20

    @abc.abstractmethod
    def start(self, key: Key) -> Float[Array, " physical"]:
        """Physical state in which an episode of the task starts."""

    @abc.abstractmethod
    def propose(self, key: Key) -> tuple[Float[Array, " physical"], Float[Array, " action"]]:
        """A physical state and an action of the data's distribution, before those outside the region are rejected."""

    @abc.abstractmethod
    def advance(self, physical: Float[Array, " physical"], u: Float[Array, " action"]) -> Float[Array, " physical"]:
        """One step of the true system."""

    @abc.abstractmethod
    def cost(self, x: Float[Array, " observation"], u: Float[Array, " action"]) -> Float[Array, ""]:
        """Running cost of applying `u` in `x`."""

    @abc.abstractmethod
    def final_cost(self, x: Float[Array, " observation"]) -> Float[Array, ""]:
        """Cost of the observation that the horizon ends in."""

    @abc.abstractmethod
    def reached(self, x: Float[Array, " observation"]) -> Bool[Array, ""]:
        """Whether `x` is at the goal."""

    def inside(self, x: Float[Array, " observation"]) -> Bool[Array, ""]:
        """Whether `x` lies in the region that the data fill."""
        return jnp.isfinite(x).all()

    @property
    def goal_observation(self) -> Float[Array, " observation"] | None:
        """The one observation to end in; None where many will do."""
        return None

    def observe(self, physical: Float[Array, " physical"]) -> Float[Array, " observation"]:
        """What is seen of a physical state."""
        return physical

    def estimate(self, x: Float[Array, " observation"]) -> Float[Array, " physical"]:
        """The inverse of `observe`; anything reasonable for what no state looks like."""
        return x

    def dynamics(self, x: Float[Array, " observation"], u: Float[Array, " action"]) -> Float[Array, " observation"]:
        """The observation that follows on `x` under the true system."""
        return self.observe(self.advance(self.estimate(x), u))

    def reset(self, key: Key) -> tuple[State, Float[Array, " observation"]]:
        """Start an episode."""
        physical = self.start(key)
        x = self.observe(physical)
        return State(physical, jnp.zeros((), jnp.int32), self.inside(x)), x

    def step(self, state: State, action: Float[Array, " action"]) -> tuple[State, Step]:
        """Apply an action, clipped to the bounds. Nothing terminates."""
        action = jnp.clip(action, jnp.asarray(self.action_low), jnp.asarray(self.action_high))
        physical, time = self.advance(state.physical, action), state.time + 1
        x, x_next = self.observe(state.physical), self.observe(physical)
        final = jnp.where(time == self.max_episode_steps, self.final_cost(x_next), 0.0)
        after = State(physical, time, state.inside & self.inside(x_next))
        reward = -(self.cost(x, action) + final)
        return after, Step(x_next, reward, jnp.zeros((), bool), after.inside & self.reached(x_next))

    def keeps(self, physical: Float[Array, " physical"], u: Float[Array, " action"]) -> Bool[Array, ""]:
        """Whether a proposed transition belongs to the data."""
        kept = self.inside(self.observe(physical))
        return kept & self.inside(self.observe(self.advance(physical, u))) if self.filters_next else kept

    @partial(jax.jit, static_argnums=(0, 2))
    def sample(
        self, key: Key, n: int
    ) -> tuple[Float[Array, "n observation"], Float[Array, "n action"], Float[Array, "n observation"]]:
        """`n` independent transitions (x, u, x'): proposals, each drawn again until it is kept."""
        physical, action = jax.vmap(self._accepted)(jax.random.split(key, n))
        observe = jax.vmap(self.observe)
        return observe(physical), action, observe(jax.vmap(self.advance)(physical, action))

    @partial(jax.jit, static_argnums=(0, 2))
    def episodes(self, key: Key, n: int) -> Episodes:
        """`n` episodes that start as `sample`'s rows and go on with proposed actions until no transition is kept."""

        def one(key: Key) -> Episodes:
            start, walk = jax.random.split(key)

            def step(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
                physical, alive = carry
                candidates = jax.vmap(self.propose)(jax.random.split(key, _CANDIDATES if self.filters_next else 1))[1]
                kept = jax.vmap(self.keeps, in_axes=(None, 0))(physical, candidates)
                action, alive = candidates[jnp.argmax(kept)], alive & kept.any()
                physical = self.advance(physical, action)
                return (physical, alive), (self.observe(physical), action, alive)

            physical, _ = self._accepted(start)
            keys = jax.random.split(walk, self.data_steps)
            _, (later, action, alive) = jax.lax.scan(step, (physical, jnp.ones((), bool)), keys)
            return Episodes(jnp.concatenate([self.observe(physical)[None], later]), action, alive.sum())

        return jax.vmap(one)(jax.random.split(key, n))

    def _accepted(self, key: Key) -> tuple[Float[Array, " physical"], Float[Array, " action"]]:
        def attempt(number: Array) -> tuple[Array, Array]:
            return self.propose(jax.random.fold_in(key, number))

        first = jnp.zeros((), jnp.int32)
        return attempt(jax.lax.while_loop(lambda number: ~self.keeps(*attempt(number)), lambda number: number + 1, first))
