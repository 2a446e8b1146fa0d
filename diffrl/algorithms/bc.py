"""Behaviour cloning with a deterministic policy: the baseline that shows what regression onto the data can do.

Of discrete actions it is a classifier: a softmax policy by maximum likelihood, which acts by its likeliest action.
"""

import dataclasses
from typing import Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, example, forward
from diffrl.networks.categorical import log_prob
from diffrl.networks.mlp import ACTIVATIONS, MLP
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program."""

    learning_rate: float = 3e-4


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths.

    Attributes:
        activation: in the network; "elu" in EDM's, whose yardstick cloning is.
    """

    hidden_dims: tuple[int, ...] = (256, 256)
    activation: Literal["relu", "elu"] = "relu"
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    policy: Learner


def policy_loss(params: Params, policy: nn.Module, batch: Transition) -> Float[Array, ""]:
    """E ‖π_θ(s) - a‖², summed over action dimensions."""
    return jnp.mean(jnp.sum((forward(policy, params, batch.observation) - batch.action) ** 2, axis=-1))


def classifier_loss(params: Params, policy: nn.Module, batch: Transition) -> Float[Array, ""]:
    """-E log π_θ(a | s) of discrete actions, in nats."""
    return -jnp.mean(log_prob(forward(policy, params, batch.observation), batch.action))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: π_θ(s) = tanh(MLP(s)) regresses onto the data's actions, or softmax(MLP(s)) classifies discrete ones."""
    squash, loss_of = (None, classifier_loss) if spec.num_actions else (jnp.tanh, policy_loss)
    network = MLP(config.hidden_dims, spec.action_dim, activation=ACTIVATIONS[config.activation], output_activation=squash)

    def init(key: Key, hparams: HParams) -> State:
        policy = Learner.init(network, optax.adam(hparams.learning_rate), key, example(spec)[0])
        return State(step=jnp.int32(0), hparams=hparams, policy=policy)

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        adam = optax.adam(state.hparams.learning_rate)
        policy, loss = state.policy.step(lambda params: loss_of(params, network, batch), adam)
        return dataclasses.replace(state, policy=policy), {"policy/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return forward(network, policy, observation), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("policy", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
