"""DSRL: reinforcement learning in the noise space of a flow policy.

Wagenmaker et al. 2025, arXiv 2506.15799, in the form of "noise aliasing"; constants and averages are those of the JAX code in the
repository of QAM, which OGBench's published numbers are of.

A flow F(s, w) clones the data. A small policy chooses the noise w in a box of half width b in place of N(0, I), by a critic of
noises Q^W(s, w) that is distilled from the critic of actions, Q^A(s, F(s, w)): nothing is differentiated through the flow. The
flow may be another training's, left as it is: `init_from` with the field "behavior", and `train_behavior` off.
"""

import dataclasses
import math
from typing import Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.flows import SolverName, flow_grid, flow_map, flow_matching_loss
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.gaussian import distribution, squashed
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.value import bootstrap, lower_confidence_bound, mean_critic_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

LOG_STD_MIN = -20.0


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of all networks and of the entropy's weight.
        discount, tau: γ, and the rate of the target critics and of the flow's average.
        noise_bound: b, which holds the policy to the data: 0.4 to 1.4 in the published runs. A flow in Euler's steps of data of
            deviation s reaches from their mean by less than s b.
        pessimism: ρ, standard deviations below the mean of Q^A in targets.
        initial_entropy_weight, entropy_deficit: as SAC's, of the noise before it is scaled to the box.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    noise_bound: float = 1.0
    pessimism: float = 0.5
    initial_entropy_weight: float = 1.0
    entropy_deficit: float = setting(0.5, low=-math.inf)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        deterministic: take the noise policy's mean; the published scores are of samples.
    """

    deterministic: bool = False


@dataclasses.dataclass
class Config(HParams):
    """Choices of the flow and of the distillation, widths and lengths.

    Attributes:
        train_behavior: whether the flow is trained all the while, and acts by its average; otherwise it stays as it begins.
        num_flow_steps, flow_solver: of F.
        distillation_noise: where Q^W is fitted: "normal" as published, although in many dimensions nearly nothing of N(0, I)
            lies in a small box; or "box", uniform in the policy's own.
    """

    train_behavior: bool = True
    num_flow_steps: int = 10
    flow_solver: SolverName = "euler"
    distillation_noise: Literal["normal", "box"] = "normal"
    hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    critic_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    num_critics: int = 10
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner  # the flow
    ema_params: Params  # its average
    critic: Learner  # of actions, Q^A
    target_critic_params: Params
    noise_critic: Learner  # of noises, Q^W
    policy: Learner
    log_entropy_weight: Learner


def distillation_loss(
    params: Params,
    critics: nn.Module,
    observation: Float[Array, "batch observation"],
    noise: Float[Array, "batch action"],
    q: Float[Array, "critics batch"],
) -> Float[Array, ""]:
    """mean (Q^W_k(s, z) - Q^A_k(s, F(s, z)))², member by member."""
    return jnp.mean((forward(critics, params, observation, noise) - q) ** 2)


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    observation: Float[Array, "batch observation"],
    noise_bound: Float[Array, ""] | float,
    entropy_weight: Float[Array, ""] | float,
    key: Key,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """E [α log π(u | s) - mean_k Q^W_k(s, b u)], the entropy of u in nats, and the mean of |u|."""
    u, log_prob = squashed(*distribution(policy, params, observation, LOG_STD_MIN), key)
    q = jnp.mean(forward(critics, critic_params, observation, noise_bound * u), axis=0)
    return jnp.mean(entropy_weight * log_prob - q), (-jnp.mean(log_prob), jnp.mean(jnp.abs(u)))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage. As in the authors' code every step and average is from what all were before the update."""
    layers = {"dense": xavier_dense, "activation": nn.gelu}
    critics = Critics(config.critic_hidden_dims, config.num_critics, layer_norm="after", **layers)  # of actions and of noises
    network = MLP(config.hidden_dims, spec.action_dim, **layers)
    noise_policy = MLP(config.hidden_dims, 2 * spec.action_dim, **layers)
    levels = flow_grid(config.num_flow_steps)

    def velocity(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t[:, None], observation)

    def flow(params: Params, observation: Array, noise: Array) -> Array:
        end = flow_map(lambda x, t: velocity(params, x, t, observation), levels, noise, config.flow_solver)
        return jnp.clip(end, -1.0, 1.0)

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, critic_key, noise_key, policy_key = jax.random.split(key, 4)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        behavior = Learner.init(network, adam, behavior_key, action, jnp.zeros((1, 1)), observation)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        log_entropy_weight = jnp.log(jnp.asarray(hparams.initial_entropy_weight, jnp.float32))
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=behavior,
            ema_params=copied(behavior.params),
            critic=critic,
            target_critic_params=copied(critic.params),
            noise_critic=Learner.init(critics, adam, noise_key, observation, action),
            policy=Learner.init(noise_policy, adam, policy_key, observation),
            log_entropy_weight=Learner.create(log_entropy_weight, adam),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        next_key, noise_key, policy_key, flow_key = jax.random.split(key, 4)
        entropy_weight = jnp.exp(state.log_entropy_weight.params)

        # The actions of the policy's noise behind the transition, and of any noise before it, in one pass.
        ahead = bootstrap(batch, hparams.discount)
        moments = distribution(noise_policy, state.policy.params, ahead.observation, LOG_STD_MIN)
        next_noise = hparams.noise_bound * squashed(*moments, next_key)[0]
        if config.distillation_noise == "normal":
            noise = jax.random.normal(noise_key, batch.action.shape)
        else:
            noise = hparams.noise_bound * jax.random.uniform(noise_key, batch.action.shape, minval=-1.0)
        both = jnp.concatenate([ahead.observation, batch.observation]), jnp.concatenate([next_noise, noise])
        next_action, aliased = jnp.split(flow(_flow_params(state, config), *both), 2)

        next_q = forward(critics, state.target_critic_params, ahead.observation, next_action)
        target = ahead.target(lower_confidence_bound(next_q, hparams.pessimism))
        critic, critic_loss, q = state.critic.step(
            lambda params: mean_critic_loss(params, critics, batch, target), adam, has_aux=True
        )
        aliased_q = forward(critics, state.critic.params, batch.observation, aliased)
        noise_critic, noise_critic_loss = state.noise_critic.step(
            lambda params: distillation_loss(params, critics, batch.observation, noise, aliased_q), adam
        )
        policy, loss, (entropy, size) = state.policy.step(
            lambda params: policy_loss(
                params,
                noise_policy,
                critics,
                state.noise_critic.params,
                batch.observation,
                hparams.noise_bound,
                entropy_weight,
                policy_key,
            ),
            adam,
            has_aux=True,
        )
        log_entropy_weight, _ = state.log_entropy_weight.step(
            lambda log_weight: jnp.exp(log_weight) * (entropy + hparams.entropy_deficit * spec.action_dim), adam
        )
        metrics = {
            "critic/loss": critic_loss,
            "critic/q": jnp.mean(q),
            "critic/target": jnp.mean(target),
            "noise_critic/loss": noise_critic_loss,
            "policy/loss": loss,
            "policy/entropy": entropy,
            "policy/entropy_weight": entropy_weight,
            "policy/noise": size,
        }
        if config.train_behavior:

            def cloning(params: Params) -> Array:
                return flow_matching_loss(lambda x, t: velocity(params, x, t, batch.observation), batch.action, flow_key)

            ema_params = optax.incremental_update(state.behavior.params, state.ema_params, hparams.tau)
            behavior, metrics["behavior/loss"] = state.behavior.step(cloning, adam)
            state = dataclasses.replace(state, behavior=behavior, ema_params=ema_params)
        state = dataclasses.replace(
            state,
            critic=critic,
            target_critic_params=optax.incremental_update(state.critic.params, state.target_critic_params, hparams.tau),
            noise_critic=noise_critic,
            policy=policy,
            log_entropy_weight=log_entropy_weight,
        )
        return state, metrics

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        moments = distribution(noise_policy, policy["noise"], observation, LOG_STD_MIN)
        u = jnp.tanh(moments[0]) if config.act.deterministic else squashed(*moments, key)[0]
        return flow(policy["flow"], observation, policy["noise_bound"] * u), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("dsrl", config.num_updates, config.batch_size, update),),
        policy=lambda state: {
            "noise": state.policy.params,
            "flow": _flow_params(state, config),
            "noise_bound": state.hparams.noise_bound,
        },
        init_carry=no_carry,
        act=act,
    )


def _flow_params(state: State, config: Config) -> Params:
    return state.ema_params if config.train_behavior else state.behavior.params
