"""FQL: flow Q-learning (Park, Li, Levine 2025, arXiv 2502.02538; constants and averages as in their code).

A flow clones the data; a one-step policy learns to do in one pass what the flow does in M steps, and to climb Q. Nothing is
differentiated through the flow, and acting asks one network once.
"""

import dataclasses
from collections.abc import Callable
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
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.value import bootstrap, mean_critic_loss, normalized_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

Aggregate = Literal["mean", "min"]
AGGREGATES: dict[Aggregate, Callable[..., Array]] = {"mean": jnp.mean, "min": jnp.min}


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        alpha: α, what distillation weighs against Q. Published values are for squared distances whose mean is taken over action
            dimensions too, as in the code; the paper's equations sum them. α grows with the scale of Q: 3 to 30,000.
        learning_rate: Adam's, of all networks.
        discount, tau: γ, and the rate of the target critics.
    """

    alpha: float = 10.0
    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        noise_scale: of z; the published scores are of 1. 0 acts by one action a state.
    """

    noise_scale: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of the losses, widths and lengths.

    Attributes:
        num_flow_steps: M, of the flow that is distilled. A perfect flow in ten steps is too narrow by 14 % for data of deviation
            0.5, by 60 % for 0.05.
        flow_solver: "euler", or "midpoint", which asks the flow twice a step: five of its steps are nearer to a perfect flow than
            ten of Euler's, at the same cost.
        aggregate: what a target takes over the critics. The policy climbs their mean whatever it is.
        normalize_q: divide Q by its mean size in the policy's loss, so that α does not depend on the rewards' scale; never in the
            published runs, recommended by the authors for new tasks with α of 0.03 to 10.
    """

    num_flow_steps: int = 10
    flow_solver: SolverName = "euler"
    aggregate: Aggregate = "mean"
    normalize_q: bool = False
    hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    critic_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    num_critics: int = 2
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    critic: Learner
    target_critic_params: Params
    behavior: Learner  # the flow
    policy: Learner


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    observation: Float[Array, "batch observation"],
    noise: Float[Array, "batch action"],
    flow_action: Float[Array, "batch action"],
    alpha: Float[Array, ""] | float,
    normalize_q: bool = False,
) -> tuple[Float[Array, ""], Metrics]:
    """α E (μ(s, z) - F(s, z))² - E Q(s, clip μ(s, z)) (eq. 7 and 8), the square's mean over action dimensions too.

    Beyond the bounds the clip lets no gradient of Q through, and distillation pulls back.
    """
    action = forward(policy, params, noise, observation)
    distillation = jnp.mean((action - flow_action) ** 2)
    q = jnp.mean(forward(critics, critic_params, observation, jnp.clip(action, -1.0, 1.0)), axis=0)
    climb = normalized_q(q, q) if normalize_q else jnp.mean(q)
    beyond = jnp.mean(jnp.abs(action) > 1.0, dtype=jnp.float32)
    metrics = {"policy/distillation": distillation, "policy/q": jnp.mean(q), "policy/beyond_bounds": beyond}
    return alpha * distillation - climb, metrics


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage. As in the authors' code every step, that of the target critics too, is from what all were before the update."""
    critics = Critics(config.critic_hidden_dims, config.num_critics, dense=xavier_dense, activation=nn.gelu, layer_norm="after")
    network = MLP(config.hidden_dims, spec.action_dim, dense=xavier_dense, activation=nn.gelu)  # of flow and policy
    aggregate, levels = AGGREGATES[config.aggregate], flow_grid(config.num_flow_steps)

    def velocity(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t[:, None], observation)

    def choose(params: Params, observation: Array, key: Key, noise_scale: float = 1.0) -> Array:
        noise = noise_scale * jax.random.normal(key, (observation.shape[0], spec.action_dim))
        return jnp.clip(forward(network, params, noise, observation), -1.0, 1.0)

    def init(key: Key, hparams: HParams) -> State:
        critic_key, behavior_key, policy_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            critic=critic,
            target_critic_params=copied(critic.params),
            behavior=Learner.init(network, adam, behavior_key, action, jnp.zeros((1, 1)), observation),
            policy=Learner.init(network, adam, policy_key, action, observation),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        adam = optax.adam(hparams.learning_rate)
        next_key, flow_key, noise_key = jax.random.split(key, 3)

        ahead = bootstrap(batch, hparams.discount)
        next_action = choose(state.policy.params, ahead.observation, next_key)
        next_q = forward(critics, state.target_critic_params, ahead.observation, next_action)
        target = ahead.target(aggregate(next_q, axis=0))
        critic, critic_loss, q = state.critic.step(
            lambda params: mean_critic_loss(params, critics, batch, target), adam, has_aux=True
        )

        def cloning(params: Params) -> Array:
            return flow_matching_loss(lambda x, t: velocity(params, x, t, batch.observation), batch.action, flow_key)

        behavior, behavior_loss = state.behavior.step(cloning, adam)

        noise = jax.random.normal(noise_key, batch.action.shape)
        flow_action = flow_map(
            lambda x, t: velocity(state.behavior.params, x, t, batch.observation),
            levels,
            noise,
            config.flow_solver,
        )
        policy, loss, metrics = state.policy.step(
            lambda params: policy_loss(
                params,
                network,
                critics,
                state.critic.params,
                batch.observation,
                noise,
                jnp.clip(flow_action, -1.0, 1.0),
                hparams.alpha,
                config.normalize_q,
            ),
            adam,
            has_aux=True,
        )
        state = dataclasses.replace(
            state,
            critic=critic,
            target_critic_params=optax.incremental_update(state.critic.params, state.target_critic_params, hparams.tau),
            behavior=behavior,
            policy=policy,
        )
        metrics |= {"critic/loss": critic_loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}
        return state, metrics | {"behavior/loss": behavior_loss, "policy/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        return choose(policy, observation, key, config.act.noise_scale), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("fql", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
