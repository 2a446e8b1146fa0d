"""The policy over discrete actions: a softmax of a network's outputs, over the one-hot rows that training sees."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import optax
from jax import Array
from jaxtyping import Float

from diffrl.learner import forward
from diffrl.networks.mlp import MLP, Linear
from diffrl.types import Key, Params


def log_prob(logits: Float[Array, "*batch actions"], action: Float[Array, "*batch actions"]) -> Float[Array, "*batch"]:
    """log π(a | s) in nats of one-hot actions, π the softmax of the logits."""
    return -optax.softmax_cross_entropy(logits, action)


def drawn(logits: Float[Array, "*batch actions"], key: Key) -> Float[Array, "*batch actions"]:
    """Scores whose largest is at an action drawn from the softmax (Gumbel)."""
    return logits + jax.random.gumbel(key, logits.shape)


class CategoricalPolicy:
    """softmax(MLP(s)), with what `GaussianPolicy` offers of actions in a box. Parameters: `network`."""

    def __init__(self, hidden_dims: Sequence[int], num_actions: int, dense: Callable[[int], nn.Module] = Linear) -> None:
        self.network = MLP(hidden_dims, num_actions, dense=dense)

    def init(self, key: Key, observation: Float[Array, "batch observation"]) -> Params:
        """Fresh parameters."""
        return {"network": self.network.init(key, observation)["params"]}

    def mode(self, params: Params, observation: Float[Array, "*batch observation"]) -> Float[Array, "*batch actions"]:
        """Scores, the largest at the likeliest action: the logits."""
        return forward(self.network, params["network"], observation)

    def log_prob(
        self, params: Params, observation: Float[Array, "*batch observation"], action: Float[Array, "*batch actions"]
    ) -> Float[Array, "*batch"]:
        """log π(a | s) in nats."""
        return log_prob(self.mode(params, observation), action)
