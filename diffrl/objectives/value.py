"""Value losses that several methods share."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from diffrl.learner import forward
from diffrl.types import Params, Transition

Discount = Float[Array, ""] | float


def expectile_loss(error: Float[Array, "batch"], expectile: Float[Array, ""] | float) -> Float[Array, ""]:
    """mean |τ - 1{u < 0}| u² with u = target - prediction (IQL eq. 5; Kostrikov et al. 2021)."""
    return jnp.mean(jnp.where(error < 0.0, 1.0 - expectile, expectile) * error**2)


def td_target(
    reward: Float[Array, "batch"],
    terminal: Bool[Array, "batch"],
    next_value: Float[Array, "batch"],
    discount: Float[Array, ""] | float,
) -> Float[Array, "batch"]:
    """r + γ (1 - terminal) V(s'), without gradient. Timeouts bootstrap."""
    return jax.lax.stop_gradient(reward + discount * jnp.where(terminal, 0.0, next_value))


def td_loss(q: Float[Array, "critics batch"], target: Float[Array, "batch"]) -> Float[Array, ""]:
    """Squared error summed over critics, mean over the batch (IQL eq. 6)."""
    return jnp.sum(jnp.mean((q - target) ** 2, axis=-1))


class Bootstrap(NamedTuple):
    """A target without its value: `reward` `[B]` + `weight` `[B]` · V(`observation` `[B, O]`)."""

    reward: Array
    weight: Array
    observation: Array

    def target(self, next_value: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Without gradient."""
        return jax.lax.stop_gradient(self.reward + self.weight * next_value)


def bootstrap(batch: Transition, discount: Discount) -> Bootstrap:
    """Of one step, or of as many as the columns of `data.columns.steps_ahead` say. Timeouts bootstrap."""
    ahead = batch.extras
    if "ahead_reward" not in ahead:
        return Bootstrap(batch.reward, discount * ~batch.terminal, batch.next_observation)
    powers = jnp.power(discount, jnp.arange(ahead["ahead_reward"].shape[-1]))  # of which the first is 1, whatever the discount
    weight = discount ** ahead["ahead_steps"] * ~ahead["ahead_terminal"]
    return Bootstrap(ahead["ahead_reward"] @ powers, weight, ahead["ahead_observation"])


def lower_confidence_bound(q: Float[Array, "critics *batch"], pessimism: Discount) -> Float[Array, "*batch"]:
    """Mean over the ensemble minus `pessimism` times its (population) standard deviation."""
    return jnp.mean(q, axis=0) - pessimism * jnp.std(q, axis=0)


def action_gradient(
    critics: nn.Module, params: Params, observation: Float[Array, "batch observation"], action: Float[Array, "batch action"]
) -> Float[Array, "batch action"]:
    """∇_a of the mean over critics of Q_k(s, a), without gradient of its own."""

    def total(action: Array) -> Array:
        return jnp.sum(jnp.mean(forward(critics, params, observation, action), axis=0))

    return jax.lax.stop_gradient(jax.grad(total)(jax.lax.stop_gradient(action)))
