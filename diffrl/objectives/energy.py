"""Losses of the energies of noisy points: f(x_t, t) is to be log E[e^{βe(x_0)} | x_t] up to a constant (Lu et al. 2023, CEP).

The gradient of such an f, added to the score of a diffusion model of q, samples q e^{βe} exactly. Each loss speaks of one set of
points that share their state and diffusion time.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Beta = Float[Array, ""] | float
EnergyLoss = Literal["contrastive", "mse", "exponential"]
LARGEST_EXPONENT = 4.5  # of the exponential loss, as in the authors' code


def contrastive_loss(energy: Float[Array, "set"], predicted: Float[Array, "set"], beta: Beta) -> Float[Array, ""]:
    """-Σ softmax(βe) log softmax(f) over one contrastive set (eq. 12 with the labels that the authors' code normalises).

    Its minimum is f = log E[e^{βe} | x_t] + C for a large set; for a small one the slope comes out too small.

    Args:
        energy: e of the clean points.
        predicted: f at their noisy versions, all of one diffusion time.
        beta: β, the inverse temperature.
    """
    labels = jax.lax.stop_gradient(jax.nn.softmax(beta * energy))
    return -jnp.sum(labels * jax.nn.log_softmax(predicted))


def mean_loss(energy: Float[Array, "set"], predicted: Float[Array, "set"], beta: Beta) -> Float[Array, ""]:
    """Mean (f - βe)²: f = E[βe | x_t], whose gradient is not the exact guidance (the paper's ablation, table 6)."""
    return jnp.mean((predicted - beta * jax.lax.stop_gradient(energy)) ** 2)


def exponential_loss(energy: Float[Array, "set"], predicted: Float[Array, "set"], beta: Beta) -> Float[Array, ""]:
    """Mean (e^f - e^{β(e - max e)})², both exponents bounded: exact, but of heavy tails (the paper's ablation, table 6)."""

    def bounded(exponent: Array) -> Array:
        return jnp.exp(jnp.clip(exponent, -100.0, LARGEST_EXPONENT))

    label = jax.lax.stop_gradient(bounded(beta * (energy - jnp.max(energy))))
    return jnp.mean((bounded(predicted) - label) ** 2)


ENERGY_LOSSES: dict[EnergyLoss, Callable[[Array, Array, Beta], Array]] = {
    "contrastive": contrastive_loss,
    "mse": mean_loss,
    "exponential": exponential_loss,
}
