"""A multilayer perceptron that is told the diffusion time: the networks of energies, and of the toys' data."""

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import MLP
from diffrl.networks.time_features import GaussianFourierFeatures


class TimeMLP(nn.Module):
    """An MLP of x, of Fourier features of t and of what else it is given, with SiLU.

    Variables: "params", and "constants" (the time frequencies).
    """

    hidden_dims: tuple[int, ...]
    output_dim: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch dim"], t: Float[Array, "*#batch"], *others: Float[Array, "*#batch _"]
    ) -> Float[Array, "*batch outputs"]:
        time = GaussianFourierFeatures(num_frequencies=16)(t)
        return MLP(self.hidden_dims, self.output_dim, activation=nn.silu)(x, time, *others)
