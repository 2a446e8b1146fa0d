"""A trained policy as one function of arrays: normalisation and bounds inside, weights as constants, draws as inputs.

`acts` is of one environment, so that nothing in a method is asked for a number of environments that is not known yet; what is
exported is that, mapped over them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core

from diffrl.algorithm import Algorithm
from diffrl.errors import UserError
from diffrl.types import Carry, Policy, Spec

Dtype = Any
# What the program that `jax.random` makes of a draw is called, and the distribution of what it gives.
DISTRIBUTIONS = {"_normal": "normal", "_gumbel": "gumbel"}
_PROGRAMS = {"pjit": "jaxpr", "jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_PROGRAMS |= {"closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}


class ExportError(UserError, ValueError):
    """The policy cannot be exported as asked; the message says why and what does."""


class Draw(NamedTuple):
    """Random numbers that a policy needs for an action: independent, of one distribution."""

    distribution: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Acting:
    """One run's way of acting in one environment.

    Attributes:
        spec: of its observations and actions.
        precision: of matrix products.
        carry: what it remembers at an episode's beginning, its leaves.
        by_key: (observation `[O]`, carry, key) -> (action, carry).
        by_draws: (observation `[O]`, carry, draws) -> (action, carry).
        draws: what `by_draws` takes; None where the policy draws in a way that cannot be taken out of it.
        undrawable: why.
    """

    spec: Spec
    precision: str | None
    carry: list[np.ndarray]
    by_key: Callable[[Array, list[Array], Array], tuple[Array, list[Array]]]
    by_draws: Callable[[Array, list[Array], list[Array]], tuple[Array, list[Array]]]
    draws: tuple[Draw, ...]
    undrawable: str = ""

    @property
    def random(self) -> bool:
        """Whether it draws at all."""
        return bool(self.draws or self.undrawable)


def acting_of(algorithm: Algorithm, policy: Policy, spec: Spec, precision: str | None = None) -> Acting:
    """The policy of one run as functions of arrays.

    Args:
        algorithm: of `registry.make`, which takes and gives the environment's units.
        policy: of one run.
    """
    start, tree = jax.tree.flatten(jax.device_get(algorithm.init_carry(policy, 1)))

    def by_key(observation: Array, carry: list[Array], key: Array) -> tuple[Array, list[Array]]:
        given: Carry = jax.tree.unflatten(tree, [leaf[None] for leaf in carry])
        with jax.default_matmul_precision(precision):
            action, after = algorithm.act(policy, given, observation[None], key)
        return action[0], [leaf[0] for leaf in jax.tree.leaves(after)]

    carry = [np.asarray(leaf[0]) for leaf in start]
    example = jax.ShapeDtypeStruct((spec.observation_dim,), jnp.float32), carry
    closed, shape = jax.make_jaxpr(by_key, return_shape=True)(*example, jax.random.key(0))
    draws: list[Draw] = []
    undrawable = ""

    def by_draws(observation: Array, carry: list[Array], values: list[Array]) -> tuple[Array, list[Array]]:
        given = iter(values)
        leaves = _evaluate(closed.jaxpr, closed.consts, [observation, *carry, None], lambda draw: next(given))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    def noted(draw: Draw) -> Array:
        draws.append(draw)
        return jnp.zeros(draw.shape)

    try:
        jax.eval_shape(lambda o, c: _evaluate(closed.jaxpr, closed.consts, [o, *c, None], noted), *example)
    except ExportError as error:
        draws, undrawable = [], str(error)
    return Acting(spec, precision, carry, by_key, by_draws, tuple(draws), undrawable)


def written_out(function: Callable[..., Sequence[Array]], *example: Any) -> core.ClosedJaxpr:
    """A function without draws as a program of plain operations, none of which is a program but of control flow."""
    closed = jax.make_jaxpr(function)(*example)

    def plain(*arguments: Array) -> list[Array]:
        return _evaluate(closed.jaxpr, closed.consts, arguments, _no_draw, mapped=True)

    return jax.make_jaxpr(plain)(*example)


def _no_draw(draw: Draw) -> Array:
    raise AssertionError(draw)


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], draw: Callable[[Draw], Array], mapped: bool = False
) -> list[Any]:
    """A traced program's values, with draws taken from elsewhere; keys are None, and programs within it are written out.

    Raises:
        ExportError: something else than draws of `DISTRIBUTIONS` is made of a key.
    """
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        name, given = eqn.primitive.name, list(map(value, eqn.invars))
        keyed = any(map(_is_key, eqn.invars))
        if name in _PROGRAMS or (name == "custom_vmap_call" and mapped):
            inner = eqn.params[_PROGRAMS.get(name, "call")]
            distribution = DISTRIBUTIONS.get(str(eqn.params.get("name", ""))) if keyed else None
            if distribution:
                found = [draw(Draw(distribution, tuple(eqn.outvars[0].aval.shape)))]
            elif isinstance(inner, core.ClosedJaxpr):
                found = _evaluate(inner.jaxpr, inner.consts, given, draw, mapped)
            else:
                found = _evaluate(inner, (), given, draw, mapped)
        elif name in _IN_OTHER_WORDS and mapped:
            found = _IN_OTHER_WORDS[name](eqn, given)
        elif all(map(_is_key, eqn.outvars)):
            found = [None] * len(eqn.outvars)
        elif name == "cond" and (keyed or mapped):
            found = _branches(eqn, given, draw, mapped)
        elif keyed:
            raise ExportError(f"its draws are made inside {name!r} and cannot be an input: --format=stablehlo takes a seed")
        else:
            found = eqn.primitive.bind(*given, **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, found, strict=True))
    return list(map(value, jaxpr.outvars))


def _branches(eqn: Any, given: list[Any], draw: Callable[[Draw], Array], mapped: bool) -> list[Any]:
    """A choice between programs, of which some draw: what each may need is drawn before."""
    index, *operands = given
    branches = eqn.params["branches"]
    needed: list[list[Draw]] = [[] for _ in branches]

    def noted(to: list[Draw]) -> Callable[[Draw], Array]:
        def note(one: Draw) -> Array:
            to.append(one)
            return jnp.zeros(one.shape)

        return note

    def branch(which: int, values: Iterator[Array] | None) -> Callable[[], list[Any]]:
        take = noted(needed[which]) if values is None else lambda one: next(values)
        return lambda: _evaluate(branches[which].jaxpr, branches[which].consts, operands, take, mapped)

    for which in range(len(branches)):
        jax.eval_shape(branch(which, None))
    drawn = [[draw(one) for one in each] for each in needed]
    return jax.lax.switch(index, [branch(which, iter(values)) for which, values in enumerate(drawn)])


def _tile(eqn: Any, given: list[Any]) -> list[Array]:
    (x,), times = given, eqn.params["reps"]
    shape = [n for size, time in zip(x.shape, times, strict=True) for n in (time, size)]
    spread = jax.lax.broadcast_in_dim(x, shape, tuple(range(1, len(shape), 2)))
    return [spread.reshape([size * time for size, time in zip(x.shape, times, strict=True)])]


def _stack(eqn: Any, given: list[Any]) -> list[Array]:
    axis = eqn.params["axis"]
    return [jax.lax.concatenate([jax.lax.expand_dims(x, [axis]) for x in given], axis)]


def _scan(eqn: Any, given: list[Any]) -> list[Array]:
    """Forwards, over rows turned round where it goes backwards; and what is repeated is written out too."""
    params, body = dict(eqn.params), eqn.params["jaxpr"]
    constant, carried = params["num_consts"], params["num_carry"]

    def plain(*values: Array) -> list[Array]:
        return _evaluate(body.jaxpr, body.consts, values, _no_draw, mapped=True)

    def step(carry: list[Array], row: list[Array]) -> tuple[list[Array], list[Array]]:
        found = plain(*given[:constant], *carry, *row)
        return found[:carried], found[carried:]

    turn = (lambda x: jax.lax.rev(x, [0])) if params["reverse"] else (lambda x: x)
    begin, rows = given[constant : constant + carried], list(map(turn, given[constant + carried :]))
    carry, found = jax.lax.scan(step, begin, rows, length=params["length"])
    return [*carry, *map(turn, found)]


# Operations that are younger than what reads such programs, or that it has not.
_IN_OTHER_WORDS = {"tile": _tile, "stack": _stack, "scan": _scan}


def _is_key(atom: Any) -> bool:
    return jnp.issubdtype(getattr(atom.aval, "dtype", np.float32), jax.dtypes.prng_key)
