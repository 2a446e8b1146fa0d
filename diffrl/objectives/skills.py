"""Skills: latents of several steps, as transitions, as what an autoencoder is fitted to, and as candidates (LDCQ; DIAR)."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.guidance import best_of
from diffrl.networks.chunk_vae import SkillVAE
from diffrl.networks.gaussian import kl_divergence
from diffrl.types import Key, Metrics, Params, Transition


def as_skills(batch: Transition, latent: Array | None = None, *, one_step: bool = False) -> Transition:
    """A batch of windows as transitions of skills, of which `objectives.value.bootstrap` makes the targets.

    A skill that a terminal cuts short is over there. One that a timeout cuts short was never taken whole: `chunk_taken` is False.

    Args:
        batch: of `data.sampling.windows`.
        latent: z `[B, D]`, the action of the transition.
        one_step: whether the value at the end is discounted as if it were a step ahead.
    """
    mask, terminal = batch.extras["window_mask"], batch.extras["window_terminal"][:, -1]
    steps = jnp.sum(mask, axis=1)
    ahead = {
        "ahead_reward": batch.extras["window_reward"],
        "ahead_observation": batch.extras["window_next_observation"][:, -1],
        "ahead_steps": jnp.ones_like(steps) if one_step else steps,
        "ahead_terminal": terminal,
        "chunk_taken": jnp.all(mask, axis=1) | terminal,
    }
    action = batch.action if latent is None else latent
    return dataclasses.replace(batch, action=action, extras=batch.extras | ahead)


def vae_loss(
    params: Params, network: SkillVAE, batch: Transition, kl_weight: Any, key: Key
) -> tuple[Float[Array, ""], tuple[Float[Array, "batch latent"], Metrics]]:
    """Σ_t ‖â_t - a_t‖²/d_a + ‖ŝ_H - s_H‖²/d_s + β KL(q(z|τ) ‖ p(z|s_0))/d_z: the means over skills, the drawn z, and the parts.

    `batch` is of `as_skills`. What was never taken counts for nothing, as steps behind a terminal do.
    """
    mask, taken = batch.extras["window_mask"], batch.extras["chunk_taken"]
    observations, actions = batch.extras["window_observation"], batch.extras["window_action"]
    first = observations[:, 0]
    ask: Any = partial(network.apply, {"params": params})
    mean, std = ask(observations, actions, method="encode")
    latent = mean + std * jax.random.normal(key, mean.shape)
    prior_mean, prior_std = ask(first, method="prior")
    action_error = jnp.mean((ask(observations, latent[:, None], method="act") - actions) ** 2, axis=-1)
    end_error = jnp.mean((ask(first, latent, method="end") - batch.extras["ahead_observation"]) ** 2, axis=-1)
    divergence = kl_divergence((mean - prior_mean) / prior_std, std / prior_std) / mean.shape[-1]
    share = taken / jnp.maximum(jnp.sum(taken), 1.0)
    parts = {
        "vae/action_error": share @ jnp.sum(action_error * mask, axis=1),
        "vae/end_error": share @ end_error,
        "vae/kl": share @ divergence,
    }
    return parts["vae/action_error"] + parts["vae/end_error"] + kl_weight * parts["vae/kl"], (latent, parts)


def leading_on(
    latents: Float[Array, "candidates batch latent"],
    q: Float[Array, "candidates batch"],
    end: Float[Array, "candidates batch"],
    present: Float[Array, "batch"],
    tolerance: float,
) -> Float[Array, "batch latent"]:
    """The best by Q of the skills whose end is worth the present state's value; where there are none, that of the best end."""
    good = end + tolerance >= present[None]
    return best_of(latents, jnp.where(jnp.any(good, axis=0, keepdims=True), jnp.where(good, q, -jnp.inf), end))
