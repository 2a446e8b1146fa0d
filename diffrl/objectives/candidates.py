"""Several actions for every observation: drawn as one batch or step by step, valued, and chosen among."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.decoding import Conditioned, DataValue, NoisyValue, SoftDecoding, soft_decode
from diffrl.diffusion.guidance import best_of, softmax_of
from diffrl.diffusion.samplers import Solver
from diffrl.diffusion.schedules import Grid
from diffrl.learner import forward
from diffrl.types import Key, Params


@dataclasses.dataclass
class Decoding:
    """The choice when acting of methods that have a diffusion model and a critic.

    Attributes:
        decode: "own" for the method's own way, or "svdd": soft value-based decoding of the model, unguided, by the critic.
        svdd: how that is done; the model's levels and noise are those of the method's own way where it samples the model.
    """

    decode: Literal["own", "svdd"] = "own"
    svdd: SoftDecoding = dataclasses.field(default_factory=SoftDecoding)

    def require_noise(self, drawn: bool, remedy: str) -> None:
        """Refuses soft decoding by a sampler that draws nothing.

        Raises:
            ValueError: so it is; ends in the remedy.
        """
        if self.decode == "svdd" and not drawn:
            raise ValueError(f"act.decode='svdd' chooses among children, which are all the same without fresh noise: {remedy}")


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


def soft_action(
    model_of: Conditioned,
    value: DataValue,
    levels: Grid,
    solver: Solver,
    key: Key,
    observation: Float[Array, "batch observation"],
    dim: int,
    settings: SoftDecoding,
    noisy_value: NoisyValue | None = None,
) -> Float[Array, "batch dim"]:
    """One sample for each observation: the best of its chains by `value`. Arguments: see `soft_decode`."""
    chains = soft_decode(model_of, value, levels, solver, key, observation, dim, settings, noisy_value)
    if len(chains) == 1:
        return chains[0]
    values = value(jnp.tile(observation, (len(chains), 1)), chains.reshape(-1, dim))
    return best_of(chains, values.reshape(chains.shape[:2]))
