"""Methods that need what no registered one does, a memory, goals: clones, as short as the contract allows.

Beside them a registered one, small, that has discrete actions alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.algorithms import edm
from diffrl.data.sampling import goals, windows
from diffrl.learner import Learner, forward
from diffrl.networks.mlp import MLP
from diffrl.registry import Method
from diffrl.types import Carry, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    learning_rate: float = 3e-3


@dataclasses.dataclass
class WindowConfig(HParams):
    """Remembers `length` observations."""

    length: int = 3
    hidden_dims: tuple[int, ...] = (32,)
    num_updates: int = 300
    batch_size: int = 64


@dataclasses.dataclass
class GoalConfig(HParams):
    hidden_dims: tuple[int, ...] = (32,)
    num_updates: int = 300
    batch_size: int = 64


@dataclasses.dataclass
class DiscreteConfig(edm.HParams):
    """EDM under another name, small."""

    learning_rate: float = 3e-3
    hidden_dims: tuple[int, ...] = (32,)
    buffer_size: int = 100
    chain_steps: int = 3
    chains_begin: str = "unit"
    num_updates: int = 300
    batch_size: int = 64
    act: edm.Act = dataclasses.field(default_factory=edm.Act)


@flax.struct.dataclass
class State:
    step: Any
    hparams: Any
    policy: Learner


def clone(config: Any, network: MLP, example: Array, loss: Callable[[Params, Transition], Array], **more: Any) -> Algorithm:
    """A network from inputs like `example`, trained by a loss of its parameters and a batch drawn by `batch`."""
    batch = more.pop("batch", None)

    def init(key: Key, hparams: HParams) -> State:
        params = network.init(key, example)["params"]
        return State(jnp.int32(0), hparams, Learner.create(params, optax.adam(hparams.learning_rate)))

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        policy, value = state.policy.step(lambda params: loss(params, batch), optax.adam(state.hparams.learning_rate))
        return dataclasses.replace(state, policy=policy), {"loss": value}

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("clone", config.num_updates, config.batch_size, update, batch=batch),),
        policy=lambda state: state.policy.params,
        **more,
    )


def make_window(config: WindowConfig, spec: Spec) -> Algorithm:
    """π(a | the last L observations). What was before an episode's beginning is zero."""
    network, length = MLP(config.hidden_dims, spec.action_dim), config.length

    def predict(params: Params, history: Array) -> Array:
        return forward(network, params, history.reshape(len(history), -1))

    def loss(params: Params, batch: Transition) -> Array:
        history = jnp.where(batch.extras["window_mask"][..., None], batch.extras["window_observation"], 0.0)
        return jnp.mean((predict(params, history) - batch.action) ** 2)

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        history = jnp.concatenate([carry[:, 1:], observation[:, None]], axis=1)
        return predict(policy, history), history

    return clone(
        config,
        network,
        jnp.zeros((1, length * spec.observation_dim)),
        loss,
        batch=windows(length, start=1 - length),
        init_carry=lambda policy, num_envs: jnp.zeros((num_envs, length, spec.observation_dim)),
        act=act,
    )


def make_goal(config: GoalConfig, spec: Spec) -> Algorithm:
    """π(a | s, g), with the position of a state of the row's future in place of the goal that the row was recorded with."""
    network = MLP(config.hidden_dims, spec.action_dim)
    state, wanted = spec.part("observation"), spec.part("desired_goal")

    def predict(params: Params, observation: Array) -> Array:
        return forward(network, params, observation)

    def loss(params: Params, batch: Transition) -> Array:
        position = batch.extras["goal"][:, state][:, : wanted.stop - wanted.start]
        relabelled = batch.observation.at[:, wanted].set(position)
        return jnp.mean((predict(params, relabelled) - batch.action) ** 2)

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return predict(policy, observation), carry

    draw = goals(current=0.0, future=1.0, random=0.0, discount=0.8)
    example = jnp.zeros((1, spec.observation_dim))
    return clone(config, network, example, loss, batch=draw, init_carry=no_carry, act=act)


def make_discrete(config: DiscreteConfig, spec: Spec) -> Algorithm:
    """EDM's."""
    return edm.make(edm.Config(**vars(config)), spec)


METHODS = {
    "window": Method(WindowConfig, make_window),
    "goal": Method(GoalConfig, make_goal),
    "discrete": Method(DiscreteConfig, make_discrete, actions=("discrete",), imitates=True),
}
