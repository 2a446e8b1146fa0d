"""Gaussian policies: that of IQL and of maximum-likelihood cloning, and the squashed one of soft actor-critics."""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.learner import forward
from diffrl.networks.mlp import MLP, Linear
from diffrl.types import Carry, Key, Params, Policy

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class GaussianPolicy:
    """N(tanh(MLP(s)), diag(σ²)), not squashed.

    log σ is clipped to [-5, 2]. It is one free parameter per action dimension, as in IQL (Kostrikov et al. 2021), or with
    `state_dependent_std` a second output of the network. Parameters: `network`, and `log_std` where it is free.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int],
        action_dim: int,
        dense: Callable[[int], nn.Module] = Linear,
        state_dependent_std: bool = False,
    ) -> None:
        self.network = MLP(hidden_dims, 2 * action_dim if state_dependent_std else action_dim, dense=dense)
        self.action_dim = action_dim
        self.state_dependent_std = state_dependent_std

    def init(self, key: Key, observation: Float[Array, "batch observation"]) -> Params:
        """Fresh parameters; a free log σ starts at 0."""
        params = {"network": self.network.init(key, observation)["params"]}
        return params if self.state_dependent_std else params | {"log_std": jnp.zeros(self.action_dim)}

    def mean_and_log_std(
        self, params: Params, observation: Float[Array, "*batch observation"]
    ) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch action"]]:
        """Mean in (-1, 1), and the clipped log σ."""
        output = forward(self.network, params["network"], observation)
        mean, log_std = jnp.split(output, 2, axis=-1) if self.state_dependent_std else (output, params["log_std"])
        return jnp.tanh(mean), jnp.broadcast_to(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX), mean.shape)

    def mode(self, params: Params, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch action"]:
        """The likeliest action: the mean."""
        return self.mean_and_log_std(params, observation)[0]

    def log_prob(
        self, params: Params, observation: Float[Array, "*batch observation"], action: Float[Array, "*batch action"]
    ) -> Float[Array, "*batch"]:
        """Log density in nats, summed over action dimensions."""
        mean, log_std = self.mean_and_log_std(params, observation)
        z = (action - mean) / jnp.exp(log_std)
        return jnp.sum(-0.5 * z**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi), axis=-1)


def squashed(
    mean: Float[Array, "*batch action"], log_std: Float[Array, "*batch action"], key: Key
) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch"]]:
    """tanh of a Gaussian sample, and its log density in nats (SAC, app. C; log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)))."""
    noise = jax.random.normal(key, mean.shape)
    u = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    return jnp.tanh(u), jnp.sum(gaussian - 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)


def distribution(
    policy: nn.Module, params: Params, observation: Float[Array, "*batch observation"], log_std_min: float = -10.0
) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch action"]]:
    """Mean and log σ of the Gaussian before the tanh."""
    mean, log_std = jnp.split(forward(policy, params, observation), 2, axis=-1)
    return mean, jnp.clip(log_std, log_std_min, LOG_STD_MAX)


def kl_divergence(mean: Float[Array, "*batch dim"], std: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
    """KL(N(mean, std²) ‖ N(0, I)) in nats, summed over the last axis."""
    return 0.5 * jnp.sum(std**2 + mean**2 - 1.0 - 2.0 * jnp.log(std), axis=-1)


@dataclasses.dataclass
class Act:
    """Choices made when acting by a squashed Gaussian.

    Attributes:
        deterministic: take the mean's tanh, as evaluations do; otherwise sample.
    """

    deterministic: bool = True


def squashed_ways(
    network: nn.Module, choice: Act
) -> tuple[Callable[..., tuple[Array, Carry]], Callable[..., tuple[Array, Carry]]]:
    """`act` and `explore` of a method whose policy is this network's parameters."""

    def explore(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        return squashed(*distribution(network, policy, observation), key)[0], carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        if not choice.deterministic:
            return explore(policy, carry, observation, key)
        return jnp.tanh(distribution(network, policy, observation)[0]), carry

    return act, explore
