"""The LayerNorm residual network that predicts noise in IDQL and SRPO."""

from collections.abc import Callable

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import Linear, joined, mish
from diffrl.networks.time_features import GaussianFourierFeatures


def residual_block(
    h: Float[Array, "*batch width"],
    expansion: int,
    dense: Callable[[int], nn.Module],
    activation: Callable[[Array], Array],
    dropout_rate: float,
    train: bool,
    epsilon: float = 1e-6,
) -> Float[Array, "*batch width"]:
    """h + W_2 activation(W_1 LayerNorm(dropout(h))), `expansion` times as wide inside; layers are the calling module's."""
    width = h.shape[-1]
    y = nn.Dropout(dropout_rate, deterministic=not train)(h)
    y = nn.LayerNorm(epsilon=epsilon)(y)
    return h + dense(width)(activation(dense(expansion * width)(y)))


class ResidualDenoiser(nn.Module):
    """ε(a_t, t, s): SRPO's LN-ResNet (paper Appendix C; code `model.py`), 3 blocks of 256 × 4 at its published size.

    The output is not divided by σ_t. Variables: "params", and where the features of time are fixed "constants", which they are.

    Attributes:
        time_features: of t, as it is given.
        activation: between layers; SRPO's and IDQL's is mish.
        dense, block_dense: the layers around the blocks, and those in them.
        epsilon: of LayerNorm.
    """

    action_dim: int
    hidden_dim: int = 256
    num_blocks: int = 3
    expansion: int = 4
    time_dim: int = 128
    dropout_rate: float = 0.1
    time_features: Callable[[], nn.Module] = GaussianFourierFeatures
    activation: Callable[[Array], Array] = mish
    dense: Callable[[int], nn.Module] = Linear
    block_dense: Callable[[int], nn.Module] = Linear
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*#batch action"],
        t: Float[Array, "*#batch"],
        observation: Float[Array, "*#batch observation"],
        train: bool = False,
    ) -> Float[Array, "*#batch action"]:
        act, dense = self.activation, self.dense
        time = dense(self.time_dim)(act(dense(self.time_dim)(self.time_features()(t))))
        h = joined(dense(self.hidden_dim), noised, observation, time)
        for _ in range(self.num_blocks):
            h = residual_block(h, self.expansion, self.block_dense, act, self.dropout_rate, train, self.epsilon)
        return dense(self.action_dim)(act(h))
