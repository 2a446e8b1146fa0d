"""Value losses that several methods share."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.learner import forward
from diffrl.types import Params, Transition

Discount = Float[Array, ""] | float


def expectile_loss(error: Float[Array, "*batch"], expectile: Float[Array, ""] | float) -> Float[Array, ""]:
    """mean |τ - 1{u < 0}| u² with u = target - prediction (IQL eq. 5; Kostrikov et al. 2021)."""
    return jnp.mean(jnp.where(error < 0.0, 1.0 - expectile, expectile) * error**2)


def td_loss(q: Float[Array, "critics batch"], target: Float[Array, "batch"]) -> Float[Array, ""]:
    """Squared error summed over critics, mean over the batch (IQL eq. 6)."""
    return jnp.sum(jnp.mean((q - target[None]) ** 2, axis=-1))


def critic_loss(
    params: Params, critics: nn.Module, batch: Transition, target: Float[Array, "batch"]
) -> tuple[Float[Array, ""], Float[Array, "critics batch"]]:
    """`td_loss` of the critics at the data's actions, and what they say there.

    A chunk of actions of which some were never taken (`chunk_taken`, see `action_chunks.in_chunks`) counts as no error.
    """
    q = forward(critics, params, batch.observation, batch.action)
    return td_loss(jnp.where(batch.extras.get("chunk_taken", True), q, target), target), q


def mean_critic_loss(
    params: Params, critics: nn.Module, batch: Transition, target: Float[Array, "batch"]
) -> tuple[Float[Array, ""], Float[Array, "critics batch"]]:
    """`critic_loss`, its mean over critics too."""
    loss, q = critic_loss(params, critics, batch, target)
    return loss / len(q), q


def priority_weight(error: Float[Array, "batch"], exponent: Float[Array, ""] | float) -> Float[Array, "batch"]:
    """What rows drawn uniformly weigh where prioritised replay would draw them (Schaul et al. 2016), mean 1, without gradient.

    With probability ∝ p^α and weights ∝ p^(-αβ), p the size of the error, a row counts p^(α(1 - β)) on average: the exponent.
    Nothing is remembered of rows, and errors are those of now.
    """
    weight = (jnp.abs(error) + 1e-6) ** exponent
    return jax.lax.stop_gradient(weight / jnp.mean(weight))


def lowest_q(
    critics: nn.Module, params: Params, observation: Float[Array, "*#batch observation"], action: Float[Array, "*#batch action"]
) -> Float[Array, "*#batch"]:
    """min_k Q_k(s, a): what clipped double Q-learning trusts (Fujimoto et al. 2018)."""
    return jnp.min(forward(critics, params, observation, action), axis=0)


def normalized_q(q: Float[Array, "batch"], by: Float[Array, "batch"]) -> Float[Array, ""]:
    """mean Q over the mean size of some values, which carries no gradient: a policy's loss free of the rewards' units."""
    return jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(by)))


class Bootstrap(NamedTuple):
    """A target without its value: `reward` `[B]` + `weight` `[B]` · V(`observation` `[B, O]`)."""

    reward: Array
    weight: Array
    observation: Array

    def target(self, next_value: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """The target for this value, without gradient; where the weight is 0 the value may be anything, even not finite."""
        return jax.lax.stop_gradient(self.reward + self.weight * jnp.where(self.weight == 0.0, 0.0, next_value))


def bootstrap(batch: Transition, discount: Discount) -> Bootstrap:
    """What a target of Q is made of: every method's reward and next observation come from here.

    One step is summed, or as many as the columns of `data.columns.steps_ahead` say. A terminal cuts the value, a timeout never.
    """
    ahead = batch.extras
    if "ahead_reward" not in ahead:
        return Bootstrap(batch.reward, discount * ~batch.terminal, batch.next_observation)
    powers = jnp.power(discount, jnp.arange(ahead["ahead_reward"].shape[-1]))
    weight = discount ** ahead["ahead_steps"] * ~ahead["ahead_terminal"]
    return Bootstrap(ahead["ahead_reward"] @ powers, weight, ahead["ahead_observation"])


def step_discount(batch: Transition, discount: Discount) -> Discount:
    """What weighs a value one row on: γ, or where rows are of h steps γ^h, whatever an episode's end has cut short."""
    return discount ** batch.extras["ahead_reward"].shape[-1] if "ahead_reward" in batch.extras else discount


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
