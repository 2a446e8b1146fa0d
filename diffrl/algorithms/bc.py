"""Behaviour cloning with a deterministic policy: the baseline that shows what regression onto the data can do."""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, forward
from diffrl.networks.mlp import MLP
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
    hidden_dims: tuple[int, ...] = (256, 256)
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256


@flax.struct.dataclass
class State:
    step: Count
    hparams: HParams
    policy: Learner


def make(config: Config, spec: Spec) -> Algorithm:
    """π_θ(s) = tanh(MLP(s)), trained by E ‖π_θ(s) - a‖² (summed over action dimensions)."""
    network = MLP(config.hidden_dims, spec.action_dim, output_activation=jnp.tanh)

    def init(key: Key, hparams: HParams) -> State:
        params = network.init(key, jnp.zeros((1, spec.observation_dim)))["params"]
        return State(step=jnp.int32(0), hparams=hparams, policy=Learner.create(params, optax.adam(hparams.learning_rate)))

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key

        def loss_fn(params: Params) -> Array:
            error = forward(network, params, batch.observation) - batch.action
            return jnp.mean(jnp.sum(error**2, axis=-1))

        loss, gradients = jax.value_and_grad(loss_fn)(state.policy.params)
        policy = state.policy.apply_gradients(gradients, optax.adam(state.hparams.learning_rate))
        return dataclasses.replace(state, policy=policy), {"loss": loss}

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
