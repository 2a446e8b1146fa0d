"""One network's trainable parameters and their optimiser state, and the norms of its gradient and its parameters."""

from collections.abc import Callable
from typing import Any, Literal, overload

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.types import Key, Metrics, Params, Spec, State


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
        learner = self._moved(optax.apply_updates(self.params, updates), opt_state, gradients)
        return (learner, *value) if has_aux else (learner, value)

    def _moved(self, params: Params, opt_state: Any, gradients: Params) -> "Learner":
        return Learner(params=params, opt_state=opt_state)


@flax.struct.dataclass
class Watched(Learner):
    """A Learner that keeps the norm of its last gradient, for as long as an update lasts; see `watched`."""

    gradient_norm: Any

    def _moved(self, params: Params, opt_state: Any, gradients: Params) -> "Watched":
        return Watched(params, opt_state, _norm(gradients))


def watched(state: State) -> State:
    """The State with every Learner in it Watched: a method's update steps them as it steps any."""

    def watch(one: Learner) -> Watched:
        # Made of a parameter, so that it differs between devices wherever a gradient's norm does, in the eyes of a branch.
        return Watched(one.params, one.opt_state, 0.0 * jax.tree.leaves(one.params)[0].ravel()[0])

    return _of_learners(watch, state)


def norms(after: State, before: State) -> tuple[State, Metrics]:
    """A watched State as it was, and of each network that its update stepped `NAME/gradient_norm` and `NAME/parameter_norm`.

    Norms are of all parameters of the network together; NAME is that of the State's field. Under a branch that was not taken the
    gradient's is 0.

    Args:
        after: the update's.
        before: as `watched` gave it.
    """
    found: Metrics = {}
    places = jax.tree_util.tree_flatten_with_path(after, is_leaf=_is_learner)[0]
    for (path, one), old in zip(places, jax.tree.leaves(before, is_leaf=_is_learner), strict=True):
        if isinstance(one, Watched) and one.gradient_norm is not old.gradient_norm:
            name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".learner")
            found |= {f"{name}/gradient_norm": one.gradient_norm, f"{name}/parameter_norm": _norm(one.params)}
    return _of_learners(lambda one: Learner(one.params, one.opt_state), after), found


def _norm(tree: Params) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(values)) for values in jax.tree.leaves(tree)))  # optax has it under changing names


def _of_learners(change: Callable[[Any], Learner], state: State) -> State:
    return jax.tree.map(lambda one: change(one) if _is_learner(one) else one, state, is_leaf=_is_learner)


def _is_learner(one: Any) -> bool:
    return isinstance(one, Learner)
