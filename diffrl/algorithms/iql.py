"""IQL: implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169).

Values are learnt from dataset actions alone by expectile regression; the policy is advantage-weighted regression. Of discrete
actions the critics see one-hot rows and the policy is a softmax; nothing else differs.
"""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.categorical import CategoricalPolicy
from diffrl.networks.ensembles import Critics, Value
from diffrl.networks.gaussian import GaussianPolicy
from diffrl.networks.mlp import orthogonal_dense
from diffrl.objectives.implicit_q import advantage_weight, update_values
from diffrl.objectives.value import expectile_loss, lowest_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's; the policy's falls along a cosine.
        discount, tau: γ, and the rate of the target critics.
        expectile: τ of the paper, which V is of Q over the data's actions.
        beta: β, the inverse temperature of the advantage weights (3 locomotion, 10 AntMaze).
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)
    beta: float = 3.0


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths of the paper's locomotion runs."""

    hidden_dims: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    value: Learner
    policy: Learner
    critic: Learner
    target_critic_params: Params


def policy_loss(
    params: Params, policy: GaussianPolicy | CategoricalPolicy, batch: Transition, weight: Float[Array, "batch"]
) -> Float[Array, ""]:
    """-E w log π_θ(a | s): advantage-weighted regression (eq. 7)."""
    return -jnp.mean(weight * policy.log_prob(params, batch.observation, batch.action))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: V, Q on the new V, the target critics; and the policy, weighted by the new V and the target critics before.

    That is what the authors' code computes: it improves the policy between V and Q, where Q is not asked.
    """
    critics = Critics(config.hidden_dims, config.num_critics, dense=orthogonal_dense)
    value_network = Value(config.hidden_dims, dense=orthogonal_dense)
    policy_class = CategoricalPolicy if spec.num_actions else GaussianPolicy
    policy_network = policy_class(config.hidden_dims, spec.action_dim, dense=orthogonal_dense)

    def cosine(hparams: HParams) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.learning_rate, config.num_updates))

    def init(key: Key, hparams: HParams) -> State:
        value_key, policy_key, critic_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            value=Learner.init(value_network, adam, value_key, observation),
            policy=Learner.create(policy_network.init(policy_key, observation), cosine(hparams)),
            critic=critic,
            target_critic_params=copied(critic.params),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        del key
        hparams = state.hparams
        q = lowest_q(critics, state.target_critic_params, batch.observation, batch.action)
        state, metrics = update_values(
            state,
            batch,
            q,
            critics,
            value_network,
            optax.adam(hparams.learning_rate),
            lambda error: expectile_loss(error, hparams.expectile),
            target_from_updated_value=True,
            critic_loss_weight=1.0,
        )
        weight = advantage_weight(q - forward(value_network, state.value.params, batch.observation), hparams.beta)
        policy, loss = state.policy.step(lambda params: policy_loss(params, policy_network, batch, weight), cosine(hparams))
        metrics |= {"policy/loss": loss, "policy/advantage_weight": jnp.mean(weight)}
        return dataclasses.replace(state, policy=policy), metrics

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return policy_network.mode(policy, observation), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("iql", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
