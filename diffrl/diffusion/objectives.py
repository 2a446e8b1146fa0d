"""Training losses of diffusion models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import LinearVP
from diffrl.types import Key

Denoiser = Callable[[Array, Array], Array]  # (x_t [B, D], t [B]) -> prediction [B, D]


def perturb(
    schedule: LinearVP, x0: Float[Array, "batch dim"], t: Float[Array, "batch"], noise: Float[Array, "batch dim"]
) -> Float[Array, "batch dim"]:
    """x_t = α_t x_0 + σ_t z."""
    return schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * noise


def epsilon_loss(
    predict: Denoiser, schedule: LinearVP, x0: Float[Array, "batch dim"], key: Key, t_min: float = 1e-3
) -> Float[Array, ""]:
    """E ‖ε(α_t x_0 + σ_t z, t) - z‖², summed over dimensions, mean over the batch (SRPO eq. 13); t ~ U[t_min, 1]."""
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, x0.shape[:1], minval=t_min)
    noise = jax.random.normal(noise_key, x0.shape)
    error = predict(perturb(schedule, x0, t, noise), t) - noise
    return jnp.mean(jnp.sum(error**2, axis=-1))
