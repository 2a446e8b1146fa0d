"""One network's trainable parameters and their optimiser state."""

from collections.abc import Callable
from typing import Any, Literal, overload

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.types import Key, Params, Spec


def forward(network: nn.Module, params: Params, *inputs: Array, constants: Params | None = None, **options: Any) -> Array:
    """The network's output for these parameters; `constants` are its arrays that are not trained."""
    variables = {"params": params} if constants is None else {"params": params, "constants": constants}
    return network.apply(variables, *inputs, **options)  # pyright: ignore[reportReturnType]


def example(spec: Spec) -> tuple[Float[Array, "1 observation"], Float[Array, "1 action"]]:
    """An observation and an action of zeros: what networks are initialised with."""
    return jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.action_dim))


def copied(params: Params) -> Params:
    """The same values in arrays of their own, as a target or an average starts: a donated State holds no array twice."""
    return jax.tree.map(jnp.copy, params)


def averaged(average: Params, params: Params, rate: Any, due: Array) -> Params:
    """The average moved towards the parameters by `rate` where that is `due`: a branch, where `due` is one for all runs."""
    return jax.lax.cond(due, lambda old: optax.incremental_update(params, old, rate), lambda old: old, average)


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
        """A Learner of these parameters, before its first step."""
        return cls(params=params, opt_state=optimizer.init(params))

    @classmethod
    def init(cls, network: nn.Module, optimizer: optax.GradientTransformation, key: Key, *inputs: Array) -> "Learner":
        """A Learner of the network's fresh parameters, shaped by example inputs."""
        return cls.create(network.init(key, *inputs)["params"], optimizer)

    @overload
    def step(self, loss_fn: Callable[[Params], Array], optimizer: optax.GradientTransformation) -> tuple["Learner", Array]: ...

    @overload
    def step(
        self,
        loss_fn: Callable[[Params], tuple[Array, Any]],
        optimizer: optax.GradientTransformation,
        *,
        has_aux: Literal[True],
    ) -> tuple["Learner", Array, Any]: ...

    def step(
        self, loss_fn: Callable[[Params], Any], optimizer: optax.GradientTransformation, *, has_aux: bool = False
    ) -> tuple[Any, ...]:
        """One gradient step down a loss.

        Args:
            loss_fn: the loss of parameters; with `has_aux` also something that is computed on the way.
            optimizer: the one that made this Learner, with whatever learning rate.
            has_aux: whether there is such a thing.

        Returns:
            The Learner after the step, the loss before it and, with `has_aux`, the something.
        """
        value, gradients = jax.value_and_grad(loss_fn, has_aux=has_aux)(self.params)
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        learner = Learner(params=optax.apply_updates(self.params, updates), opt_state=opt_state)
        return (learner, *value) if has_aux else (learner, value)
