"""The U-Net over the steps of an action chunk (Chi et al. 2023, Diffusion Policy; Janner et al. 2022, Diffuser)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.networks.mlp import Linear, joined, mish
from diffrl.networks.mlp_denoiser import sinusoidal_features


class Conv(nn.Module):
    """Convolution along time with PyTorch's default initialisation.

    A matrix product of shifted copies: under `vmap` over runs and networks it stays a batched product, where a convolution would
    become one of many groups, for which neither CPUs nor GPUs have fast code.
    """

    features: int
    kernel: int = 5
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch time inputs"]) -> Float[Array, "batch steps features"]:
        pad = (self.kernel - 1) // 2
        padded = jnp.pad(x, ((0, 0), (pad, pad), (0, 0)))
        last = x.shape[1] + 2 * pad - self.kernel  # where the last patch may begin
        shifted = [padded[:, i : i + last + 1 : self.stride] for i in range(self.kernel)]
        return Linear(self.features)(jnp.concatenate(shifted, axis=-1))


class Upsample(nn.Module):
    """Twice as many steps: a transposed convolution of kernel 4 and stride 2, each new step of the two old ones beside it."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time inputs"]) -> Float[Array, "batch steps features"]:
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        pairs = jnp.concatenate([padded[:, :-1], padded[:, 1:]], axis=-1)
        even, odd = Linear(self.features)(pairs[:, :-1]), Linear(self.features)(pairs[:, 1:])
        return jnp.stack([even, odd], axis=2).reshape(len(x), -1, self.features)


class ConditionedConv(nn.Module):
    """Two convolutions with GroupNorm and mish, and a skip; between them the condition scales and shifts every channel."""

    features: int
    num_groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time inputs"], *conditions: Float[Array, "#batch _"]
    ) -> Float[Array, "batch time features"]:
        h = mish(nn.GroupNorm(self.num_groups, epsilon=1e-5)(Conv(self.features)(x)))
        scale, shift = jnp.split(joined(Linear(2 * self.features), *conditions)[:, None], 2, axis=-1)
        h = mish(nn.GroupNorm(self.num_groups, epsilon=1e-5)(Conv(self.features)(scale * h + shift)))
        return h + (x if x.shape[-1] == self.features else Linear(self.features)(x))


class ChunkUNet(nn.Module):
    """A prediction for every action of a noisy chunk, given the time and a condition: Diffusion Policy's network.

    Each width but the first halves the number of steps, which must be a multiple of 2^(number of widths - 1). As in its code what
    the first width made is not handed over to the way up.

    Attributes:
        hidden_dims: widths on the way down, multiples of `num_groups`.
        num_blocks: of every width down and up, and between.
        time_dim: of the time's features; t is not scaled.
    """

    action_dim: int
    hidden_dims: tuple[int, ...] = (256, 512, 512)
    num_blocks: int = 2
    time_dim: int = 256
    num_groups: int = 8

    @nn.compact
    def __call__(
        self,
        noised: Float[Array, "batch time action"],
        t: Float[Array, "#batch"],
        condition: Float[Array, "batch condition"],
    ) -> Float[Array, "batch time action"]:
        """`t` may be one for all: its features are then computed once."""
        time = mish(Linear(4 * self.time_dim)(sinusoidal_features(t, self.time_dim)))
        conditions = mish(Linear(self.time_dim)(time)), mish(condition)

        def blocks(x: Array, width: int) -> Array:
            for _ in range(self.num_blocks):
                x = ConditionedConv(width, self.num_groups)(x, *conditions)
            return x

        x, down = noised, []
        for level, width in enumerate(self.hidden_dims):
            x = blocks(Conv(self.hidden_dims[level - 1], kernel=3, stride=2)(x) if level else x, width)
            down.append(x)
        x = blocks(x, self.hidden_dims[-1])
        for width in reversed(self.hidden_dims[:-1]):
            x = Upsample(width)(blocks(jnp.concatenate([x, down.pop()], axis=-1), width))
        h = mish(nn.GroupNorm(self.num_groups, epsilon=1e-5)(Conv(self.hidden_dims[0])(x)))
        return Linear(self.action_dim)(h)


def chunk_unet_fits(length: int, hidden_dims: tuple[int, ...], num_groups: int = 8) -> bool:
    """Whether chunks of so many steps can be halved so often, and the widths have so many groups."""
    return length % 2 ** (len(hidden_dims) - 1) == 0 and all(width % num_groups == 0 for width in hidden_dims)
