"""SAC: soft actor-critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905): the yardstick of online curves."""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.columns import steps_ahead
from diffrl.learner import Learner, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP
from diffrl.objectives.value import bootstrap, td_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of policy, critics and temperature.
        discount, tau: γ, and the rate of the target critics.
        initial_temperature: α at the start.
        entropy_deficit: the target entropy is minus this times the number of action dimensions.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    initial_temperature: float = 1.0
    entropy_deficit: float = 1.0


@dataclasses.dataclass
class Act:
    """Choices made when acting: `deterministic` takes the mean's tanh, as evaluations do; otherwise a sample."""

    deterministic: bool = True


@dataclasses.dataclass
class Config(HParams):
    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    n_step: int = 1
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    step: Count
    hparams: HParams
    actor: Learner
    critic: Learner
    target_critic_params: Params
    log_temperature: Learner


def squashed(
    mean: Float[Array, "*batch action"], log_std: Float[Array, "*batch action"], key: Key
) -> tuple[Float[Array, "*batch action"], Float[Array, "*batch"]]:
    """tanh of a Gaussian sample, and its log density in nats (appendix C; log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)))."""
    noise = jax.random.normal(key, mean.shape)
    u = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    return jnp.tanh(u), jnp.sum(gaussian - 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: critics, their targets, the actor, the temperature."""
    network = MLP(config.hidden_dims, 2 * spec.action_dim)
    critics = Critics(config.hidden_dims, config.num_critics)

    def distribution(params: Params, observation: Array) -> tuple[Array, Array]:
        """Mean and log σ before the tanh."""
        mean, log_std = jnp.split(forward(network, params, observation), 2, axis=-1)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)

    def init(key: Key, hparams: HParams) -> State:
        actor_key, critic_key = jax.random.split(key)
        observation, action = jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.action_dim))
        adam = optax.adam(hparams.learning_rate)
        critic_params = critics.init(critic_key, observation, action)["params"]
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            actor=Learner.create(network.init(actor_key, observation)["params"], adam),
            critic=Learner.create(critic_params, adam),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            log_temperature=Learner.create(jnp.log(jnp.asarray(hparams.initial_temperature, jnp.float32)), adam),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        next_key, actor_key = jax.random.split(key)
        temperature = jnp.exp(state.log_temperature.params)

        ahead = bootstrap(batch, hparams.discount)
        next_action, next_log_prob = squashed(*distribution(state.actor.params, ahead.observation), next_key)
        next_q = jnp.min(forward(critics, state.target_critic_params, ahead.observation, next_action), axis=0)
        target = ahead.target(next_q - temperature * next_log_prob)

        def critic_loss_fn(params: Params) -> tuple[Array, Array]:
            q = forward(critics, params, batch.observation, batch.action)
            return td_loss(q, target), q

        (critic_loss, q), gradients = jax.value_and_grad(critic_loss_fn, has_aux=True)(state.critic.params)
        critic = state.critic.apply_gradients(gradients, adam)
        target_critic_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)

        def actor_loss_fn(params: Params) -> tuple[Array, Array]:
            action, log_prob = squashed(*distribution(params, batch.observation), actor_key)
            value = jnp.min(forward(critics, critic.params, batch.observation, action), axis=0)
            return jnp.mean(temperature * log_prob - value), -jnp.mean(log_prob)

        (actor_loss, entropy), gradients = jax.value_and_grad(actor_loss_fn, has_aux=True)(state.actor.params)
        actor = state.actor.apply_gradients(gradients, adam)

        # The gradient of log α (H - H_target): it grows while the policy is more certain than wanted.
        surplus = jax.lax.stop_gradient(entropy + hparams.entropy_deficit * spec.action_dim)
        log_temperature = state.log_temperature.apply_gradients(surplus, adam)
        state = dataclasses.replace(
            state,
            actor=actor,
            critic=critic,
            target_critic_params=target_critic_params,
            log_temperature=log_temperature,
        )
        return state, {
            "loss": critic_loss,
            "actor_loss": actor_loss,
            "q": jnp.mean(q),
            "entropy": entropy,
            "temperature": temperature,
        }

    def explore(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        return squashed(*distribution(policy, observation), key)[0], carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        if not config.act.deterministic:
            return explore(policy, carry, observation, key)
        return jnp.tanh(distribution(policy, observation)[0]), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("sac", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.actor.params,
        init_carry=no_carry,
        act=act,
        columns=(lambda dataset: steps_ahead(dataset, config.n_step)) if config.n_step > 1 else None,
        lookahead=config.n_step,
        explore=explore,
    )
