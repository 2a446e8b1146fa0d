"""Linear layers with a named initialisation, activations, and the multilayer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float

from diffrl.types import Key


def torch_kernel_init() -> Initializer:
    """U(±1/√fan_in): the default of `torch.nn.Linear` weights."""
    return jax.nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


class Linear(nn.Module):
    """Affine map with PyTorch's default initialisation, U(±1/√fan_in) for weight and bias alike.

    Linen's own Dense cannot do this: a bias initialiser is not told the fan-in.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        bound = x.shape[-1] ** -0.5
        kernel = self.param("kernel", torch_kernel_init(), (x.shape[-1], self.features))
        bias = self.param(
            "bias", lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound), (self.features,)
        )
        product = x @ kernel
        return product + jax.lax.broadcast_to_rank(bias, product.ndim)


def orthogonal_init(gain: float) -> Initializer:
    """Orthogonal weights, one matrix after another under `vmap`.

    Two batched QR factorisations in one program can deadlock in jaxlib's CPU client (seen with 0.10.2 on two cores: the
    batched LAPACK call waits for the thread pool it runs on), so the batch is mapped, not batched.
    """
    initializer = jax.nn.initializers.orthogonal(gain)

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        @jax.custom_batching.custom_vmap
        def one(key: Key) -> Array:
            return initializer(key, tuple(shape), dtype, out_sharding)

        @one.def_vmap
        def _(axis_size: int, in_batched: list[bool], keys: Key) -> tuple[Array, bool]:
            del axis_size, in_batched
            return jax.lax.map(one, keys), True

        return one(key)

    return init


def orthogonal_dense(features: int) -> nn.Module:
    """Dense layer with orthogonal weights of gain √2 and zero bias, the initialisation of jaxrl and IQL."""
    return nn.Dense(features, kernel_init=orthogonal_init(2.0**0.5))


def unit_orthogonal_dense(features: int) -> nn.Module:
    """Dense layer with orthogonal weights of gain 1 and zero bias."""
    return nn.Dense(features, kernel_init=orthogonal_init(1.0))


def xavier_dense(features: int) -> nn.Dense:
    """Dense layer with Xavier-uniform weights and zero bias."""
    return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform())


def scaled_dense(scale: float) -> Callable[[int], nn.Module]:
    """Makes dense layers with Xavier-uniform weights whose variance is `scale` times theirs, and zero bias."""
    return lambda features: nn.Dense(features, kernel_init=nn.initializers.variance_scaling(scale, "fan_avg", "uniform"))


def uniform_dense(bound: float) -> Callable[[int], nn.Module]:
    """Makes dense layers with weights and bias U(±bound), as a policy or a critic may end to start near 0."""

    def init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return lambda features: nn.Dense(features, kernel_init=init, bias_init=init)


def lifted_dense(features: int) -> nn.Dense:
    """Dense layer with PyTorch's weights, U(±1/√fan_in), and a bias of 0.1 (EDAC, ReBRAC)."""
    return nn.Dense(features, kernel_init=torch_kernel_init(), bias_init=nn.initializers.constant(0.1))


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


@jax.custom_jvp
def elu(x: Array) -> Array:
    """x where it is positive, else e^x - 1: by one exponential, where `expm1` costs most of a small network's pass on a CPU."""
    return jnp.maximum(x, 0.0) + (jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


@elu.defjvp
def _elu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return elu(x), tangent * jnp.exp(jnp.minimum(x, 0.0))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "elu": elu,
    "gelu": nn.gelu,
    "swish": nn.swish,
    "mish": mish,
}


def joined(layer: nn.Module, *inputs: Float[Array, "*#batch _"]) -> Float[Array, "*#batch features"]:
    """An affine layer of all inputs as one, along the last axis; what has fewer rows is multiplied once and broadcast.

    So many candidates for one observation do not make copies of it, and steps of one time share its features.
    """
    if len({x.shape[:-1] for x in inputs}) == 1:
        return layer(jnp.concatenate(inputs, axis=-1))  # pyright: ignore[reportCallIssue]
    kernel, bias = (layer.variables["params"][name] for name in ("kernel", "bias"))
    parts = jnp.split(kernel, np.cumsum([x.shape[-1] for x in inputs])[:-1])
    products = sorted((x @ part for x, part in zip(inputs, parts, strict=True)), key=lambda product: product.size)
    bias, *products = (jax.lax.broadcast_to_rank(each, max(x.ndim for x in inputs)) for each in (bias, *products))
    return sum(products, bias)


class MLP(nn.Module):
    """Hidden layers with an activation, then a linear output; inputs are `joined`.

    Attributes:
        layer_norm: normalises every hidden layer "after" its activation (ReBRAC, FQL), or all but the first "before" it (SGP's
            dynamics and reward models).
        dense, output_dense: make the layers, and the last one where that is another kind.
    """

    hidden_dims: Sequence[int]
    output_dim: int
    activation: Callable[[Array], Array] = nn.relu
    output_activation: Callable[[Array], Array] | None = None
    dense: Callable[[int], nn.Module] = Linear
    layer_norm: Literal["", "before", "after"] = ""
    output_dense: Callable[[int], nn.Module] | None = None

    @nn.compact
    def __call__(self, *inputs: Float[Array, "*#batch _"]) -> Float[Array, "*#batch outputs"]:
        for index, width in enumerate(self.hidden_dims):
            x = joined(self.dense(width), *inputs)
            if self.layer_norm == "before" and index:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
            if self.layer_norm == "after":
                x = nn.LayerNorm()(x)
            inputs = (x,)
        x = joined((self.output_dense or self.dense)(self.output_dim), *inputs)
        return x if self.output_activation is None else self.output_activation(x)
