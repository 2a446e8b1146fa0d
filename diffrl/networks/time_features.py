"""Features of diffusion time: fixed and learnt random frequencies."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


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
        phase = jax.lax.broadcast_to_rank(2.0 * jnp.pi * frequencies, t.ndim + 1) * t[..., None].astype(jnp.float32)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class LearnedFourierFeatures(nn.Module):
    """[cos(2πkt), sin(2πkt)] with learnt k ~ N(0, scale²) at the start, `[*batch, 2 · num_frequencies]`."""

    num_frequencies: int = 64
    scale: float = 0.2

    @nn.compact
    def __call__(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch features"]:
        frequencies = self.param("frequencies", nn.initializers.normal(self.scale), (self.num_frequencies,))
        phase = jax.lax.broadcast_to_rank(2.0 * jnp.pi * frequencies, t.ndim + 1) * t[..., None]
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)
