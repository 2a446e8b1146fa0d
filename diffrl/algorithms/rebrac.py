"""ReBRAC: TD3+BC with a penalty for the policy and another for the critics (Tarasov et al. 2023, arXiv 2305.09836).

The policy is held to the data's action; the value after a transition is lowered by how far the policy's next action lies from
the one that the data took next. Critics are normalised by layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.sampling import next_actions
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP, lifted_dense, scaled_dense, uniform_dense, xavier_dense
from diffrl.objectives.delayed import State, improve_when_due, smoothed
from diffrl.objectives.value import bootstrap, critic_loss, lowest_q, normalized_q
from diffrl.settings import setting
from diffrl.types import Carry, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        policy_learning_rate, critic_learning_rate: Adam's.
        discount: γ.
        tau: rate of the target networks.
        policy_penalty, critic_penalty: β_1 and β_2, of squared distances summed over action dimensions.
        policy_noise, noise_clip: deviation and bound of the noise on target actions, which lie in [-1, 1].
    """

    policy_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    policy_penalty: float = 0.01
    critic_penalty: float = 0.01
    policy_noise: float = 0.2
    noise_clip: float = 0.5


@dataclasses.dataclass
class Config(HParams):
    """Those of the paper's locomotion runs.

    Attributes:
        networks: "paper" for relu with EDAC's initialisation; "ogbench" for gelu with Xavier's, as the benchmark's code has it.
        policy_delay: critic updates per update of the policy and of the targets.
        num_updates: counts critic updates, as the paper does.
    """

    networks: Literal["paper", "ogbench"] = "paper"
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    num_critics: int = 2
    policy_delay: int = 2
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 1024


class Layers(NamedTuple):
    """Activation and layers of both networks, and the last layer of each, which starts near 0."""

    activation: Callable[[Array], Array]
    dense: Callable[[int], nn.Module]
    policy_output: Callable[[int], nn.Module]
    critic_output: Callable[[int], nn.Module]


NETWORKS: dict[str, Layers] = {
    "paper": Layers(nn.relu, lifted_dense, uniform_dense(1e-3), uniform_dense(3e-3)),
    "ogbench": Layers(nn.gelu, xavier_dense, scaled_dense(0.01), xavier_dense),
}


def squared_distance(action: Float[Array, "batch action"], other: Float[Array, "batch action"]) -> Float[Array, "batch"]:
    """‖a - b‖², summed over action dimensions."""
    return jnp.sum((action - other) ** 2, axis=-1)


def penalised_value(
    next_q: Float[Array, "batch"],
    next_action: Float[Array, "batch action"],
    data_action: Float[Array, "batch action"],
    known: Bool[Array, "batch"],
    critic_penalty: Float[Array, ""] | float,
) -> Float[Array, "batch"]:
    """Q(s', a') - β_2 ‖a' - a_next‖² (eq. 5); without the penalty where an episode's end leaves a_next unknown."""
    return next_q - critic_penalty * jnp.where(known, squared_distance(next_action, data_action), 0.0)


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    batch: Transition,
    policy_penalty: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """E β_1 ‖π(s) - a‖² - λ min_k Q_k(s, π(s)) with λ = 1 / mean |Q| (eq. 4)."""
    action = forward(policy, params, batch.observation)
    q = lowest_q(critics, critic_params, batch.observation, action)
    return policy_penalty * jnp.mean(squared_distance(action, batch.action)) - normalized_q(q, q)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage; each update trains the critics, every `policy_delay`-th then also the policy and both targets."""
    layers = NETWORKS[config.networks]
    critics = Critics(
        config.critic_hidden_dims,
        config.num_critics,
        dense=layers.dense,
        activation=layers.activation,
        layer_norm="after",
        output_dense=layers.critic_output,
    )
    policy_network = MLP(
        config.hidden_dims,
        spec.action_dim,
        dense=layers.dense,
        activation=layers.activation,
        output_activation=jnp.tanh,
        output_dense=layers.policy_output,
    )

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        observation, action = example(spec)
        policy = Learner.init(policy_network, optax.adam(hparams.policy_learning_rate), policy_key, observation)
        critic = Learner.init(critics, optax.adam(hparams.critic_learning_rate), critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=policy,
            critic=critic,
            target_policy_params=copied(policy.params),
            target_critic_params=copied(critic.params),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams

        ahead = bootstrap(batch, hparams.discount)
        next_action = forward(policy_network, state.target_policy_params, ahead.observation)
        next_action = smoothed(next_action, key, hparams.policy_noise, hparams.noise_clip)
        next_q = lowest_q(critics, state.target_critic_params, ahead.observation, next_action)
        data_action, known = batch.extras["next_action"], batch.extras["next_action_known"]
        target = ahead.target(penalised_value(next_q, next_action, data_action, known, hparams.critic_penalty))
        critic, loss, q = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target), optax.adam(hparams.critic_learning_rate), has_aux=True
        )

        def loss_fn(params: Params) -> Array:
            return policy_loss(params, policy_network, critics, critic.params, batch, hparams.policy_penalty)

        state = improve_when_due(state, critic, loss_fn, optax.adam(hparams.policy_learning_rate), config.policy_delay)
        return state, {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return forward(policy_network, policy, observation), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("rebrac", config.num_updates, config.batch_size, update, batch=next_actions),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
