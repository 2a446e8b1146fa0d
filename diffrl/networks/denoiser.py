"""The LayerNorm residual network that predicts noise in IDQL and SRPO."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import Linear, mish
from diffrl.networks.time_features import GaussianFourierFeatures


class ResidualDenoiser(nn.Module):
    """ε(a_t, t, s): SRPO's LN-ResNet (paper Appendix C; code `model.py`), 3 blocks of 256 × 4 at its published size.

    The output is not divided by σ_t. Variables: "params", and "constants" (the time frequencies).
    """

    action_dim: int
    hidden_dim: int = 256
    num_blocks: int = 3
    expansion: int = 4
    time_dim: int = 128
    dropout_rate: float = 0.1

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*batch action"],
        t: Float[Array, "*batch"],
        observation: Float[Array, "*batch observation"],
        train: bool = False,
    ) -> Float[Array, "*batch action"]:
        time = GaussianFourierFeatures()(t)
        time = Linear(self.time_dim)(mish(Linear(self.time_dim)(time)))
        h = Linear(self.hidden_dim)(jnp.concatenate([noised, observation, time], axis=-1))
        for _ in range(self.num_blocks):
            y = nn.Dropout(self.dropout_rate, deterministic=not train)(h)
            y = nn.LayerNorm(epsilon=1e-5)(y)
            y = Linear(self.hidden_dim)(mish(Linear(self.expansion * self.hidden_dim)(y)))
            h = h + y
        return Linear(self.action_dim)(mish(h))
