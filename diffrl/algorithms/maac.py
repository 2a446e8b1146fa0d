"""MAAC: model-augmented actor-critic, backpropagating through paths (Clavera, Fu, Abbeel 2020, arXiv 2005.08068).

The policy climbs the return of H imagined steps and a value behind them, by the derivative of the whole path: of what follows
by the action before it, of the reward, and of Q at the end. The paper has no released code and few numbers; entropy at every
step, the lower of the critics at the end, and rows that keep to a member of the ensemble are those of its relatives (SVG-H,
arXiv 2008.12775). Without a step, H = 0, this is SAC.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.envs.control.registry import make as make_task
from diffrl.learner import Learner, copied, example
from diffrl.models.dynamics import Dynamics, Model, Rows, Step, fit
from diffrl.models.known import known_model
from diffrl.models.rollouts import Choose, Imagine, path_return, return_gap, rollout
from diffrl.networks.ensembles import Critics
from diffrl.networks.gaussian import Act, distribution, squashed, squashed_ways
from diffrl.networks.mlp import MLP
from diffrl.objectives.soft import entropy_weight_loss, log_entropy_weight, soft_value
from diffrl.objectives.value import bootstrap, critic_loss, step_discount
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
        max_grad_norm: of the policy's gradient, which grows with the path where the system is unstable.
        model_learning_rate, model_weight_decay: AdamW's, of the model.
        held_out_share: of the rows, that no model learns from.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    initial_entropy_weight: float = 1.0
    entropy_deficit: float = setting(1.0, low=-math.inf)
    max_grad_norm: float = 100.0
    model_learning_rate: float = 1e-3
    model_weight_decay: float = 5e-5
    held_out_share: float = setting(0.1, high=1.0)


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths.

    Attributes:
        horizon: H, imagined steps before the value.
        imagine_for_critic: whether critics also learn from one imagined step of the policy from each row.
        known_model: a control task (`envs/control/`), such as "PendulumKeypoints", whose own dynamics and cost are imagined with;
            empty for a model that is learnt.
        num_models, num_elites: members of the model, and how many of them are imagined with: those best on rows held out.
    """

    horizon: int = setting(3, low=0)
    imagine_for_critic: bool = True
    known_model: str = ""
    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    model_hidden_dims: tuple[int, ...] = (200, 200, 200, 200)
    num_models: int = 5
    num_elites: int = 5
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
    model: Model | None  # None where it is known


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: there are more elites than members.
    """
    if config.num_elites > config.num_models:
        raise ValueError(
            f"num_elites={config.num_elites} of num_models={config.num_models} members: set it to {config.num_models} or less"
        )


def imagined_branch(
    batch: Transition,
    imagine: Imagine,
    choose: Choose,
    value: Callable[[Array, Key], Array],
    discount: Float[Array, ""] | float,
    key: Key,
) -> tuple[Transition, Float[Array, "batch"]]:
    """One step of the policy in the model from each row, and the target there, both without gradient."""
    action_key, model_key, value_key = jax.random.split(key, 3)
    action, _ = choose(batch.observation, action_key)
    found = imagine(batch.observation, action, model_key)
    target = found.reward + discount * found.going_on * value(found.observation, value_key)
    branch = dataclasses.replace(batch, action=action, reward=found.reward, next_observation=found.observation, extras={})
    return jax.lax.stop_gradient((branch, target))


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    imagine: Imagine,
    observation: Float[Array, "batch observation"],
    horizon: int,
    discount: Float[Array, ""] | float,
    entropy_weight: Float[Array, ""] | float,
    path_key: Key,
    value_key: Key,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-E [Σ_{t<H} γ^t (r_t - α log π_t) + γ^H (min_k Q_k(s_H, a_H) - α log π_H)], and the path's mean entropy in nats."""

    def choose(observation: Array, key: Key) -> tuple[Array, Array]:
        return squashed(*distribution(policy, params, observation), key)

    path = rollout(observation, choose, imagine, horizon, path_key)
    value, log_prob = soft_value(policy, params, critics, critic_params, path.observation[-1], entropy_weight, value_key)
    entropy = -jnp.mean(jnp.concatenate([path.log_prob, log_prob[None]]))
    return -jnp.mean(path_return(path, value, discount, entropy_weight)), entropy


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: the model, critics and their targets, the policy, the entropy's weight.

    Raises:
        ValueError: see `check` and `known_model`; there is no such task.
    """
    check(config)
    network = MLP(config.hidden_dims, 2 * spec.action_dim)
    critics = Critics(config.hidden_dims, config.num_critics)
    dynamics = Dynamics(config.num_models, spec.observation_dim, config.model_hidden_dims)
    elite = dataclasses.replace(dynamics, size=config.num_elites)
    known = known_model(make_task(config.known_model), spec) if config.known_model else None

    def policy_adam(hparams: HParams) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(hparams.max_grad_norm), optax.adam(hparams.learning_rate))

    def model_adam(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.model_learning_rate, weight_decay=hparams.model_weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key, model_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=Learner.init(network, policy_adam(hparams), policy_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
            log_entropy_weight=Learner.create(log_entropy_weight(hparams.initial_entropy_weight), adam),
            model=Model.init(dynamics, model_adam(hparams), model_key, spec) if known is None else None,
        )

    def model_step(state: State, rows: Rows) -> tuple[Model | None, Metrics, Imagine]:
        if known is not None:
            return None, {}, known
        assert state.model is not None
        hparams = state.hparams
        model, metrics = fit(dynamics, state.model, rows, model_adam(hparams), hparams.held_out_share, state.step)
        elites = model.elites(config.num_elites)

        def imagine(observation: Array, action: Array, key: Key) -> Step:
            return elite.imagine(elites, model.units, observation, action, key)

        return model, metrics, imagine

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        next_key, policy_key, path_key, branch_key, gap_key = jax.random.split(key, 5)
        entropy_weight = jnp.exp(state.log_entropy_weight.params)
        discount = step_discount(batch, hparams.discount)

        rows = Rows.of(batch, hparams.discount)
        model, metrics, imagine = model_step(state, rows)

        def choose(observation: Array, key: Key) -> tuple[Array, Array]:
            return squashed(*distribution(network, state.policy.params, observation), key)

        def target_value(observation: Array, key: Key) -> Array:
            params, target_params = state.policy.params, state.target_critic_params
            return soft_value(network, params, critics, target_params, observation, entropy_weight, key)[0]

        ahead = bootstrap(batch, hparams.discount)
        target = ahead.target(target_value(ahead.observation, next_key))
        branch, branch_target = imagined_branch(batch, imagine, choose, target_value, discount, branch_key)

        def loss_of_critics(params: Params) -> tuple[Array, Array]:
            loss, q = critic_loss(params, critics, batch, target)
            if not config.imagine_for_critic:
                return loss, q
            return 0.5 * (loss + critic_loss(params, critics, branch, branch_target)[0]), q

        critic, loss_of_critic, q = state.critic.step(loss_of_critics, adam, has_aux=True)
        policy, loss_of_policy, entropy = state.policy.step(
            lambda params: policy_loss(
                params,
                network,
                critics,
                critic.params,
                imagine,
                batch.observation,
                config.horizon,
                discount,
                entropy_weight,
                path_key,
                policy_key,
            ),
            policy_adam(hparams),
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
            model=model,
        )
        return state, metrics | {
            "critic/loss": loss_of_critic,
            "critic/q": jnp.mean(q),
            "policy/loss": loss_of_policy,
            "policy/entropy": entropy,
            "policy/entropy_weight": entropy_weight,
            "model/return_gap": return_gap(imagine, rows, target_value, discount, gap_key),
        }

    act, explore = squashed_ways(network, config.act)
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("maac", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
        explore=explore,
    )
