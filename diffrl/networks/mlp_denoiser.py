"""The plain network of noise predictors that follow a critic (QSM, DAC): an MLP on noised action, observation and time."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import MLP, mish, xavier_dense
from diffrl.networks.time_features import LearnedFourierFeatures


def sinusoidal_features(t: Float[Array, "*batch"], dim: int = 16) -> Float[Array, "*batch features"]:
    """[cos(ωt), sin(ωt)] with ω falling geometrically from 1 to 1/10,000 (Vaswani et al. 2017, as in DAC's code)."""
    half = dim // 2
    frequencies = jnp.exp(-jnp.arange(half) * jnp.log(10_000.0) / (half - 1))
    return jnp.concatenate([jnp.cos(t[..., None] * frequencies), jnp.sin(t[..., None] * frequencies)], axis=-1)


class MLPDenoiser(nn.Module):
    """ε(a_i, i, s) for the index i of a diffusion step, a plain number: time features, two dense layers, then a mish trunk.

    Attributes:
        time_features: "fourier", 64 learnt ones (QSM), or "sinusoidal", 16 fixed ones (DAC).
        time_dim: width of both layers of the time's own network; the second is linear.
    """

    action_dim: int
    hidden_dims: Sequence[int] = (512, 512)
    time_features: str = "fourier"
    time_dim: int = 128

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*batch action"],
        index: Float[Array, "*batch"],
        observation: Float[Array, "*batch observation"],
    ) -> Float[Array, "*batch action"]:
        features = LearnedFourierFeatures(32)(index) if self.time_features == "fourier" else sinusoidal_features(index)
        time = MLP((self.time_dim,), self.time_dim, activation=mish, dense=xavier_dense)(features)
        return MLP(self.hidden_dims, self.action_dim, activation=mish, dense=xavier_dense)(noised, observation, time)
