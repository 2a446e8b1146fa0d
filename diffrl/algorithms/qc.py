"""QC: Q-chunking (Li, Zhou, Levine 2025, arXiv 2507.07969, sec. 4.3; constants and averages as in their code).

A flow clones the data's actions, and the policy is the best by Q of N that it draws: in the critics' targets as when acting, so
that nothing is trained beside flow and critics. Of chunks (`config.action_chunk`) it is QC, of single actions the paper's BFN.
"""

import dataclasses
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
from diffrl.diffusion.flows import SolverName, flow_grid, flow_map, flow_matching_loss
from diffrl.diffusion.guidance import best_of
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.value import bootstrap, lower_confidence_bound, mean_critic_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of both networks.
        discount, tau: γ, and the rate of the target critics.
        pessimism: ρ, standard deviations below the ensemble's mean, in targets and in the choice: 0 in the paper, 0.5 of ten
            critics in its authors' later work.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    pessimism: float = 0.0


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_candidates: N. The policy's divergence from the clone is at most log N - (N - 1) / N.
    """

    num_candidates: int = 32


@dataclasses.dataclass
class Config(HParams):
    """Choices of flow and targets, widths and lengths.

    Attributes:
        num_next_actions: N of a target: most of what an update costs, which is N times M passes through the flow.
        num_flow_steps, flow_solver: M, and of which method (`fql.Config` says what ten of Euler's leave out).
    """

    num_next_actions: int = 32
    num_flow_steps: int = 10
    flow_solver: SolverName = "euler"
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


def best_of_flow(
    flow: Callable[[Array], Array],
    value: Callable[[Array], Array],
    noise: Float[Array, "candidates batch action"],
) -> Float[Array, "batch action"]:
    """Of the actions that the flow makes of these noises the one of the highest value: π_N (eq. 9)."""
    drawn = jnp.clip(flow(noise), -1.0, 1.0)
    return best_of(drawn, value(drawn))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage. As in the authors' code every step, that of the target critics too, is from what all were before the update."""
    critics = Critics(config.critic_hidden_dims, config.num_critics, dense=xavier_dense, activation=nn.gelu, layer_norm="after")
    network = MLP(config.hidden_dims, spec.action_dim, dense=xavier_dense, activation=nn.gelu)
    levels = flow_grid(config.num_flow_steps)

    def value(params: Params, observation: Array, action: Array, pessimism: Array | float) -> Array:
        return lower_confidence_bound(forward(critics, params, observation, action), pessimism)

    def choose(
        flow_params: Params, critic_params: Params, observation: Array, key: Key, count: int, pessimism: Array | float
    ) -> Array:
        """Each observation once: the networks broadcast them, and the flow's time."""
        noise = jax.random.normal(key, (count, len(observation), spec.action_dim))

        def flow(noise: Array) -> Array:
            def velocity(x: Array, t: Array) -> Array:
                return forward(network, flow_params, x, t[:1, None, None], observation)

            return flow_map(velocity, levels, noise, config.flow_solver)

        return best_of_flow(flow, lambda drawn: value(critic_params, observation, drawn, pessimism), noise)

    def init(key: Key, hparams: HParams) -> State:
        critic_key, behavior_key = jax.random.split(key)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            critic=critic,
            target_critic_params=copied(critic.params),
            behavior=Learner.init(network, adam, behavior_key, action, jnp.zeros((1, 1)), observation),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        adam = optax.adam(hparams.learning_rate)
        next_key, flow_key = jax.random.split(key)

        # Chosen by the critics, valued by their targets.
        ahead = bootstrap(batch, hparams.discount)
        next_action = choose(
            state.behavior.params, state.critic.params, ahead.observation, next_key, config.num_next_actions, hparams.pessimism
        )
        target = ahead.target(value(state.target_critic_params, ahead.observation, next_action, hparams.pessimism))
        critic, critic_loss, q = state.critic.step(
            lambda params: mean_critic_loss(params, critics, batch, target), adam, has_aux=True
        )

        def cloning(params: Params) -> Array:
            def velocity(x: Array, t: Array) -> Array:
                return forward(network, params, x, t[:, None], batch.observation)

            return flow_matching_loss(velocity, batch.action, flow_key)

        behavior, behavior_loss = state.behavior.step(cloning, adam)
        state = dataclasses.replace(
            state,
            critic=critic,
            target_critic_params=optax.incremental_update(state.critic.params, state.target_critic_params, hparams.tau),
            behavior=behavior,
        )
        metrics = {"critic/loss": critic_loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}
        return state, metrics | {"behavior/loss": behavior_loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        count, pessimism = config.act.num_candidates, policy["pessimism"]
        return choose(policy["behavior"], policy["critic"], observation, key, count, pessimism), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("qc", config.num_updates, config.batch_size, update),),
        policy=lambda state: {
            "behavior": state.behavior.params,
            "critic": state.critic.params,
            "pessimism": state.hparams.pessimism,
        },
        init_carry=no_carry,
        act=act,
    )
