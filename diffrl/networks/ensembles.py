"""Several independent networks as one, with stacked parameters and batched products; and the networks of values."""

from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import jax
from jax import Array
from jaxtyping import Float, Int

from diffrl.networks.mlp import MLP, Linear, xavier_dense
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
    """Independent action values Q_k(s, a), `[num_critics, batch]`. The action comes first, as in SRPO's code.

    `output_dense` makes the last layer, `layer_norm` is as in MLP.
    """

    hidden_dims: Sequence[int]
    num_critics: int = 2
    dense: Callable[[int], nn.Module] = Linear
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: Literal["", "before", "after"] = ""
    output_dense: Callable[[int], nn.Module] | None = None

    @nn.compact
    def __call__(
        self, observation: Float[Array, "*#batch observation"], action: Float[Array, "*#batch action"]
    ) -> Float[Array, "critics *#batch"]:
        members = ensemble(MLP, self.num_critics)(
            self.hidden_dims,
            1,
            dense=self.dense,
            activation=self.activation,
            layer_norm=self.layer_norm,
            output_dense=self.output_dense,
        )
        return members(action, observation)[..., 0]


class _Towers(nn.Module):
    """A value of two inputs that layers of their own read first, GELU and then LayerNorm behind each."""

    hidden_dims: Sequence[int]
    latent_hidden_dims: Sequence[int]

    @nn.compact
    def __call__(
        self, observation: Float[Array, "*#batch observation"], latent: Float[Array, "*#batch latent"]
    ) -> Float[Array, "*#batch"]:
        def tower(hidden_dims: Sequence[int], x: Array) -> Array:
            *hidden, width = hidden_dims
            return nn.LayerNorm()(MLP(hidden, width, activation=nn.gelu, layer_norm="after", output_activation=nn.gelu)(x))

        read = tower(self.hidden_dims, observation), tower(self.latent_hidden_dims, latent)
        return MLP(self.hidden_dims, 1, activation=nn.gelu, layer_norm="after")(*read)[..., 0]


class TowerCritics(nn.Module):
    """Independent values Q_k(s, z) of latents `[num_critics, batch]`, whose states are read apart (LDCQ; DIAR).

    So of many latents for one state it is read once.
    """

    hidden_dims: Sequence[int]
    latent_hidden_dims: Sequence[int]
    num_critics: int = 2

    @nn.compact
    def __call__(
        self, observation: Float[Array, "*#batch observation"], latent: Float[Array, "*#batch latent"]
    ) -> Float[Array, "critics *#batch"]:
        return ensemble(_Towers, self.num_critics)(self.hidden_dims, self.latent_hidden_dims)(observation, latent)


def member(params: Params, index: Int[Array, ""] | int) -> Params:
    """One network of an ensemble, as the parameters of an ensemble of one."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index, 1), params)


class Value(nn.Module):
    """State value V(s), `[batch]`."""

    hidden_dims: Sequence[int]
    dense: Callable[[int], nn.Module] = Linear
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: Literal["", "before", "after"] = ""

    @nn.compact
    def __call__(self, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch"]:
        network = MLP(self.hidden_dims, 1, dense=self.dense, activation=self.activation, layer_norm=self.layer_norm)
        return network(observation)[..., 0]


class NormalizedValue(nn.Module):
    """V(s) whose first layer normalises the observation across its own features (LayerNorm), as SWG's and IDQL's later code do.

    That takes an observation's mean and scale away: of a maze's four numbers two degrees of freedom are left. Without
    `normalize` it is a plain MLP.
    """

    hidden_dims: tuple[int, ...]
    normalize: bool = True

    @nn.compact
    def __call__(self, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch"]:
        x = nn.LayerNorm()(observation) if self.normalize else observation
        for width in self.hidden_dims:
            x = nn.relu(xavier_dense(width)(x))
        return xavier_dense(1)(x)[..., 0]
