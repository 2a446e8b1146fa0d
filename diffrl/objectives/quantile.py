"""Regression onto quantiles (Dabney et al. 2018, arXiv 1710.10044)."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def midpoints(count: int) -> Float[Array, "quantiles"]:
    """Levels τ_i = (2i - 1) / 2M."""
    return (jnp.arange(count) + 0.5) / count


def quantile_loss(
    quantiles: Float[Array, "*batch quantiles"],
    targets: Float[Array, "*batch targets"],
    huber_width: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    """Σ_i mean_j |τ_i - 1{δ_ij < 0}| H(δ_ij), δ_ij = target_j - quantile_i, H(x) = x² / 2κ within ±κ and |x| - κ/2 beyond.

    Within κ it is a regression onto expectiles; for quantiles κ must be small beside the targets' spread.
    """
    error = targets[..., None, :] - quantiles[..., :, None]
    size = jnp.abs(error)
    huber = jnp.where(size <= huber_width, 0.5 * error**2 / huber_width, size - 0.5 * huber_width)
    level = jax.lax.broadcast_to_rank(midpoints(quantiles.shape[-1])[:, None], error.ndim)
    weight = jnp.abs(level - (error < 0.0))
    return jnp.sum(jnp.mean(weight * huber, axis=-1), axis=-1)
