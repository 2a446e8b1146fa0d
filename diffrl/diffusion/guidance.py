"""Guidance: models that sample from another distribution than the one they were trained on, and choices among samples.

The first three wrap a Model and give a Model, so they compose with each other and with every sampler.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import Level, over
from diffrl.diffusion.targets import Model, Prediction, from_epsilon
from diffrl.types import Key

LogWeight = Callable[[Array, Level], Array]  # (x_t [B, …], its level) -> log E[w | x_t] up to a constant [B]


def energy_guided(model: Model, log_weight: LogWeight, scale: float | Array = 1.0) -> Model:
    """Adds `scale` · ∇ log E[w | x_t] to the score: p w up to normalisation where `scale` is 1 (Lu et al. 2023, eq. 9).

    Other scales sharpen by rule of thumb: E[w]^ρ is not E[w^ρ]. A classifier's log p(y | x_t) is such a log weight. Needs α > 0.
    """

    def guided(x: Array, level: Level) -> Prediction:
        gradient = jax.grad(lambda at: jnp.sum(log_weight(at, level)))(x)
        x0, epsilon = model(x, level)
        return Prediction(x0 + scale * level.sigma**2 / level.alpha * gradient, epsilon - scale * level.sigma * gradient)

    return guided


def self_weighted(
    predict: Callable[[Array, Array], tuple[Array, Array]],
    low: float,
    high: float,
    scale: float | Array = 1.0,
) -> Model:
    """Guidance by the weight that is diffused together with the data (SWG; Tagle et al. 2025, eq. 3).

    `predict` maps x = (a, w) `[B, …, A + 1]` and t `[B]` to the noise of a `[B, …, A]` and of w `[B, …, 1]`, apart: the
    gradient then costs the weight's part of the network only. The clean weight it implies, ŵ = (w - σ ε_w)/α, is
    E[w | x_t], so ∇ log ŵ over all A + 1 coordinates is the exact guidance. Where ŵ is not within (`low`, `high`) there is
    none: beyond its range an estimate says nothing, and below zero its logarithm would point the wrong way. Needs α > 0.
    A `scale` of 0.0 that is known when compiling asks for no gradient.
    """

    def model(x: Array, level: Level) -> Prediction:
        t = jnp.broadcast_to(level.t, x.shape[:1])
        if isinstance(scale, float) and scale == 0.0:
            return from_epsilon(x, level, jnp.concatenate(predict(x, t), axis=-1))

        def clean_weight(at: Array) -> tuple[Array, Array]:
            data_noise, weight_noise = predict(at, t)
            weight = (at[..., -1:] - level.sigma * weight_noise) / level.alpha
            return weight, jnp.concatenate([data_noise, weight_noise], axis=-1)

        weight, pullback, noise = jax.vjp(clean_weight, x, has_aux=True)
        alive = (weight > low) & (weight < high)
        (gradient,) = pullback(jnp.where(alive, 1.0 / jnp.where(alive, weight, 1.0), 0.0))
        return from_epsilon(x, level, noise - scale * level.sigma * gradient)

    return model


def classifier_free(conditional: Model, unconditional: Model, scale: float | Array = 1.0) -> Model:
    """unconditional + `scale` · (conditional - unconditional): 1 is the conditional model.

    Ho & Salimans 2022, eq. 6; their w is `scale` - 1.
    """

    def model(x: Array, level: Level) -> Prediction:
        with_condition, without = conditional(x, level), unconditional(x, level)
        return Prediction(*(b + scale * (a - b) for a, b in zip(with_condition, without, strict=True)))

    return model


def guided(conditional: Model, unconditional: Model, scale: float) -> Model:
    """`classifier_free` with a scale that is known when compiling: nobody is asked for what counts for nothing."""
    if scale in (0.0, 1.0):
        return conditional if scale else unconditional
    return classifier_free(conditional, unconditional, scale)


def best_of(
    samples: Float[Array, "candidates batch *dims"], values: Float[Array, "candidates batch"]
) -> Float[Array, "batch *dims"]:
    """The candidate of the highest value, per row."""
    return _take(samples, jnp.argmax(values, axis=0))


def softmax_of(
    key: Key,
    samples: Float[Array, "candidates batch *dims"],
    values: Float[Array, "candidates batch"],
    temperature: float | Array = 1.0,
) -> Float[Array, "batch *dims"]:
    """One candidate per row, drawn with probability ∝ exp(value / `temperature`): importance resampling by e^(value/T)."""
    return _take(samples, jax.random.categorical(key, values / temperature, axis=0))


def _take(samples: Array, index: Array) -> Array:
    return jnp.take_along_axis(samples, over(index, samples[0])[None], axis=0)[0]
