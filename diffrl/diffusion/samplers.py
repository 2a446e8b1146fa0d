"""Samplers: from noise to data along a schedule, given a noise prediction."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.objectives import Denoiser
from diffrl.diffusion.schedules import LinearVP
from diffrl.types import Key


def ddim(
    predict: Denoiser,
    schedule: LinearVP,
    key: Key,
    shape: tuple[int, int],
    num_steps: int,
    *,
    eta: float = 0.0,
    clip: float | None = None,
) -> Float[Array, "batch dim"]:
    """DDIM (Song et al. 2021, eq. 12) over `num_steps` equal steps from t = 1 to t = 0.

    Args:
        predict: noise prediction ε(x_t `[B, D]`, t `[B]`).
        shape: (batch, dimension) of the sample.
        eta: 0 is the deterministic sampler, 1 the ancestral one of DDPM.
        clip: bound on the predicted x0 at every step, as for actions in a box.

    Raises:
        ValueError: fewer than one step.

    The loop is unrolled: at the few steps a policy uses, a scan would cost more in launches than it saves in code.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    init_key, step_key = jax.random.split(key)
    x = jax.random.normal(init_key, shape)
    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    for step in range(num_steps):
        t, s = times[step], times[step + 1]
        alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        x0, epsilon = _denoise(predict, schedule, x, t, clip)
        fresh = eta * (sigma_s / sigma_t) * jnp.sqrt(jnp.maximum(1.0 - (alpha_t / alpha_s) ** 2, 0.0))
        x = alpha_s * x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - fresh**2, 0.0)) * epsilon
        if eta > 0.0:  # known when compiling: the deterministic sampler draws nothing after its start
            x = x + fresh * jax.random.normal(jax.random.fold_in(step_key, step), shape)
    return x


def _denoise(predict: Denoiser, schedule: LinearVP, x: Array, t: Array, clip: float | None) -> tuple[Array, Array]:
    """Predicted data, clipped, and the noise that is consistent with it."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    epsilon = predict(x, jnp.full(x.shape[:1], t))
    x0 = (x - sigma * epsilon) / alpha
    if clip is None:
        return x0, epsilon
    x0 = jnp.clip(x0, -clip, clip)
    return x0, (x - alpha * x0) / sigma
