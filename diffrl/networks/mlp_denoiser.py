"""The plain network of noise predictors that follow a critic (QSM, DAC, Diffusion-QL, EDP): an MLP on noised action,
observation and time.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import MLP, mish, xavier_dense
from diffrl.networks.time_features import LearnedFourierFeatures


def sinusoidal_features(t: Float[Array, "*batch"], dim: int = 16, closed: bool = True) -> Float[Array, "*batch features"]:
    """[cos(ωt), sin(ωt)] with ω falling geometrically from 1 to 1/10,000 (Vaswani et al. 2017).

    The last of the dim/2 frequencies is 1/10,000 itself where `closed` (DAC's and Diffusion-QL's code), and one ratio before it
    otherwise (EDP's).
    """
    half = dim // 2
    frequencies = jnp.exp(-jnp.arange(half) * jnp.log(10_000.0) / (half - 1 if closed else half))
    phase = t[..., None] * jax.lax.broadcast_to_rank(frequencies, t.ndim + 1)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class MLPDenoiser(nn.Module):
    """ε(a_i, i, s) for the index i of a diffusion step, a plain number: time features, two dense layers, then a mish trunk.

    The order of the inputs, and that of sines and cosines, permutes rows of a dense layer: it is not that of any one code.

    Attributes:
        time_features: "fourier", 64 learnt ones (QSM), or 16 fixed ones, "sinusoidal" (DAC, Diffusion-QL) or "sinusoidal_open"
            (EDP).
        time_dims: widths of the two layers of the time's own network; the second is linear.
        dense: makes a layer of a width, with its initialisation.
    """

    action_dim: int
    hidden_dims: Sequence[int] = (512, 512)
    time_features: str = "fourier"
    time_dims: tuple[int, int] = (128, 128)
    dense: Callable[[int], nn.Module] = xavier_dense

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "*batch action"],
        index: Float[Array, "*#batch"],
        observation: Float[Array, "*batch observation"],
    ) -> Float[Array, "*batch action"]:
        if self.time_features == "fourier":
            features = LearnedFourierFeatures(32)(index)
        else:
            features = sinusoidal_features(index, closed=self.time_features == "sinusoidal")
        hidden, width = self.time_dims
        time = MLP((hidden,), width, activation=mish, dense=self.dense)(features)
        time = jnp.broadcast_to(time, (*noised.shape[:-1], width))
        return MLP(self.hidden_dims, self.action_dim, activation=mish, dense=self.dense)(noised, observation, time)
