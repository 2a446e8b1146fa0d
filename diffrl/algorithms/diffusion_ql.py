"""Diffusion-QL: a diffusion model as the policy of TD3+BC (Wang, Hunt, Zhou 2023, arXiv 2208.06193; constants as in their code).

The policy's loss is the denoising loss, which clones, minus η Q of an action drawn by the whole chain of five steps, through
which the gradient flows back. Q is divided by the size of the other critic's values. Targets take actions from an average of the
policy. Five steps with the posterior variance draw less than half of the data's spread even from a perfect network: that is the
method.
"""

import dataclasses
from functools import partial
from typing import Any, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import Grid, LinearVP, grid
from diffrl.diffusion.targets import Model, Predict, as_model, clipped
from diffrl.learner import Learner, averaged, copied, example, forward
from diffrl.networks.ensembles import Critics, member
from diffrl.networks.mlp import Linear, mish
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.objectives.candidates import Decoding, backup, candidate_q, candidates, resampled, soft_action
from diffrl.objectives.value import bootstrap, critic_loss, lowest_q, normalized_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SCHEDULE = LinearVP(0.1, 10.0)  # the "vp" table; step i of T is t = i/T
BACKUP_ACTIONS = 10
AVERAGE_START, AVERAGE_EVERY = 1_000, 5  # updates before the average first moves, and between its moves


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        policy_learning_rate, critic_learning_rate: Adam's.
        discount, tau: γ, and the rate of the target critics.
        ema_decay: of the policy's average, from which targets draw.
        eta: η, the weight of Q against cloning.
        max_gradient_norm: of the policy, and of both critics together.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    ema_decay: float = setting(0.995, high=1.0)
    eta: float = 1.0
    max_gradient_norm: float = setting(1.0, low=1e-6)


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting.

    Attributes:
        num_candidates: actions drawn, of which one is chosen with probability ∝ exp(β min Q) of the target critics;
            not of "svdd".
        beta: β of that choice.
    """

    num_candidates: int = 50
    beta: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of the target, widths and lengths.

    Attributes:
        num_diffusion_steps: T; network evaluations per action.
        max_q_backup: a target takes of ten next actions each critic's highest value, before the lower of the two.
    """

    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    num_diffusion_steps: int = 5
    max_q_backup: bool = False
    num_updates: int = setting(2_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    policy: Learner
    ema_params: Params
    critic: Learner
    target_critic_params: Params


def model_of(predict: Predict) -> Model:
    """The model of a noise predictor, its predicted action in [-1, 1]."""
    return clipped(as_model(predict, SCHEDULE), -1.0, 1.0)


def draw(predict: Predict, levels: Grid, start: Float[Array, "batch *dims"], key: Key) -> Float[Array, "batch *dims"]:
    """Actions from noise: DDPM with the posterior variance (the paper has β_t)."""
    return sample(model_of(predict), levels, ancestral(), key, start)


def q_loss(
    critic: nn.Module, climbed: Params, other: Params, observation: Float[Array, "batch observation"], action: Array
) -> Float[Array, ""]:
    """-mean Q_i(s, a) / mean |Q_j(s, a)|: one critic is climbed, the other's values are its scale."""
    q = forward(critic, climbed, observation, action)[0]
    scale = forward(critic, other, observation, jax.lax.stop_gradient(action))[0]
    return -normalized_q(q, scale)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: the critics, the policy on the new critics, its average, the target critics."""
    num_steps = config.num_diffusion_steps
    levels = grid(SCHEDULE, num_steps)
    network = MLPDenoiser(spec.action_dim, config.hidden_dims, time_features="sinusoidal", time_dims=(32, 16), dense=Linear)
    critics, one_critic = (Critics(config.critic_hidden_dims, count, activation=mish) for count in (2, 1))

    def epsilon(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t * num_steps - 1.0, observation)

    def actions(params: Params, observation: Array, count: int, key: Key) -> Array:
        """`[count, B, A]`."""

        def chains(start: Array, observation: Array, key: Key) -> Array:
            # Within a chain one time serves all rows.
            return draw(lambda x, t: epsilon(params, x, t[:1], observation), levels, start, key)

        return candidates(chains, observation, count, spec.action_dim, key)

    def optimizer(learning_rate: Any, hparams: HParams) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(hparams.max_gradient_norm), optax.adam(learning_rate))

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        observation, action = example(spec)
        policy_optimizer = optimizer(hparams.policy_learning_rate, hparams)
        policy = Learner.init(network, policy_optimizer, policy_key, action, jnp.zeros(1), observation)
        critic = Learner.init(critics, optimizer(hparams.critic_learning_rate, hparams), critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=policy,
            ema_params=copied(policy.params),
            critic=critic,
            target_critic_params=copied(critic.params),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        next_key, bc_key, chain_key, coin_key = jax.random.split(key, 4)

        ahead = bootstrap(batch, hparams.discount)
        next_actions = actions(state.ema_params, ahead.observation, BACKUP_ACTIONS if config.max_q_backup else 1, next_key)
        next_q = candidate_q(critics, state.target_critic_params, ahead.observation, next_actions)
        target = ahead.target(backup(next_q))
        critic, loss_of_critic, q = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target),
            optimizer(hparams.critic_learning_rate, hparams),
            has_aux=True,
        )

        coin = jax.random.bernoulli(coin_key).astype(jnp.int32)
        climbed, other = member(critic.params, coin), member(critic.params, 1 - coin)

        def policy_loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
            def predict(noised: Array, t: Array) -> Array:
                return epsilon(params, noised, t, batch.observation)

            times = discrete_times(num_steps)
            cloning = denoising_loss(predict, SCHEDULE, batch.action, bc_key, times=times) / spec.action_dim
            action = actions(params, batch.observation, 1, chain_key)[0]
            climbing = q_loss(one_critic, climbed, other, batch.observation, action)
            return cloning + hparams.eta * climbing, (cloning, climbing)

        policy, loss_of_policy, (cloning, climbing) = state.policy.step(
            policy_loss, optimizer(hparams.policy_learning_rate, hparams), has_aux=True
        )
        due = (state.step >= AVERAGE_START) & (state.step % AVERAGE_EVERY == 0)
        state = dataclasses.replace(
            state,
            policy=policy,
            ema_params=averaged(state.ema_params, policy.params, 1.0 - hparams.ema_decay, due),
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
        )
        return state, {
            "critic/loss": loss_of_critic,
            "critic/q": jnp.mean(q),
            "critic/target": jnp.mean(target),
            "policy/loss": loss_of_policy,
            "policy/bc_loss": cloning,
            "policy/q_loss": climbing,
        }

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def model(observation: Array) -> Model:
            return model_of(lambda x, t: epsilon(policy["policy"], x, t[:1], observation))

        value = partial(lowest_q, critics, policy["critic"])
        return soft_action(model, value, levels, ancestral(), key, observation, spec.action_dim, config.act.svdd), carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        key, choice_key = jax.random.split(key)
        drawn = actions(policy["policy"], observation, config.act.num_candidates, key)
        return resampled(critics, policy["critic"], observation, drawn, config.act.beta, choice_key), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("diffusion_ql", config.num_updates, config.batch_size, update),),
        policy=lambda state: {"policy": state.policy.params, "critic": state.target_critic_params},
        init_carry=no_carry,
        act=act_softly if config.act.decode == "svdd" else act,
    )
