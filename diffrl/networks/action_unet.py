"""The U-shaped network of actions that models behaviour in SfBC and QGPO."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import Linear
from diffrl.networks.time_features import GaussianFourierFeatures


class ConditionedBlock(nn.Module):
    """Two dense layers with SiLU and a skip; the condition is added between them."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"], condition: Float[Array, "*#batch _"]) -> Float[Array, "*batch features"]:
        h = nn.silu(Linear(self.features)(x)) + Linear(self.features)(nn.silu(condition))
        h = nn.silu(Linear(self.features)(h))
        return h + (x if x.shape[-1] == self.features else Linear(self.features)(x))


class ActionUNet(nn.Module):
    """ε(a_t, t, s): blocks that narrow and widen again, each seeing time and state (SfBC; Lu et al. 2023, their code).

    The code's network is -ε/σ, a score; with the loss it is trained by, (σ score + z)², that is the same network up to the sign
    of its last layer. Where many actions share a time and a state, these may have an axis of one: what they say is then computed
    once. Variables: "params", and "constants" (the time frequencies).

    Attributes:
        hidden_dims: widths on the way down; a block on the way up is as wide as its two inputs together.
        feature_dim: of the time's and of the state's features; their joint condition is four times as wide.
    """

    action_dim: int
    hidden_dims: tuple[int, ...] = (512, 256, 128)
    feature_dim: int = 32

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*batch action"],
        t: Float[Array, "*#batch"],
        observation: Float[Array, "*#batch observation"],
    ) -> Float[Array, "*batch action"]:
        time = Linear(self.feature_dim)(GaussianFourierFeatures(self.feature_dim // 2)(t))
        state = nn.silu(Linear(self.feature_dim)(observation))
        condition = nn.silu(Linear(4 * self.feature_dim)(jnp.concatenate([state, time], axis=-1)))
        condition = Linear(4 * self.feature_dim)(condition)
        down, x = [], noised
        for width in self.hidden_dims:
            x = ConditionedBlock(width)(x, condition)
            down.append(x)
        x = ConditionedBlock(self.hidden_dims[-1])(x, condition)
        while len(down) > 1:
            x = jnp.concatenate([down.pop(), x], axis=-1)
            x = ConditionedBlock(x.shape[-1])(x, condition)
        return Linear(self.action_dim)(jnp.concatenate([down.pop(), x], axis=-1))
