"""EQR: epistemic quantile regression, the distribution of values over what a model may be (Luis et al. 2024, arXiv 2308.06590).

A critic says M quantiles of Q over the posterior of models. Each member of an ensemble is one possible model: chance, of what
follows and of the policy, is averaged out within a member, and what is left between members is ignorance. The policy is a soft
actor-critic's, for the mean of the quantiles or one that seeks or shuns their spread.
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
from diffrl.learner import Learner, copied, example, forward
from diffrl.models.dynamics import Dynamics, Model, Rows, Step, Units, fit, step_of
from diffrl.models.rollouts import Choose, return_gap, rollout
from diffrl.networks.gaussian import Act, distribution, squashed, squashed_ways
from diffrl.networks.mlp import MLP, unit_orthogonal_dense
from diffrl.objectives.quantile import quantile_loss
from diffrl.objectives.soft import entropy_weight_loss, log_entropy_weight
from diffrl.objectives.value import step_discount
from diffrl.settings import setting
from diffrl.types import Count, Key, Metrics, Params, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of policy, critic and the entropy's weight.
        discount, tau: γ, and the rate of the target critic.
        initial_entropy_weight: α at the start.
        entropy_deficit: the target entropy is minus this times the number of action dimensions, in nats.
        optimism: of utility "spread", how many deviations are added to the mean; below 0 it is pessimism.
        quantile: of utility "quantile", its level.
        huber_width: κ of the regression, in units of values.
        model_learning_rate, model_weight_decay: AdamW's, of the model.
        held_out_share: of the rows, that no model learns from.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    initial_entropy_weight: float = 1.0
    entropy_deficit: float = setting(1.0, low=-math.inf)
    optimism: float = setting(1.0, low=-math.inf)
    quantile: float = setting(0.5, high=1.0)
    huber_width: float = setting(1.0, low=1e-6)
    model_learning_rate: float = 3e-4
    model_weight_decay: float = 5e-5
    held_out_share: float = setting(0.1, high=1.0)


@dataclasses.dataclass
class Config(HParams):
    """Choices, widths and lengths.

    Attributes:
        utility: what the policy climbs: the "mean" of the quantiles, the mean and `optimism` times their "spread", or one
            "quantile".
        num_quantiles: M.
        rollout_length: L. Critic and policy learn at one of the L first states, drawn for each row, of the policy's rollouts in
            the model from the data; the first is real. 0: at the data's own states and actions, as on a dataset.
        num_next, num_next_actions: S and A, draws of what follows in each member, and of actions there.
        num_models: members K of the model.
    """

    utility: Literal["mean", "spread", "quantile"] = "mean"
    num_quantiles: int = 51
    rollout_length: int = setting(5, low=0)
    num_next: int = 5
    num_next_actions: int = 5
    policy_hidden_dims: tuple[int, ...] = (64, 64)
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    model_hidden_dims: tuple[int, ...] = (200, 200, 200, 200)
    num_models: int = 5
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
    model: Model


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: a spread is asked of one quantile.
    """
    if config.utility == "spread" and config.num_quantiles < 2:
        raise ValueError("utility='spread' needs more than one quantile: set num_quantiles to 2 or more, or utility='mean'")


def epistemic_targets(
    reward: Float[Array, "next members batch"],
    weight: Float[Array, "next members batch"],
    next_quantiles: Float[Array, "next_actions next members batch quantiles"],
    next_bonus: Float[Array, "next_actions next members batch"],
) -> Float[Array, "batch targets"]:
    """All K · M values mean_S(r) + mean_{A, S}(weight · (q̄_j(s', a') + bonus)), without gradient: chance is averaged out in each
    member, quantile by quantile.

    Args:
        reward: of S draws of what follows in each member.
        weight: of the values there, γ times the probability that the episode goes on.
        next_quantiles: of the target critic, at A actions each.
        next_bonus: of entropy, -α log π.
    """
    value = jnp.mean(weight[None, ..., None] * (next_quantiles + next_bonus[..., None]), axis=(0, 1))
    target = jnp.mean(reward, axis=0)[..., None] + value  # [members, batch, quantiles]
    return jax.lax.stop_gradient(jnp.moveaxis(target, 0, 1).reshape(target.shape[1], -1))


def imagined_targets(
    dynamics: Dynamics,
    params: Params,
    units: Units,
    critic: nn.Module,
    critic_params: Params,
    choose: Choose,
    observation: Float[Array, "batch observation"],
    action: Float[Array, "batch action"],
    discount: Float[Array, ""] | float,
    entropy_weight: Float[Array, ""] | float,
    num_next: int,
    num_next_actions: int,
    key: Key,
) -> Float[Array, "batch targets"]:
    """`epistemic_targets` of every member at these states and actions: one pass of the model, one of policy and critic."""
    next_key, action_key = jax.random.split(key)
    every = jnp.broadcast_to(observation, (dynamics.size, *observation.shape))
    said = dynamics.predict(params, units, every, action)
    drawn = jax.vmap(lambda key: step_of(said, units, every, key))(jax.random.split(next_key, num_next))
    shape = (num_next_actions, *drawn.observation.shape)
    following = jnp.broadcast_to(drawn.observation, shape).reshape(-1, shape[-1])
    next_action, log_prob = choose(following, action_key)
    quantiles = forward(critic, critic_params, next_action, following)
    return epistemic_targets(
        drawn.reward,
        discount * drawn.going_on,
        quantiles.reshape(*shape[:-1], -1),
        -entropy_weight * log_prob.reshape(shape[:-1]),
    )


def utility_of(
    quantiles: Float[Array, "*batch quantiles"],
    utility: Literal["mean", "spread", "quantile"],
    optimism: Float[Array, ""] | float,
    level: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    """What a policy wants of a distribution of values: its mean, that and some deviations (of M - 1), or the nearest quantile."""
    if utility == "quantile":
        count = quantiles.shape[-1]
        index = jnp.clip(jnp.round(level * count - 0.5).astype(jnp.int32), 0, count - 1)
        return jax.lax.dynamic_index_in_dim(quantiles, index, axis=-1, keepdims=False)
    mean = jnp.mean(quantiles, axis=-1)
    return mean + optimism * spread(quantiles) if utility == "spread" else mean


def spread(quantiles: Float[Array, "*batch quantiles"]) -> Float[Array, "*batch"]:
    """Their deviation; the gradient is that of a number where they coincide."""
    return jnp.sqrt(jnp.var(quantiles, axis=-1, ddof=1 if quantiles.shape[-1] > 1 else 0) + 1e-12)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: the model, the critic and its target, the policy, the entropy's weight.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    layers = {"activation": jnp.tanh, "dense": unit_orthogonal_dense}
    network = MLP(config.policy_hidden_dims, 2 * spec.action_dim, **layers)
    critic_network = MLP(config.critic_hidden_dims, config.num_quantiles, **layers)
    dynamics = Dynamics(config.num_models, spec.observation_dim, config.model_hidden_dims)

    def model_adam(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.model_learning_rate, weight_decay=hparams.model_weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key, model_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critic_network, adam, critic_key, action, observation)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=Learner.init(network, adam, policy_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
            log_entropy_weight=Learner.create(log_entropy_weight(hparams.initial_entropy_weight), adam),
            model=Model.init(dynamics, model_adam(hparams), model_key, spec),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        rollout_key, depth_key, action_key, target_key, policy_key, gap_key = jax.random.split(key, 6)
        entropy_weight = jnp.exp(state.log_entropy_weight.params)
        discount = step_discount(batch, hparams.discount)

        rows = Rows.of(batch, hparams.discount)
        model, model_metrics = fit(dynamics, state.model, rows, model_adam(hparams), hparams.held_out_share, state.step)
        model_params = model.learner.params

        def choose(observation: Array, key: Key) -> tuple[Array, Array]:
            return squashed(*distribution(network, state.policy.params, observation), key)

        def imagine(observation: Array, action: Array, key: Key) -> Step:
            return dynamics.imagine(model_params, model.units, observation, action, key)

        # Where to learn: the data, or states of rollouts from there, as far as their episodes come.
        if config.rollout_length:
            path = rollout(batch.observation, choose, imagine, config.rollout_length - 1, rollout_key)
            depth = jax.random.randint(depth_key, batch.reward.shape, 0, config.rollout_length)
            here = depth, jnp.arange(len(depth))
            observation, taken = path.observation[here], path.reached[here]
            action, _ = choose(observation, action_key)
        else:
            observation, action, taken = batch.observation, batch.action, rows.taken.astype(jnp.float32)

        target = imagined_targets(
            dynamics,
            model_params,
            model.units,
            critic_network,
            state.target_critic_params,
            choose,
            observation,
            action,
            discount,
            entropy_weight,
            config.num_next,
            config.num_next_actions,
            target_key,
        )

        def loss_of_critic(params: Params) -> tuple[Array, Array]:
            quantiles = forward(critic_network, params, action, observation)
            return jnp.mean(taken * quantile_loss(quantiles, target, hparams.huber_width)), quantiles

        def loss_of_policy(params: Params) -> tuple[Array, Array]:
            own, log_prob = squashed(*distribution(network, params, observation), policy_key)
            quantiles = forward(critic_network, critic.params, own, observation)
            wanted = utility_of(quantiles, config.utility, hparams.optimism, hparams.quantile)
            return jnp.mean(entropy_weight * log_prob - wanted), -jnp.mean(log_prob)

        def target_value(observation: Array, key: Key) -> Array:
            own, log_prob = choose(observation, key)
            quantiles = forward(critic_network, state.target_critic_params, own, observation)
            return jnp.mean(quantiles, axis=-1) - entropy_weight * log_prob

        critic, critic_loss, quantiles = state.critic.step(loss_of_critic, adam, has_aux=True)
        policy, policy_loss, entropy = state.policy.step(loss_of_policy, adam, has_aux=True)
        weight, _ = state.log_entropy_weight.step(
            lambda log_weight: entropy_weight_loss(log_weight, entropy, -hparams.entropy_deficit * spec.action_dim), adam
        )
        state = dataclasses.replace(
            state,
            policy=policy,
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
            log_entropy_weight=weight,
            model=model,
        )
        return state, model_metrics | {
            "critic/loss": critic_loss,
            "critic/q": jnp.mean(quantiles),
            "critic/spread": jnp.mean(spread(quantiles)),
            "policy/loss": policy_loss,
            "policy/entropy": entropy,
            "policy/entropy_weight": entropy_weight,
            "model/return_gap": return_gap(imagine, rows, target_value, discount, gap_key),
        }

    act, explore = squashed_ways(network, config.act)
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("eqr", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
        explore=explore,
    )
