"""A finite dataset smoothed by noise: its density, distance and score are known exactly. The oracle that networks are held to.

p_σ(x) = (1/N) Σ_i N(x; α z_i, σ² I). With α = 1, -σ² log p_σ is up to a constant the softmin of ½‖x - z_i‖² (Suh et al. 2023), a
distance to the data that has a gradient everywhere.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import Level
from diffrl.diffusion.targets import Model, Prediction, from_x0

ENTRIES = 2**22  # of differences held at once, [B, rows, D]: some 16 MB


def _softmin(
    x: Float[Array, "batch dim"], data: Float[Array, "rows dim"], alpha: Array | float, sigma: Array | float
) -> tuple[Float[Array, "batch"], Float[Array, "batch dim"]]:
    """log Σ_i exp(-‖x - α z_i‖²/2σ²), and the mean of z_i under those weights: one pass over the data, in parts.

    Differences and not products: expanding the square loses all digits where σ is small.
    """
    rows = max(1, min(len(data), ENTRIES // x.size))
    padding = -len(data) % rows
    parts = jnp.pad(data, ((0, padding), (0, 0))).reshape(-1, rows, data.shape[1])
    there = (jnp.arange(len(data) + padding) < len(data)).reshape(-1, rows)

    def add(carry: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        total, mean = carry
        z, real = part
        logits = -0.5 * jnp.sum((x[:, None] - alpha * z) ** 2, axis=-1) / sigma**2
        logits = jnp.where(real, logits, -jnp.inf)
        here = jax.nn.logsumexp(logits, axis=1)
        both = jnp.logaddexp(total, here)
        mean = jnp.exp(total - both)[:, None] * mean + jnp.exp(logits - both[:, None]) @ z
        return (both, mean), None

    # The first part starts the sums, so that no infinity is subtracted from another.
    logits = -0.5 * jnp.sum((x[:, None] - alpha * parts[0]) ** 2, axis=-1) / sigma**2
    logits = jnp.where(there[0], logits, -jnp.inf)
    first = jax.nn.logsumexp(logits, axis=1), jax.nn.softmax(logits, axis=1) @ parts[0]
    return jax.lax.scan(add, first, (parts[1:], there[1:]))[0]


def energy(x: Float[Array, "batch dim"], data: Float[Array, "rows dim"], sigma: Array | float) -> Float[Array, "batch"]:
    """E_σ(x) = -log Σ_i exp(-½‖x - z_i‖²/σ²).

    σ² E_σ is the smoothed distance to the data: at most min_i ½‖x - z_i‖², and below it by at most σ² log N.
    """
    return -_softmin(x, data, 1.0, sigma)[0]


def log_likelihood(x: Float[Array, "batch dim"], data: Float[Array, "rows dim"], sigma: Array | float) -> Float[Array, "batch"]:
    """log p_σ(x) of the data smoothed by noise of deviation σ."""
    rows, dim = data.shape
    return -energy(x, data, sigma) - jnp.log(rows) - 0.5 * dim * jnp.log(2.0 * jnp.pi * sigma**2)


def score(x: Float[Array, "batch dim"], data: Float[Array, "rows dim"], sigma: Array | float) -> Float[Array, "batch dim"]:
    """∇ log p_σ(x) = (E[z | x] - x)/σ² (Tweedie)."""
    return (_softmin(x, data, 1.0, sigma)[1] - x) / sigma**2


def denoiser(data: Float[Array, "rows dim"]) -> Model:
    """The exact Model of a dataset: what a network trained to the end on these points alone would predict."""

    def model(x: Array, level: Level) -> Prediction:
        return from_x0(x, level, _softmin(x, data, level.alpha, level.sigma)[1])

    return model
