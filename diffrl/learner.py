"""One network's trainable parameters and their optimiser state."""

from typing import Any

import flax.linen as nn
import flax.struct
import optax
from jax import Array

from diffrl.types import Params


def forward(network: nn.Module, params: Params, *inputs: Array, constants: Params | None = None, **options: Any) -> Array:
    """The network's output for these parameters; `constants` are its arrays that are not trained."""
    variables = {"params": params} if constants is None else {"params": params, "constants": constants}
    return network.apply(variables, *inputs, **options)  # pyright: ignore[reportReturnType]


@flax.struct.dataclass
class Learner:
    """Parameters with their optimiser state. Targets and averages live outside, as plain trees.

    The optimiser itself is not stored: a method builds it inside its update, so that a learning rate may be a traced
    hyper-parameter. Its state must not depend on the traced values (true of optax's Adam family and schedules).
    """

    params: Params
    opt_state: Any

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> "Learner":
        return cls(params=params, opt_state=optimizer.init(params))

    def apply_gradients(self, gradients: Params, optimizer: optax.GradientTransformation) -> "Learner":
        """One optimiser step."""
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        return Learner(params=optax.apply_updates(self.params, updates), opt_state=opt_state)
