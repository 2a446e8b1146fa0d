"""TD3+BC: TD3 whose policy also regresses onto the data (Fujimoto and Gu 2021, arXiv 2106.06860)."""

import dataclasses
from typing import no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP
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
        learning_rate: Adam's, of policy and critics.
        discount: γ.
        tau: rate of the target networks.
        alpha: weight of the values against cloning; 0 is behaviour cloning.
        policy_noise, noise_clip: deviation and bound of the noise on target actions, which lie in [-1, 1].
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    alpha: float = 2.5
    policy_noise: float = 0.2
    noise_clip: float = 0.5


@dataclasses.dataclass
class Config(HParams):
    """The paper also standardises observations: `DatasetConfig.standardize_observations`.

    Attributes:
        policy_delay: critic updates per update of the policy and of the targets.
        num_updates: counts critic updates, as the paper does.
    """

    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    policy_delay: int = 2
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    batch: Transition,
    alpha: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """E (π(s) - a)² - λ Q_1(s, π(s)), the square's mean over action dimensions too (eq. 5)."""
    action = forward(policy, params, batch.observation)
    first_q = forward(critics, critic_params, batch.observation, action)[0]
    return jnp.mean((action - batch.action) ** 2) - alpha * normalized_q(first_q, first_q)  # λ = α / mean |Q|


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage; each update trains the critics, every `policy_delay`-th then also the policy and both targets."""
    critics = Critics(config.hidden_dims, config.num_critics)
    policy_network = MLP(config.hidden_dims, spec.action_dim, output_activation=jnp.tanh)

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        policy = Learner.init(policy_network, adam, policy_key, observation)
        critic = Learner.init(critics, adam, critic_key, observation, action)
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
        adam = optax.adam(hparams.learning_rate)

        ahead = bootstrap(batch, hparams.discount)
        next_action = forward(policy_network, state.target_policy_params, ahead.observation)
        next_action = smoothed(next_action, key, hparams.policy_noise, hparams.noise_clip)
        target = ahead.target(lowest_q(critics, state.target_critic_params, ahead.observation, next_action))
        critic, loss, q = state.critic.step(lambda params: critic_loss(params, critics, batch, target), adam, has_aux=True)

        def loss_fn(params: Params) -> Array:
            return policy_loss(params, policy_network, critics, critic.params, batch, hparams.alpha)

        state = improve_when_due(state, critic, loss_fn, adam, config.policy_delay)
        return state, {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return forward(policy_network, policy, observation), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("td3_bc", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
