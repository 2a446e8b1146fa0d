"""SAC: soft actor-critic with an automatic weight of the entropy (Haarnoja et al. 2018, arXiv 1812.05905).

The yardstick of online curves.
"""

import dataclasses
import math
from typing import no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.columns import steps_ahead
from diffrl.learner import Learner, copied, example
from diffrl.networks.ensembles import Critics
from diffrl.networks.gaussian import Act, squashed_ways
from diffrl.networks.mlp import MLP
from diffrl.objectives.soft import entropy_weight_loss, log_entropy_weight, soft_value
from diffrl.objectives.value import bootstrap, critic_loss
from diffrl.settings import setting
from diffrl.types import Count, Key, Metrics, Params, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of policy, critics and the entropy's weight.
        discount, tau: γ, and the rate of the target critics.
        initial_entropy_weight: α at the start.
        entropy_deficit: the target entropy is minus this times the number of action dimensions, in nats.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    initial_entropy_weight: float = 1.0
    entropy_deficit: float = setting(1.0, low=-math.inf)


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths.

    Attributes:
        n_step: rewards summed before the value.
    """

    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    n_step: int = 1
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    policy: Learner
    critic: Learner
    target_critic_params: Params
    log_entropy_weight: Learner


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    batch: Transition,
    entropy_weight: Array,
    key: Key,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """E [α log π(a | s) - min_k Q_k(s, a)] with a the policy's own (eq. 7), and the policy's entropy in nats."""
    value, log_prob = soft_value(policy, params, critics, critic_params, batch.observation, entropy_weight, key)
    return -jnp.mean(value), -jnp.mean(log_prob)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: critics, their targets, the policy, the entropy's weight."""
    network = MLP(config.hidden_dims, 2 * spec.action_dim)
    critics = Critics(config.hidden_dims, config.num_critics)

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=Learner.init(network, adam, policy_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
            log_entropy_weight=Learner.create(log_entropy_weight(hparams.initial_entropy_weight), adam),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        next_key, policy_key = jax.random.split(key)
        entropy_weight = jnp.exp(state.log_entropy_weight.params)

        ahead = bootstrap(batch, hparams.discount)
        next_value, _ = soft_value(
            network,
            state.policy.params,
            critics,
            state.target_critic_params,
            ahead.observation,
            entropy_weight,
            next_key,
        )
        target = ahead.target(next_value)
        critic, loss_of_critic, q = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target), adam, has_aux=True
        )
        policy, loss_of_policy, entropy = state.policy.step(
            lambda params: policy_loss(params, network, critics, critic.params, batch, entropy_weight, policy_key),
            adam,
            has_aux=True,
        )
        weight, _ = state.log_entropy_weight.step(
            lambda log_weight: entropy_weight_loss(log_weight, entropy, -hparams.entropy_deficit * spec.action_dim), adam
        )
        state = dataclasses.replace(
            state,
            policy=policy,
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
            log_entropy_weight=weight,
        )
        return state, {
            "critic/loss": loss_of_critic,
            "critic/q": jnp.mean(q),
            "policy/loss": loss_of_policy,
            "policy/entropy": entropy,
            "policy/entropy_weight": entropy_weight,
        }

    act, explore = squashed_ways(network, config.act)
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("sac", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
        columns=(lambda dataset: steps_ahead(dataset, config.n_step)) if config.n_step > 1 else None,
        lookahead=config.n_step,
        explore=explore,
    )
