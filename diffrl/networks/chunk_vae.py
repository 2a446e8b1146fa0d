"""Conditional variational autoencoders of action chunks: BRIDGeR's source (Chen et al. 2024), LDCQ's and DIAR's skills."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.ensembles import ensemble
from diffrl.networks.mlp import MLP, Linear, elu, torch_kernel_init
from diffrl.types import Key

STD_MIN, STD_MAX = 0.01, 10.0  # of BRIDGeR's code


def mean_and_std(output: Float[Array, "*batch outputs"]) -> tuple[Float[Array, "*batch dim"], Float[Array, "*batch dim"]]:
    """A Gaussian of what a network says: the first half its mean, the softplus of the second its deviation, within bounds."""
    mean, spread = jnp.split(output, 2, axis=-1)
    return mean, jnp.clip(nn.softplus(spread), STD_MIN, STD_MAX)


class ChunkVAE(nn.Module):
    """u ~ N(μ, σ²) of observations and chunk; the chunk of observations and u. Both are flat.

    A part of a chunk may be decoded at a time, of the observations that it is known to follow: all broadcast.
    """

    chunk_dim: int
    hidden_dims: tuple[int, ...] = (512, 512, 512)
    latent_dim: int = 64
    activation: Callable[[Array], Array] = elu
    layer_norm: Literal["", "before", "after"] = ""

    def setup(self) -> None:
        network = partial(MLP, self.hidden_dims, activation=self.activation, layer_norm=self.layer_norm)
        self.encoder = network(2 * self.latent_dim)
        self.decoder = network(self.chunk_dim)

    def encode(
        self, observations: Float[Array, "batch observations"], chunk: Float[Array, "batch chunk"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and deviation of u."""
        return mean_and_std(self.encoder(observations, chunk))

    def decode(
        self, observations: Float[Array, "*#batch observations"], latent: Float[Array, "*#batch latent"]
    ) -> Float[Array, "*#batch chunk"]:
        """The chunk of u."""
        return self.decoder(observations, latent)

    def __call__(
        self, observations: Float[Array, "batch observations"], chunk: Float[Array, "batch chunk"], key: Key
    ) -> tuple[Float[Array, "batch chunk"], Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """The chunk of a drawn u, and the mean and deviation that it was drawn from."""
        mean, std = self.encode(observations, chunk)
        return self.decode(observations, mean + std * jax.random.normal(key, mean.shape)), mean, std


class GRU(nn.Module):
    """A gated recurrent unit along time (Cho et al. 2014), as PyTorch has it; its first state is learnt, from 0."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time inputs"]) -> Float[Array, "batch time features"]:
        width = self.features
        recurrent = self.param("recurrent", torch_kernel_init(), (width, 3 * width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        begin = self.param("begin", nn.initializers.zeros, (width,))
        read = Linear(3 * width)(x)  # of all steps at once

        def step(h: Array, read: Array) -> tuple[Array, Array]:
            (reset, keep, new), told = jnp.split(read, 3, axis=-1), h @ recurrent
            reset, keep = nn.sigmoid(reset + told[:, :width]), nn.sigmoid(keep + told[:, width : 2 * width])
            new = jnp.tanh(new + reset * (told[:, 2 * width :] + bias[None]))
            h = (1.0 - keep) * new + keep * h
            return h, h

        # By itself: before training `begin` is the same for all runs, and a loop's state must differ over them from the start.
        first, _ = step(jnp.tile(begin, (len(x), 1)), read[:, 0])
        _, others = jax.lax.scan(step, first, jnp.moveaxis(read[:, 1:], 1, 0))
        return jnp.concatenate([first[:, None], jnp.moveaxis(others, 0, 1)], axis=1)


class SkillVAE(nn.Module):
    """z of H steps of states and actions; of z each action, given its own state, and the state that the H steps lead to.

    After Venkatraman et al. 2024 (LDCQ) and Park et al. 2024 (DIAR). Also a prior of z, given the first state.

    Attributes:
        encoder_hidden_dims: widths of the layers of a GRU that reads the steps both ways, whose last states are encoded; () hands
            over the steps as they are, flat.
        hidden_dims: of everything else, GELU and then LayerNorm behind each.
    """

    observation_dim: int
    action_dim: int
    encoder_hidden_dims: tuple[int, ...] = (128, 128)
    hidden_dims: tuple[int, ...] = (128, 128)
    latent_dim: int = 16

    def setup(self) -> None:
        network = partial(MLP, self.hidden_dims, activation=nn.gelu, layer_norm="after")
        self.readers = [ensemble(GRU, 2, shared_inputs=False)(width) for width in self.encoder_hidden_dims]
        self.steps = ChunkVAE(self.action_dim, self.hidden_dims, self.latent_dim, nn.gelu, "after")
        self.ends = network(self.observation_dim)
        self.priors = network(2 * self.latent_dim)

    def encode(
        self, observations: Float[Array, "batch time observation"], actions: Float[Array, "batch time action"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and deviation of z."""
        steps = jnp.concatenate([observations, actions], axis=-1)
        if not self.readers:
            return self.steps.encode(observations[:, 0], steps.reshape(len(steps), -1))
        for reader in self.readers:
            there, back = reader(jnp.stack([steps, steps[:, ::-1]]))
            steps = jnp.concatenate([there, back[:, ::-1]], axis=-1)
        return self.steps.encode(observations[:, 0], jnp.concatenate([there[:, -1], back[:, -1]], axis=-1))

    def act(
        self, observation: Float[Array, "*#batch observation"], latent: Float[Array, "*#batch latent"]
    ) -> Float[Array, "*#batch action"]:
        """What is done in a state while z is carried out."""
        return self.steps.decode(observation, latent)

    def end(
        self, observation: Float[Array, "*#batch observation"], latent: Float[Array, "*#batch latent"]
    ) -> Float[Array, "*#batch observation"]:
        """The state after H steps of z from this one."""
        return self.ends(observation, latent)

    def prior(
        self, observation: Float[Array, "*batch observation"]
    ) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch latent"]]:
        """Mean and deviation of z where nothing but the first state is known."""
        return mean_and_std(self.priors(observation))

    def __call__(
        self, observations: Float[Array, "batch time observation"], actions: Float[Array, "batch time action"]
    ) -> tuple[Array, Array, Array]:
        """First action and end of the mean of z, and the mean of the prior: all of the network, to initialise it by."""
        (mean, _), first = self.encode(observations, actions), observations[:, 0]
        return self.act(first, mean), self.end(first, mean), self.prior(first)[0]
