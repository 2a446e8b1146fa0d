"""Behaviour cloning with a Gaussian policy: maximum likelihood of the data's actions."""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, example
from diffrl.networks.gaussian import GaussianPolicy
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program."""

    learning_rate: float = 3e-4


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        deterministic: take the mean; otherwise sample and clip to the action bounds.
    """

    deterministic: bool = True


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths.

    Attributes:
        state_dependent_std: deviations are an output of the network; otherwise one free parameter per action dimension.
    """

    hidden_dims: tuple[int, ...] = (256, 256)
    state_dependent_std: bool = True
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    policy: Learner


def policy_loss(params: Params, policy: GaussianPolicy, batch: Transition) -> Float[Array, ""]:
    """-E log π_θ(a | s), in nats."""
    return -jnp.mean(policy.log_prob(params, batch.observation, batch.action))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: π_θ(a | s) = N(tanh μ_θ(s), σ_θ(s)²) is fitted by maximum likelihood."""
    network = GaussianPolicy(config.hidden_dims, spec.action_dim, state_dependent_std=config.state_dependent_std)

    def init(key: Key, hparams: HParams) -> State:
        policy = Learner.create(network.init(key, example(spec)[0]), optax.adam(hparams.learning_rate))
        return State(step=jnp.int32(0), hparams=hparams, policy=policy)

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        adam = optax.adam(state.hparams.learning_rate)
        policy, loss = state.policy.step(lambda params: policy_loss(params, network, batch), adam)
        return dataclasses.replace(state, policy=policy), {"policy/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        action, log_std = network.mean_and_log_std(policy, observation)
        if not config.act.deterministic:
            action = action + jnp.exp(log_std) * jax.random.normal(key, action.shape)
        return jnp.clip(action, -1.0, 1.0), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("policy", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
