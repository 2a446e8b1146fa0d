"""A conditional variational autoencoder of action chunks: BRIDGeR's variational source (Chen et al. 2024)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import MLP, elu
from diffrl.types import Key

STD_MIN, STD_MAX = 0.01, 10.0  # of the authors' code


class ChunkVAE(nn.Module):
    """u ~ N(μ, σ²) of observations and chunk; the chunk of observations and u. Both are flat."""

    chunk_dim: int
    hidden_dims: tuple[int, ...] = (512, 512, 512)
    latent_dim: int = 64

    def setup(self) -> None:
        self.encoder = MLP(self.hidden_dims, 2 * self.latent_dim, activation=elu)
        self.decoder = MLP(self.hidden_dims, self.chunk_dim, activation=elu)

    def encode(
        self, observations: Float[Array, "batch observations"], chunk: Float[Array, "batch chunk"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and deviation of u."""
        mean, spread = jnp.split(self.encoder(observations, chunk), 2, axis=-1)
        return mean, jnp.clip(nn.softplus(spread), STD_MIN, STD_MAX)

    def decode(
        self, observations: Float[Array, "batch observations"], latent: Float[Array, "batch latent"]
    ) -> Float[Array, "batch chunk"]:
        """The chunk of u."""
        return self.decoder(observations, latent)

    def __call__(
        self, observations: Float[Array, "batch observations"], chunk: Float[Array, "batch chunk"], key: Key
    ) -> tuple[Float[Array, "batch chunk"], Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """The chunk of a drawn u, and the mean and deviation that it was drawn from."""
        mean, std = self.encode(observations, chunk)
        return self.decode(observations, mean + std * jax.random.normal(key, mean.shape)), mean, std
