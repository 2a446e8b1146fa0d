"""Several independent networks as one, with stacked parameters and batched products; and the networks of values."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax import Array
from jaxtyping import Float, Int

from diffrl.networks.mlp import MLP, Linear
from diffrl.types import Params


def ensemble(module: type[nn.Module], size: int, *, shared_inputs: bool = True) -> type[nn.Module]:
    """A module class whose parameters have a leading axis of `size` and whose output has it too.

    Members see the same inputs, or else each its own along a leading axis.
    """
    return nn.vmap(
        module,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None if shared_inputs else 0,  # pyright: ignore[reportArgumentType]
        out_axes=0,
        axis_size=size,
    )


class Critics(nn.Module):
    """Independent action values Q_k(s, a), `[num_critics, batch]`. The action comes first, as in SRPO's code."""

    hidden_dims: Sequence[int]
    num_critics: int = 2
    dense: Callable[[int], nn.Module] = Linear
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(
        self, observation: Float[Array, "*batch observation"], action: Float[Array, "*batch action"]
    ) -> Float[Array, "critics *batch"]:
        members = ensemble(MLP, self.num_critics)
        return members(self.hidden_dims, 1, dense=self.dense, activation=self.activation)(action, observation)[..., 0]


def member(params: Params, index: Int[Array, ""] | int) -> Params:
    """One network of an ensemble, as the parameters of an ensemble of one."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), params)


class Value(nn.Module):
    """State value V(s), `[batch]`."""

    hidden_dims: Sequence[int]
    dense: Callable[[int], nn.Module] = Linear
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch"]:
        return MLP(self.hidden_dims, 1, dense=self.dense, activation=self.activation)(observation)[..., 0]
