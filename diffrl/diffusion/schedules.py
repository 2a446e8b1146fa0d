"""Noise schedules: how much of the data is left at time t. No reinforcement learning in this folder."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


class LinearVP(NamedTuple):
    """Continuous variance-preserving diffusion with linear β(t) (Song et al. 2021, eq. 33); t = 0 is data, 1 is noise.

    x_t = α_t x_0 + σ_t z with log α_t = -t² (β₁ - β₀)/4 - t β₀/2 and σ_t² = 1 - α_t².
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        # expm1: 1 - α² loses half the digits of float32 near t = 0.
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))
