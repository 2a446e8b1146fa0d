"""The network of noise-conditioned scores: a multilayer perceptron whose hidden layers are gated by the noise level."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from diffrl.networks.mlp import Linear


class NoiseConditionedMLP(nn.Module):
    """elu(LN((W y + b) ⊙ e_i)) per hidden layer but the first, with a learnt row e_i per level i (Suh et al. 2023, code).

    The output is the noise ε = -σ_i · score, of one size at all levels, where the released code predicts the score itself.
    """

    output_dim: int
    num_levels: int
    hidden_dim: int = 1024
    num_layers: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"], level: Int[Array, "*batch"]) -> Float[Array, "*batch outputs"]:
        y = nn.elu(Linear(self.hidden_dim)(x))
        for _ in range(self.num_layers - 1):
            gate: Array = nn.Embed(self.num_levels, self.hidden_dim, embedding_init=nn.initializers.normal(1.0))(level)
            y = nn.elu(nn.LayerNorm()(Linear(self.hidden_dim)(y) * gate))
        return jnp.asarray(Linear(self.output_dim)(y))
