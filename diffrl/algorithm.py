"""The contract: what a method must be for the trainer and the evaluator to run it. Nothing else is an abstraction.

An `Algorithm` is a value, a NamedTuple of pure functions that a method's constructor builds from its config. All
functions speak of one run; the trainer maps them over runs (`vmap`) and devices (`shard_map`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffrl.data.columns import ColumnsFn
from diffrl.data.dataset import Dataset
from diffrl.data.sampling import BatchFn
from diffrl.types import Carry, HParams, Key, Metrics, Policy, Spec, State, Transition


@runtime_checkable
class InitFn(Protocol):
    """Fresh State of one run. Pure and vmappable; the Spec is already closed over."""

    def __call__(self, key: Key, hparams: HParams) -> State: ...


@runtime_checkable
class UpdateFn(Protocol):
    """One gradient step on all networks of a stage; returns the new State and scalar metrics.

    `state.step` is the number of updates before this one, written by the chunk and the same in all runs: a branch on it stays
    a branch under `vmap`. An update leaves it alone, and knows nothing of where the batch (`[B, ...]` per field) came from.
    """

    def __call__(self, state: State, batch: Transition, key: Key) -> tuple[State, Metrics]: ...


@runtime_checkable
class PrepareFn(Protocol):
    """Columns `[N, ...]` computed once over the data before a stage starts; they join `batch.extras`.

    May read only parts of the state that the stage leaves alone: a resumed run computes the columns anew.
    """

    def __call__(self, state: State, dataset: Dataset, key: Key) -> dict[str, Array]: ...


@runtime_checkable
class ActFn(Protocol):
    """Actions `[B, A]` for observations `[B, O]`, or for discrete ones scores, the largest of which is taken.

    Pure, batch first, knows nothing of training.
    """

    def __call__(
        self, policy: Policy, carry: Carry, observation: Float[Array, "batch observation"], key: Key
    ) -> tuple[Float[Array, "batch action"], Carry]: ...


class Stage(NamedTuple):
    """One training phase: a compiled program of its own.

    Attributes:
        name: as in metrics and checkpoints.
        num_updates, batch_size: how many, and of how many transitions.
        update: one gradient step.
        prepare: columns computed once over the data; None for none.
        batch: how a batch is drawn (`data/sampling.py` has windows and goals); None for transitions drawn uniformly. It may ask
            for a row's episode, so the data of such a stage stay on the device whole.
    """

    name: str
    num_updates: int
    batch_size: int
    update: UpdateFn
    prepare: PrepareFn | None = None
    batch: BatchFn | None = None


class Algorithm(NamedTuple):
    """A method.

    Attributes:
        hparams: default hyper-parameters, a dataclass of floats; what a sweep may vary without compiling again.
        init: fresh State from a key and one hyper-parameter point.
        stages: training phases, in order.
        policy: State -> Policy, the arrays needed to act; what the evaluator restores.
        init_carry: (Policy, number of environments) -> Carry; an empty tuple for most methods.
        act: chooses actions when evaluated.
        explore: chooses actions when data are collected; None for `act`.
        columns: what the method derives from the data once, for all runs; None for nothing.
        lookahead: how many rows `columns` need of each row's episode, from that row on; None for whole episodes, which no
            buffer can promise.
    """

    hparams: HParams
    init: InitFn
    stages: tuple[Stage, ...]
    policy: Callable[[State], Policy]
    init_carry: Callable[[Policy, int], Carry]
    act: ActFn
    columns: ColumnsFn | None = None
    lookahead: int | None = None
    explore: ActFn | None = None


def no_carry(policy: Policy, num_envs: int) -> Carry:
    """`init_carry` of a method that remembers nothing."""
    del policy, num_envs
    return ()


def in_environment_units(algorithm: Algorithm, spec: Spec) -> Algorithm:
    """Let `act` and `explore` take raw observations and return actions within the environment's bounds, or indices.

    Training sees standardised observations, and actions in [-1, 1] or one-hot, because the Dataset is stored so; acting must undo
    it. Wrapping here keeps units out of every method. Discrete actions are int32 `[B]`.

    Observations arrive as float32, and nothing but that rounding is lost: the mean is subtracted to all its digits. What lies
    many deviations from 0 is therefore known less well than in training, which is standardised in float64: a Unix time to 64 s,
    which is 0.02 of a deviation of an hour.
    """
    mean, std = jnp.asarray(spec.observation_mean), jnp.asarray(spec.observation_std)
    # What float32 rounds off the mean; the first difference is exact for observations near it.
    exact = np.asarray(spec.observation_mean, np.float64)
    rest = jnp.asarray((exact - exact.astype(np.float32)) / np.asarray(spec.observation_std), jnp.float32)
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)

    def in_units(action: Array) -> Array:
        if spec.num_actions:
            return jnp.argmax(action, axis=-1).astype(jnp.int32)
        least, width = (jax.lax.broadcast_to_rank(each, action.ndim) for each in (low, high - low))
        return least + (jnp.clip(action, -1.0, 1.0) + 1.0) / 2.0 * width

    def wrapped(choose: ActFn) -> ActFn:
        def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
            moved, scale, rounded = (jax.lax.broadcast_to_rank(each, observation.ndim) for each in (mean, std, rest))
            action, carry = choose(policy, carry, (observation - moved) / scale - rounded, key)
            return in_units(action), carry

        return act

    return algorithm._replace(act=wrapped(algorithm.act), explore=wrapped(algorithm.explore or algorithm.act))


def hparams_of(config: Any, cls: type) -> Any:
    """The float fields `cls` declares, taken from a config dataclass that inherits from `cls`."""
    return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})
