"""QSM: Q-score matching (Psenka, Escontrela, Abbeel, Ma 2024, arXiv 2312.11752).

The policy is a diffusion model of few steps whose noise prediction is regressed onto -M ∇_a Q at noised actions: no gradient goes
through the sampling chain, and no data action is imitated. Online this is the whole method. On fixed data a denoising loss holds
it to the data (`bc_weight`; the code of QAM, arXiv 2601.14234); `dac.py` weighs the two consistently.
"""

import dataclasses
from typing import Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.columns import steps_ahead
from diffrl.diffusion.guidance import best_of
from diffrl.diffusion.objectives import discrete_times, perturb
from diffrl.diffusion.samplers import ancestral, boxed, sample
from diffrl.diffusion.schedules import Grid, LinearVP, grid, over
from diffrl.diffusion.targets import Predict, as_model
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import ACTIVATIONS, xavier_dense
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.objectives.value import action_gradient, bootstrap, critic_loss, lower_confidence_bound
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SCHEDULE = LinearVP(0.1, 10.0)  # the "vp" table; step i of T is t = i/T
Guidance = Literal["hard", "soft"]


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        policy_learning_rate, critic_learning_rate: Adam's; the policy's falls along a cosine (`Config.policy_decay_updates`).
        discount, tau: γ, and the rate of the target critics.
        q_gain: M of the target -M ∇Q (the paper's α): a gain, not an inverse temperature.
        bc_weight: of the denoising loss; 0 is the online method.
        pessimism: standard deviations below the ensemble's mean, where the target's value is "lcb".
        target_noise: deviation of the noise on target actions.
        exploration_noise: of the noise on collected actions, beside the policy's own.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    q_gain: float = 50.0
    bc_weight: float = 0.0
    pessimism: float = 0.5
    target_noise: float = 0.1
    exploration_noise: float = 0.1


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        noise_scale: scales the sampler's fresh noise.
        num_candidates: actions drawn, of which the one of the highest mean Q is taken.
    """

    noise_scale: float = 1.0
    num_candidates: int = 1


@dataclasses.dataclass
class Config(HParams):
    """Choices of the policy's target, widths and lengths.

    Attributes:
        num_diffusion_steps: T; network evaluations per action.
        guidance: "hard" as released, or "soft" with the factor σ_t that a score's conversion to noise has.
        gradient_of: the critics that the policy follows.
        target_value: of the next action, the "min" over critics or their lower confidence bound, "lcb".
        n_step: rewards summed before the value.
        critic_activation, layer_norm: in the critics; on OGBench they are "gelu", and LayerNorm after it.
        policy_decay_updates: updates after which the policy's learning rate is 0; twice the released run's length.
    """

    hidden_dims: tuple[int, ...] = (512, 512)
    critic_hidden_dims: tuple[int, ...] = (512, 512)
    num_critics: int = 2
    num_diffusion_steps: int = 5
    guidance: Guidance = "hard"
    gradient_of: Literal["online", "target"] = "online"
    target_value: Literal["min", "lcb"] = "min"
    n_step: int = 1
    critic_activation: Literal["relu", "gelu"] = "relu"
    layer_norm: bool = False
    policy_decay_updates: int = setting(2_000_000, high=2**29)
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


def draw(predict: Predict, levels: Grid, start: Float[Array, "batch *dims"], key: Key, noise_scale: float = 1.0) -> Array:
    """Actions `[B, …]` from noise by the released sampler: DDPM with variance β_t, and x itself in [-1, 1] after every step."""
    solver = boxed(ancestral("forward", noise_scale), -1.0, 1.0)
    return sample(as_model(predict, SCHEDULE), levels, solver, key, start)


def noise_target(
    hparams: HParams, guidance: Guidance, gradient: Float[Array, "batch *dims"], t: Float[Array, "batch"]
) -> Float[Array, "batch *dims"]:
    """-M ∇Q, times σ_t where the guidance is soft: what the noise prediction is regressed onto."""
    weight = over(SCHEDULE.sigma(t), gradient) if guidance == "soft" else 1.0
    return -hparams.q_gain * weight * gradient


def policy_loss(
    predicted: Float[Array, "batch *dims"], goal: Array, noise: Array, bc_weight: Float[Array, ""] | float
) -> Float[Array, ""]:
    """mean (ε - goal)², which matches the score to ∇Q, and `bc_weight` times the denoising loss that holds it to the data."""
    return jnp.mean((goal - predicted) ** 2) + bc_weight * jnp.mean((noise - predicted) ** 2)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: critics, their targets, then the policy on the critics just improved."""
    num_steps = config.num_diffusion_steps
    levels = grid(SCHEDULE, num_steps)
    network = MLPDenoiser(spec.action_dim, config.hidden_dims)
    critics = Critics(
        config.critic_hidden_dims,
        config.num_critics,
        dense=xavier_dense,
        activation=ACTIVATIONS[config.critic_activation],
        layer_norm="after" if config.layer_norm else "",
    )

    def epsilon(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t * num_steps - 1.0, observation)

    def actions(params: Params, observation: Array, key: Key, noise_scale: float = 1.0) -> Array:
        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (len(observation), spec.action_dim))
        return draw(lambda x, t: epsilon(params, x, t, observation), levels, start, key, noise_scale)

    def cosine(hparams: HParams) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.policy_learning_rate, config.policy_decay_updates))

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        observation, action = example(spec)
        critic = Learner.init(critics, optax.adam(hparams.critic_learning_rate), critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=Learner.init(network, cosine(hparams), policy_key, action, jnp.zeros(1), observation),
            critic=critic,
            target_critic_params=copied(critic.params),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        next_key, smoothing_key, time_key, noise_key = jax.random.split(key, 4)

        # Critics: the next action is the current policy's, smoothed by noise.
        ahead = bootstrap(batch, hparams.discount)
        next_action = actions(state.policy.params, ahead.observation, next_key)
        smoothing = hparams.target_noise * jax.random.normal(smoothing_key, next_action.shape)
        next_q = forward(critics, state.target_critic_params, ahead.observation, jnp.clip(next_action + smoothing, -1.0, 1.0))
        next_value = (
            jnp.min(next_q, axis=0) if config.target_value == "min" else lower_confidence_bound(next_q, hparams.pessimism)
        )
        target = ahead.target(next_value)
        critic, loss_of_critic, q = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target),
            optax.adam(hparams.critic_learning_rate),
            has_aux=True,
        )
        target_critic_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)

        # Policy: noise regressed onto the critics' gradient where the noised data actions are.
        t = discrete_times(num_steps)(time_key, len(batch.reward))
        noise = jax.random.normal(noise_key, batch.action.shape)
        noised = perturb(SCHEDULE, batch.action, t, noise)
        followed = critic.params if config.gradient_of == "online" else target_critic_params
        gradient = action_gradient(critics, followed, batch.observation, noised)
        goal = noise_target(hparams, config.guidance, gradient, t)
        policy, loss_of_policy = state.policy.step(
            lambda params: policy_loss(epsilon(params, noised, t, batch.observation), goal, noise, hparams.bc_weight),
            cosine(hparams),
        )
        state = dataclasses.replace(state, policy=policy, critic=critic, target_critic_params=target_critic_params)
        return state, {
            "critic/loss": loss_of_critic,
            "critic/q": jnp.mean(q),
            "critic/target": jnp.mean(target),
            "critic/gradient": jnp.mean(jnp.abs(gradient)),
            "policy/loss": loss_of_policy,
            "policy/saturated": jnp.mean(jnp.abs(next_action) > 1.0 - 1e-3),
        }

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        keys = jax.random.split(key, config.act.num_candidates)
        samples = jnp.stack([actions(policy["policy"], observation, key, config.act.noise_scale) for key in keys])
        if config.act.num_candidates == 1:
            return samples[0], carry
        values = jax.vmap(lambda action: jnp.mean(forward(critics, policy["critic"], observation, action), axis=0))(samples)
        return best_of(samples, values), carry

    def explore(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        sample_key, noise_key = jax.random.split(key)
        action = actions(policy["policy"], observation, sample_key)
        return action + policy["exploration_noise"] * jax.random.normal(noise_key, action.shape), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("qsm", config.num_updates, config.batch_size, update),),
        policy=lambda state: {
            "policy": state.policy.params,
            "critic": state.critic.params,
            "exploration_noise": state.hparams.exploration_noise,
        },
        init_carry=no_carry,
        act=act,
        columns=(lambda dataset: steps_ahead(dataset, config.n_step)) if config.n_step > 1 else None,
        lookahead=config.n_step,
        explore=explore,
    )
