"""What a policy does inside a model: rollouts that begin in a batch and live inside one update, and what they return."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.models.dynamics import Rows, Step
from diffrl.types import Key

GAP_ROWS = 32  # of a batch, at which imagined and real returns are compared


@runtime_checkable
class Choose(Protocol):
    """Actions `[B, A]` for observations `[B, O]`, and the logarithms of their densities `[B]`."""

    def __call__(self, observation: Float[Array, "batch observation"], key: Key) -> tuple[Array, Array]: ...


@runtime_checkable
class Imagine(Protocol):
    """What follows each of these actions, a draw."""

    def __call__(
        self, observation: Float[Array, "batch observation"], action: Float[Array, "batch action"], key: Key
    ) -> Step: ...


class Rollout(NamedTuple):
    """H steps of B paths; `observation` has their H + 1 observations, the first of which are real."""

    observation: Float[Array, "steps_and_one batch observation"]
    reward: Float[Array, "steps batch"]
    going_on: Float[Array, "steps batch"]
    log_prob: Float[Array, "steps batch"]

    @property
    def reached(self) -> Float[Array, "steps_and_one batch"]:
        """The probability that the episode is not over at each observation; without gradient, as ends are no smooth thing."""
        return jnp.concatenate(
            [jnp.ones_like(self.observation[:1, :, 0]), jnp.cumprod(jax.lax.stop_gradient(self.going_on), axis=0)]
        )


def rollout(start: Float[Array, "batch observation"], choose: Choose, imagine: Imagine, horizon: int, key: Key) -> Rollout:
    """From each start `horizon` steps of the policy in the model, with the gradient of what follows on what came before."""

    def step(observation: Array, key: Key) -> tuple[Array, tuple[Array, Step, Array]]:
        action_key, model_key = jax.random.split(key)
        action, log_prob = choose(observation, action_key)
        found = imagine(observation, action, model_key)
        return found.observation, (observation, found, log_prob)

    end, (observation, found, log_prob) = jax.lax.scan(step, start, jax.random.split(key, horizon))
    return Rollout(jnp.concatenate([observation, end[None]]), found.reward, found.going_on, log_prob)


def path_return(
    path: Rollout,
    final_value: Float[Array, "batch"],
    discount: Float[Array, ""] | float,
    entropy_weight: Float[Array, ""] | float,
) -> Float[Array, "batch"]:
    """Σ_{t<H} γ^t m_t (r_t - α log π(a_t | s_t)) + γ^H m_H V(s_H), m_t the probability of having come to s_t.

    Of no steps it is the value, to the bit.
    """
    horizon = len(path.reward)
    weight = discount ** jnp.arange(horizon + 1.0)[:, None] * path.reached
    return jnp.sum(weight[:-1] * (path.reward - entropy_weight * path.log_prob), axis=0) + weight[-1] * final_value


def return_gap(
    imagine: Imagine,
    rows: Rows,
    value: Callable[[Array, Key], Array],
    discount: Float[Array, ""] | float,
    key: Key,
) -> Float[Array, ""]:
    """Mean of r + γ m V(s') as the model says it minus as it was, at the first rows: above 0 the model promises too much.

    One V and one key for both, so that a right model of a system without noise has no gap at all.
    """
    model_key, value_key = jax.random.split(key)
    rows = jax.tree.map(lambda x: x[:GAP_ROWS], rows)
    said = imagine(rows.observation, rows.action, model_key)
    imagined = said.reward + discount * said.going_on * value(said.observation, value_key)
    real = rows.reward + discount * ~rows.terminal * value(rows.next_observation, value_key)
    return jnp.mean(jnp.where(rows.taken, imagined - real, 0.0))
