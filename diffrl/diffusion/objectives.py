"""Training losses of diffusion models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import Path, Schedule, over
from diffrl.diffusion.targets import Predict, Prediction, Target, combine
from diffrl.types import Key

Times = Callable[[Key, int], Array]  # (key, B) -> diffusion times [B]


def perturb(
    schedule: Path, x0: Float[Array, "batch *dims"], t: Float[Array, "batch"], noise: Float[Array, "batch *dims"]
) -> Float[Array, "batch *dims"]:
    """x_t = α_t x_0 + σ_t z, one time per example."""
    return over(schedule.alpha(t), x0) * x0 + over(schedule.sigma(t), x0) * noise


def uniform_times(t_min: float = 1e-3) -> Times:
    """t ~ U[t_min, 1]."""
    return lambda key, batch: jax.random.uniform(key, (batch,), minval=t_min)


def discrete_times(num_steps: int) -> Times:
    """t ~ U{1/T, 2/T, …, 1}: the levels of a discrete process of T steps."""
    return lambda key, batch: (jax.random.randint(key, (batch,), 0, num_steps) + 1.0) / num_steps


def log_logistic_times(schedule: Schedule, location: Array | float, scale: float) -> Times:
    """log σ(t) logistic around `location`, cut off at the schedule's ends; for α = 1, as in Reuss et al. 2023.

    Drawn by its inverse distribution function, so that every number drawn is used.
    """

    def draw(key: Key, batch: int) -> Array:
        ends = schedule.sigma(jnp.array([0.0, 1.0]))
        low, high = jax.nn.sigmoid((jnp.log(ends) - location) / scale)
        u = jax.random.uniform(key, (batch,), minval=low, maxval=high)
        return jnp.clip(schedule.time(-(location + scale * jax.scipy.special.logit(u))), 0.0, 1.0)

    return draw


def min_snr(schedule: Schedule, most: Array | float) -> Callable[[Array], Array]:
    """w(t) = min(α²/σ², `most`) of a loss of the data, with 5 for the `most` (Hang et al. 2023, arXiv 2303.09556)."""
    return lambda t: jnp.minimum((schedule.alpha(t) / schedule.sigma(t)) ** 2, most)


def denoising_loss(
    predict: Predict,
    schedule: Schedule,
    x0: Float[Array, "batch *dims"],
    key: Key,
    *,
    target: str | Target = "epsilon",
    times: Times | None = None,
    weight: Callable[[Array], Array] | None = None,
) -> Float[Array, ""]:
    """E w(t) ‖network(α_t x_0 + σ_t z, t) - target‖², summed over all an example has, mean over the batch (SRPO eq. 13).

    Args:
        target: what the network predicts.
        times: how t is drawn; `uniform_times()` by default.
        weight: w(t) `[B]` or, per dimension, `[B, …]`; one by default.
    """
    time_key, noise_key = jax.random.split(key)
    t = (times or uniform_times())(time_key, x0.shape[0])
    noise = jax.random.normal(noise_key, x0.shape)
    goal = combine(target, schedule, t, Prediction(x0, noise))
    error = (predict(perturb(schedule, x0, t, noise), t) - goal) ** 2
    if weight is not None:
        error = error * over(weight(t), error)
    return jnp.mean(jnp.sum(error, axis=tuple(range(1, error.ndim))))
