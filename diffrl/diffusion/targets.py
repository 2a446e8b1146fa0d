"""What a network may predict, and the exact conversions between those targets.

Every target is a combination A x_0 + B z of data and noise. With x_t = α x_0 + σ z that is two equations in two unknowns,
so one line converts any prediction into any other.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import Level, Path, Schedule, over

# Examples may have any shape: [B, …] is [B, D] for vectors and [B, L, D] for sequences of them; times are [B].
Predict = Callable[[Array, Array], Array]  # a network: (x_t [B, …], t [B]) -> prediction [B, …]
Target = Callable[[Path, Array], tuple[Array, Array]]  # (schedule, t [B]) -> (A [B], B [B])


class Prediction(NamedTuple):
    """The two halves of x_t = α x_0 + σ ε, `[B, …]` each."""

    x0: Array
    epsilon: Array


Model = Callable[[Array, Level], Prediction]  # (x_t [B, …], its level) -> what it is made of


def epsilon(schedule: Path, t: Array) -> tuple[Array, Array]:
    """The noise z (Ho et al. 2020)."""
    return jnp.zeros_like(t), jnp.ones_like(t)


def x0(schedule: Path, t: Array) -> tuple[Array, Array]:
    """The data."""
    return jnp.ones_like(t), jnp.zeros_like(t)


def v(schedule: Path, t: Array) -> tuple[Array, Array]:
    """α z - σ x_0 (Salimans & Ho 2022)."""
    return -schedule.sigma(t), schedule.alpha(t)


def score(schedule: Path, t: Array) -> tuple[Array, Array]:
    """∇ log p_t = -E[z | x_t]/σ."""
    return jnp.zeros_like(t), -1.0 / schedule.sigma(t)


def velocity(schedule: Path, t: Array) -> tuple[Array, Array]:
    """dx_t/dt = α' x_0 + σ' z; z - x_0 for rectified flow. It points from data to noise, as t does.

    Nothing where a schedule stands still, as the end of `CosineVP` does where its α is held.
    """
    ones = jnp.ones_like(t)
    return jax.jvp(schedule.alpha, (t,), (ones,))[1], jax.jvp(schedule.sigma, (t,), (ones,))[1]


def karras(sigma_data: float = 0.5) -> Target:
    """F of Karras et al. 2022, eq. 7: x_0 = c_skip x + c_out F for data of standard deviation `sigma_data` and α = 1."""

    def target(schedule: Path, t: Array) -> tuple[Array, Array]:
        sigma = schedule.sigma(t)
        norm = jnp.sqrt(sigma**2 + sigma_data**2)
        return sigma / (sigma_data * norm), -sigma_data / norm

    return target


TARGETS: dict[str, Target] = {"epsilon": epsilon, "x0": x0, "v": v, "score": score, "velocity": velocity, "karras": karras()}


def find(target: str | Target) -> Target:
    """A target by name, or itself.

    Raises:
        ValueError: no such name.
    """
    if not isinstance(target, str):
        return target
    if target not in TARGETS:
        raise ValueError(f"target {target!r} is unknown; choose one of {', '.join(TARGETS)}")
    return TARGETS[target]


def combine(target: str | Target, schedule: Path, t: Float[Array, "batch"], parts: Prediction) -> Float[Array, "batch *dims"]:
    """The target's value for known data and noise: what a network is trained to predict."""
    data, noise = find(target)(schedule, t)
    return over(data, parts.x0) * parts.x0 + over(noise, parts.epsilon) * parts.epsilon


def split(
    target: str | Target,
    schedule: Path,
    t: Float[Array, "batch"],
    x: Float[Array, "batch *dims"],
    value: Float[Array, "batch *dims"],
) -> Prediction:
    """Data and noise that x_t and a prediction imply: Cramer's rule on the two equations.

    Not finite where the target does not determine both: "epsilon" and "score" at α = 0, "x0" at σ = 0, "velocity" where a
    schedule stands still.
    """
    data, noise = (over(part, x) for part in find(target)(schedule, t))
    alpha, sigma = over(schedule.alpha(t), x), over(schedule.sigma(t), x)
    determinant = alpha * noise - sigma * data
    return Prediction((noise * x - sigma * value) / determinant, (alpha * value - data * x) / determinant)


def as_model(predict: Predict, schedule: Schedule, target: str | Target = "epsilon") -> Model:
    """The Model of a network that predicts `target`: the form that samplers and guidance speak."""

    def model(x: Array, level: Level) -> Prediction:
        t = jnp.broadcast_to(level.t, x.shape[:1])
        return split(target, schedule, t, x, predict(x, t))

    return model


def from_x0(x: Array, level: Level, data: Array) -> Prediction:
    """The prediction with this x_0 and the noise that goes with it."""
    return Prediction(data, (x - level.alpha * data) / level.sigma)


def from_epsilon(x: Array, level: Level, noise: Array) -> Prediction:
    """The prediction with this noise and the x_0 that goes with it."""
    return Prediction((x - level.sigma * noise) / level.alpha, noise)


def clipped(model: Model, low: Array | float, high: Array | float) -> Model:
    """The same model with its x_0 held in a box; bounds broadcast against `[B, …]`."""

    def clip(x: Array) -> Array:
        return jnp.clip(x, *(jax.lax.broadcast_to_rank(bound, x.ndim) for bound in (low, high)))

    return lambda x, level: from_x0(x, level, clip(model(x, level).x0))
