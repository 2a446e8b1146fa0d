"""The network that predicts the noise of an action and of its weight (SWG's released code, `SWG-JAX`)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.denoiser import residual_block
from diffrl.networks.mlp import xavier_dense
from diffrl.networks.time_features import LearnedFourierFeatures


class SelfWeightedDenoiser(nn.Module):
    """Noise of the action ε_a and of the weight ε_w for z = (a, w), an index of the diffusion step, and the observation.

    The two come apart so that the gradient of ε_w costs its own part of the network only: the early head leaves the trunk after
    two blocks. Joined and sliced again, reverse mode would push zeros through the whole trunk.

    Attributes:
        weight_head: "early" as in the released code, or "joint" with the action's.
    """

    action_dim: int
    hidden_dim: int = 256
    num_blocks: int = 3
    expansion: int = 4
    time_dim: int = 256
    dropout_rate: float = 0.1
    weight_head: str = "early"

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*batch joint"],
        index: Float[Array, "*batch"],
        observation: Float[Array, "*batch observation"],
        train: bool = False,
    ) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch 1"]]:
        time = LearnedFourierFeatures()(index)
        time = xavier_dense(self.time_dim)(nn.swish(xavier_dense(self.time_dim)(time)))
        h = xavier_dense(self.hidden_dim)(jnp.concatenate([noised, observation, time], axis=-1))
        early = h
        for block in range(self.num_blocks):
            h = residual_block(h, self.expansion, nn.Dense, nn.swish, self.dropout_rate, train)
            early = h if block < 2 else early
        if self.weight_head == "joint":
            out = xavier_dense(self.action_dim + 1)(nn.swish(h))
            return out[..., :-1], out[..., -1:]
        weight = xavier_dense(1)(nn.swish(xavier_dense(256)(early)))
        return xavier_dense(self.action_dim)(nn.swish(h)), weight
