"""Several actions for every observation: drawn as one batch, valued, and chosen among."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.guidance import softmax_of
from diffrl.learner import forward
from diffrl.types import Key, Params


def candidates(
    draw: Callable[[Array, Array, Key], Array],
    observation: Float[Array, "batch observation"],
    count: int,
    action_dim: int,
    key: Key,
) -> Float[Array, "candidates batch action"]:
    """`count` actions of a policy that turns noise into them.

    Args:
        draw: (noise N(0, I) `[N, A]`, observations `[N, O]`, key) -> actions `[N, A]`.
    """
    start_key, key = jax.random.split(key)
    repeated = jnp.tile(observation, (count, 1))
    drawn = draw(jax.random.normal(start_key, (len(repeated), action_dim)), repeated, key)
    return drawn.reshape(count, len(observation), action_dim)


def candidate_q(
    critics: nn.Module,
    params: Params,
    observation: Float[Array, "batch observation"],
    actions: Float[Array, "candidates batch action"],
) -> Float[Array, "critics candidates batch"]:
    """Q_k(s, a) of all of them."""
    repeated = jnp.broadcast_to(observation, (*actions.shape[:2], observation.shape[-1]))
    return forward(critics, params, repeated, actions)


def backup(q: Float[Array, "critics candidates batch"]) -> Float[Array, "batch"]:
    """The lowest over critics of each one's highest over candidates: max-Q backup, or the plain minimum of a single candidate."""
    return jnp.min(jnp.max(q, axis=1), axis=0)


def resampled(
    critics: nn.Module,
    params: Params,
    observation: Float[Array, "batch observation"],
    actions: Float[Array, "candidates batch action"],
    beta: float,
    key: Key,
) -> Float[Array, "batch action"]:
    """One of them, drawn with probability ∝ exp(β min_k Q_k); critics are not asked where there is no choice."""
    if len(actions) == 1:
        return actions[0]
    return softmax_of(key, actions, beta * jnp.min(candidate_q(critics, params, observation, actions), axis=0))
