"""The U-Net of action chunks: its convolutions against the library's, its sizes, and what sees what."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick

from diffrl.networks.chunk_unet import ChunkUNet, Conv, Upsample, chunk_unet_fits


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2)])
def test_convolution(kernel: int, stride: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 8, 3))
    ours = Conv(4, kernel, stride)
    params = ours.init(jax.random.key(1), x)["params"]["Linear_0"]
    theirs = nn.Conv(4, (kernel,), (stride,), padding=[((kernel - 1) // 2,) * 2])
    given = {"params": {"kernel": params["kernel"].reshape(kernel, 3, 4), "bias": params["bias"]}}
    expected = theirs.apply(given, x)
    np.testing.assert_allclose(ours.apply({"params": {"Linear_0": params}}, x), expected, rtol=1e-5, atol=1e-5)


def test_transposed_convolution() -> None:
    """Each old step adds itself, times four matrices, to the four new steps around it."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    network = Upsample(5)
    params = network.init(jax.random.key(1), x)["params"]
    even, odd = (np.asarray(params[f"Linear_{i}"]["kernel"]).reshape(2, 3, 5) for i in (0, 1))
    expected = np.zeros((2, 10, 5))  # the new steps -1 … 8
    for i, old in enumerate(np.moveaxis(np.asarray(x), 1, 0)):
        for offset, matrix in ((-1, odd[1]), (0, even[1]), (1, odd[0]), (2, even[0])):
            expected[:, 2 * i + offset + 1] += old @ matrix
    expected = expected[:, 1:-1] + np.tile(np.stack([params[f"Linear_{i}"]["bias"] for i in (0, 1)]), (4, 1))
    np.testing.assert_allclose(network.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_shapes_and_times() -> None:
    """One time for all is the time of each."""
    network, rng = ChunkUNet(2, (8, 16), num_blocks=1, time_dim=8), np.random.default_rng(0)
    x, condition = jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32), jnp.ones((3, 4))
    shapes = jax.eval_shape(network.init, jax.random.key(1), x, jnp.zeros(3), condition)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes)
    apply = quick(network.apply)
    out = apply(params, x, jnp.full(3, 0.4), condition)
    assert out.shape == x.shape
    np.testing.assert_allclose(apply(params, x, jnp.full(1, 0.4), condition), out, rtol=1e-4, atol=1e-5)
    assert not np.allclose(apply(params, x, jnp.full(1, 0.5), condition), out, atol=1e-4)
    assert not np.allclose(apply(params, x, jnp.full(3, 0.4), 2 * condition), out, atol=1e-4)


def test_size_of_the_published_network() -> None:
    """Adroit's door, 28 actions and 4 observations of 39 numbers: counted by hand of Diffusion Policy's code."""
    network = ChunkUNet(28)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 28)), jnp.zeros(1), jnp.zeros((1, 156)))
    condition = 256 + 156

    def block(inputs: int, width: int) -> int:
        convolutions = 5 * inputs * width + 5 * width * width + 2 * width + 4 * width
        return convolutions + (condition + 1) * 2 * width + ((inputs + 1) * width if inputs != width else 0)

    time = 257 * 1024 + 1025 * 256
    down = block(28, 256) + block(256, 256) + block(256, 512) + 3 * block(512, 512)
    down += 3 * 256 * 256 + 256 + 3 * 512 * 512 + 512
    middle = 2 * block(512, 512)
    up = block(1024, 512) + block(512, 512) + block(1024, 256) + block(256, 256)
    up += 2 * (2 * 512 * 512 + 512) + 2 * (2 * 256 * 256 + 256)
    last = 5 * 256 * 256 + 256 + 512 + 257 * 28
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == time + down + middle + up + last


def test_what_fits() -> None:
    assert chunk_unet_fits(16, (256, 512, 512))
    assert not chunk_unet_fits(18, (256, 512, 512))
    assert not chunk_unet_fits(16, (256, 500))
    assert chunk_unet_fits(3, (16,))
