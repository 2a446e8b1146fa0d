"""Value losses that several methods share."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


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
