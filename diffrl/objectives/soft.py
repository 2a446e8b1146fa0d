"""Values and the weight of entropy as soft actor-critics have them (Haarnoja et al. 2018, arXiv 1812.05905)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from diffrl.networks.gaussian import distribution, squashed
from diffrl.objectives.value import lowest_q
from diffrl.types import Key, Params


def soft_value(
    policy: nn.Module,
    params: Params,
    critics: nn.Module,
    critic_params: Params,
    observation: Float[Array, "batch observation"],
    entropy_weight: Float[Array, ""] | float,
    key: Key,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
    """min_k Q_k(s, a) - α log π(a | s) at an action of the policy's own (eq. 3), and log π(a | s)."""
    action, log_prob = squashed(*distribution(policy, params, observation), key)
    return lowest_q(critics, critic_params, observation, action) - entropy_weight * log_prob, log_prob


def entropy_weight_loss(log_weight: Params, entropy: Float[Array, ""], target: Array | float) -> Float[Array, ""]:
    """log α · (H - target): α grows while the policy is more certain than wanted (eq. 17, in log α as released)."""
    return log_weight * jax.lax.stop_gradient(entropy - target)


def log_entropy_weight(initial: ArrayLike) -> Float[Array, ""]:
    """log α, the parameter, at the start."""
    return jnp.log(jnp.asarray(initial, jnp.float32))
