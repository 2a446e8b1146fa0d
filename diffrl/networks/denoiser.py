"""The LayerNorm residual network that predicts noise in IDQL and SRPO, and its time features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import Linear


@jax.custom_jvp
def mish(x: Array) -> Array:
    """x · tanh(softplus(x)), written with one exponential: tanh(log(1 + n)) = n (n + 2) / (n (n + 2) + 2) for n = e^x."""
    _, w = _exponentials(x)
    return x * w / (w + 2.0)


@mish.defjvp
def _mish_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The derivative in closed form: differentiated step by step, each intermediate is kept, and costs a pass over memory."""
    (x,), (tangent,) = primals, tangents
    n, w = _exponentials(x)
    slope = w / (w + 2.0) + 4.0 * x * n * (n + 1.0) / (w + 2.0) ** 2
    return mish(x), slope * tangent


def _exponentials(x: Array) -> tuple[Array, Array]:
    n = jnp.exp(jnp.minimum(x, 20.0))  # beyond 20 the ratio is 1 in float32
    return n, n * (n + 2.0)


class GaussianFourierFeatures(nn.Module):
    """[sin(2πWt), cos(2πWt)] with fixed W ~ N(0, scale²), `[*batch, 2 · num_frequencies]`.

    W is drawn at initialisation and lives in the collection "constants": neither trained nor decayed, but saved. The
    product is element-wise in float32: phases reach hundreds of radians and a low-precision matmul would destroy them.
    """

    num_frequencies: int = 32
    scale: float = 30.0

    @nn.compact
    def __call__(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch features"]:
        frequencies = self.variable(
            "constants",
            "frequencies",
            lambda: self.scale * jax.random.normal(self.make_rng("params"), (self.num_frequencies,)),
        ).value
        phase = 2.0 * jnp.pi * frequencies * t[..., None].astype(jnp.float32)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


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
