"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169).

Values are learnt from dataset actions alone by expectile regression; the policy is advantage-weighted regression.
"""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, forward
from diffrl.networks.ensembles import Critics, Value
from diffrl.networks.gaussian import GaussianPolicy
from diffrl.networks.mlp import orthogonal_dense
from diffrl.objectives.value import expectile_loss, td_loss, td_target
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

MAX_WEIGHT = 100.0


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program. `temperature` is β of the advantage weights (3 locomotion, 10 AntMaze)."""

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)
    temperature: float = 3.0


@dataclasses.dataclass
class Config(HParams):
    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256


@flax.struct.dataclass
class State:
    step: Count
    hparams: HParams
    value: Learner
    policy: Learner
    critic: Learner
    target_critic_params: Params


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage; per update V, then the policy, then Q, then the target, in the order of the authors' code."""
    critics = Critics(config.hidden_dims, config.num_critics, dense=orthogonal_dense)
    value_network = Value(config.hidden_dims, dense=orthogonal_dense)
    policy_network = GaussianPolicy(config.hidden_dims, spec.action_dim, dense=orthogonal_dense)

    def cosine(hparams: HParams) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.learning_rate, config.num_updates))

    def init(key: Key, hparams: HParams) -> State:
        value_key, policy_key, critic_key = jax.random.split(key, 3)
        observation, action = jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.action_dim))
        adam = optax.adam(hparams.learning_rate)
        critic_params = critics.init(critic_key, observation, action)["params"]
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            value=Learner.create(value_network.init(value_key, observation)["params"], adam),
            policy=Learner.create(policy_network.init(policy_key, observation), cosine(hparams)),
            critic=Learner.create(critic_params, adam),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        hparams = state.hparams
        adam = optax.adam(hparams.learning_rate)
        target_q = jnp.min(forward(critics, state.target_critic_params, batch.observation, batch.action), axis=0)

        def value_loss_fn(params: Params) -> tuple[Array, Array]:
            v = forward(value_network, params, batch.observation)
            return expectile_loss(target_q - v, hparams.expectile), v

        (value_loss, v), gradients = jax.value_and_grad(value_loss_fn, has_aux=True)(state.value.params)
        value = state.value.apply_gradients(gradients, adam)

        advantage = target_q - forward(value_network, value.params, batch.observation)
        weight = jnp.minimum(jnp.exp(hparams.temperature * advantage), MAX_WEIGHT)

        def policy_loss_fn(params: Params) -> Array:
            return -jnp.mean(weight * policy_network.log_prob(params, batch.observation, batch.action))

        policy_loss, gradients = jax.value_and_grad(policy_loss_fn)(state.policy.params)
        policy = state.policy.apply_gradients(gradients, cosine(hparams))

        next_value = forward(value_network, value.params, batch.next_observation)
        target = td_target(batch.reward, batch.terminal, next_value, hparams.discount)

        def critic_loss_fn(params: Params) -> Array:
            return td_loss(forward(critics, params, batch.observation, batch.action), target)

        critic_loss, gradients = jax.value_and_grad(critic_loss_fn)(state.critic.params)
        critic = state.critic.apply_gradients(gradients, adam)

        state = dataclasses.replace(
            state,
            value=value,
            policy=policy,
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
        )
        metrics = {
            "loss": policy_loss,
            "value_loss": value_loss,
            "critic_loss": critic_loss,
            "value": jnp.mean(v),
            "advantage_weight": jnp.mean(weight),
        }
        return state, metrics

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return policy_network.mean_and_log_std(policy, observation)[0], carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("iql", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
