"""DAC: diffusion actor-critic (Fang, Liu, Zhang, Wang, Jing 2025, arXiv 2405.20555; objective and constants as in their code).

Policy improvement under a bound on KL(π ‖ data) is a regression of noise: denoising the data, weighted by η, and a pull of the
predicted noise along -σ_t ∇Q. The minimiser is the data's noise minus σ_t ∇Q/(2η): π ∝ π_data exp(Q/(2η)), a factor of two from
the paper's theorem. η is a dual variable that keeps the denoising loss at a threshold; the critics are an ensemble whose lower
confidence bound is learnt from.
"""

import dataclasses
from typing import Any, Literal, no_type_check

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
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import Grid, LinearVP, grid, over
from diffrl.diffusion.targets import Model, Predict, as_model, clipped
from diffrl.learner import Learner, averaged, copied, example, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import ACTIVATIONS, xavier_dense
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.objectives.candidates import Decoding, candidate_q, candidates, soft_action
from diffrl.objectives.value import action_gradient, bootstrap, lower_confidence_bound, mean_critic_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SCHEDULE = LinearVP(0.1, 10.0)
Guidance = Literal["soft", "hard"]
Backup = Literal["mean", "max"]
ETA_MIN, ETA_MAX = 0.001, 100.0
AVERAGE_START, AVERAGE_EVERY = 1_000, 5  # updates before the target policy first moves, and between its moves


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        policy_learning_rate, critic_learning_rate: Adam's, both along a cosine to 0.
        discount, tau: γ, and the rate of the target critics and of the target policy.
        eta: η at the start, the weight of the denoising loss.
        eta_learning_rate: of η; 0 keeps it.
        bc_threshold: b, the denoising loss that η is to keep; 1 is what a network that says 0 achieves.
        pessimism: ρ, standard deviations below the ensemble's mean.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    eta: float = 1.0
    eta_learning_rate: float = 1e-3
    bc_threshold: float = 1.0
    pessimism: float = 1.0


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting.

    Attributes:
        num_candidates: actions drawn, of which the one of the highest mean Q is taken; not of "svdd".
        noise_scale: scales the sampler's fresh noise.
    """

    num_candidates: int = 10
    noise_scale: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of targets and guidance, widths and lengths.

    Attributes:
        num_diffusion_steps: T; network evaluations per action.
        num_next_actions: drawn from the target policy for a target.
        backup: what each critic takes over them, before the bound.
        guidance: "soft", or "hard" without the factor σ_t (their ablation).
        normalize_gradient: divide ∇Q by the values' scale C, the mean of |Q|; without it η depends on the rewards' units.
        critic_activation, layer_norm: in the critics; on OGBench they are "gelu", and LayerNorm after it.
        max_gradient_norm: of the policy, and of all critics together.
        n_step: rewards summed before the value.
    """

    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    num_critics: int = 10
    num_diffusion_steps: int = 5
    num_next_actions: int = 10
    backup: Backup = "mean"
    guidance: Guidance = "soft"
    normalize_gradient: bool = True
    critic_activation: Literal["mish", "gelu"] = "mish"
    layer_norm: bool = False
    max_gradient_norm: float = 1.0
    n_step: int = 1
    num_updates: int = setting(2_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    policy: Learner
    target_policy_params: Params
    critic: Learner
    target_critic_params: Params
    eta: Params


def model_of(predict: Predict) -> Model:
    """The model of a noise predictor, its predicted action in [-1, 1]."""
    return clipped(as_model(predict, SCHEDULE), -1.0, 1.0)


def draw(predict: Predict, levels: Grid, start: Float[Array, "batch *dims"], key: Key, noise_scale: float = 1.0) -> Array:
    """Actions `[B, …]` from noise: DDPM with variance β_t."""
    return sample(model_of(predict), levels, ancestral("forward", noise_scale), key, start)


def next_value(q: Float[Array, "critics candidates batch"], backup: Backup, pessimism: Array | float) -> Float[Array, "batch"]:
    """The bound over members of each one's mean or maximum over candidates."""
    over_candidates = jnp.max(q, axis=1) if backup == "max" else jnp.mean(q, axis=1)
    return lower_confidence_bound(over_candidates, pessimism)


def pull(gradient: Float[Array, "batch *dims"], guidance: Guidance, t: Float[Array, "batch"]) -> Float[Array, "batch *dims"]:
    """What the predicted noise is pulled against: σ_t ∇Q, or ∇Q where the guidance is hard."""
    return gradient * (over(SCHEDULE.sigma(t), gradient) if guidance == "soft" else 1.0)


def policy_loss(
    predicted: Float[Array, "batch *dims"], noise: Array, pulled: Array, eta: Array | float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """η mean (ε - z)² + mean ⟨pull, ε⟩, and the denoising loss in it without its weight."""
    bc_loss = jnp.mean((predicted - noise) ** 2)
    return eta * bc_loss + jnp.mean(pulled * predicted), bc_loss


def dual_step(eta: Array | float, bc_loss: Array | float, threshold: Array | float, learning_rate: Array | float) -> Array:
    """η grows where the denoising loss is above the threshold; steps and η are held in a range.

    In an update the loss is that of the policy before its step, as in the authors' code: what the policy's own step computes.
    """
    return jnp.clip(eta + learning_rate * jnp.clip(bc_loss - threshold, -1.0, 1.0), ETA_MIN, ETA_MAX)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: critics and their targets, the policy on those targets, η, and the policy's average.

    Raises:
        ValueError: soft decoding without fresh noise.
    """
    config.act.require_noise(config.act.noise_scale > 0.0, "raise act.noise_scale")
    num_steps = config.num_diffusion_steps
    levels = grid(SCHEDULE, num_steps)
    network = MLPDenoiser(spec.action_dim, config.hidden_dims, time_features="sinusoidal", time_dims=(32, 32))
    critics = Critics(
        config.critic_hidden_dims,
        config.num_critics,
        dense=xavier_dense,
        activation=ACTIVATIONS[config.critic_activation],
        layer_norm="after" if config.layer_norm else "",
    )

    def epsilon(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t * num_steps, observation)

    def actions(params: Params, observation: Array, count: int, key: Key, noise_scale: float = 1.0) -> Array:
        """`[count, B, A]`."""

        def chains(start: Array, observation: Array, key: Key) -> Array:
            # Within a chain one time serves all rows.
            return draw(lambda x, t: epsilon(params, x, t[:1], observation), levels, start, key, noise_scale)

        return candidates(chains, observation, count, spec.action_dim, key)

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        rate = optax.cosine_decay_schedule(learning_rate, config.num_updates)
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate))

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key = jax.random.split(key)
        observation, action = example(spec)
        policy = Learner.init(network, optimizer(hparams.policy_learning_rate), policy_key, action, jnp.zeros(1), observation)
        critic = Learner.init(critics, optimizer(hparams.critic_learning_rate), critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=policy,
            target_policy_params=copied(policy.params),
            critic=critic,
            target_critic_params=copied(critic.params),
            eta=jnp.asarray(hparams.eta, jnp.float32),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        next_key, time_key, noise_key = jax.random.split(key, 3)

        ahead = bootstrap(batch, hparams.discount)
        next_actions = actions(state.target_policy_params, ahead.observation, config.num_next_actions, next_key)
        next_q = candidate_q(critics, state.target_critic_params, ahead.observation, next_actions)
        target = ahead.target(next_value(next_q, config.backup, hparams.pessimism))
        critic, loss_of_critic, q = state.critic.step(
            lambda params: mean_critic_loss(params, critics, batch, target),  # whose gradient's norm is bounded
            optimizer(hparams.critic_learning_rate),
            has_aux=True,
        )
        target_critic_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)

        t = discrete_times(num_steps)(time_key, len(batch.reward))
        noise = jax.random.normal(noise_key, batch.action.shape)
        noised = perturb(SCHEDULE, batch.action, t, noise)
        gradient = action_gradient(critics, target_critic_params, batch.observation, noised)
        if config.normalize_gradient:
            gradient /= jnp.mean(jnp.abs(forward(critics, target_critic_params, batch.observation, batch.action))) + 1e-6
        pulled = pull(gradient, config.guidance, t)
        policy, loss_of_policy, bc_loss = state.policy.step(
            lambda params: policy_loss(epsilon(params, noised, t, batch.observation), noise, pulled, state.eta),
            optimizer(hparams.policy_learning_rate),
            has_aux=True,
        )
        eta = dual_step(state.eta, bc_loss, hparams.bc_threshold, hparams.eta_learning_rate)

        due = (state.step > AVERAGE_START) & (state.step % AVERAGE_EVERY == 0)
        state = dataclasses.replace(
            state,
            policy=policy,
            target_policy_params=averaged(state.target_policy_params, policy.params, hparams.tau, due),
            critic=critic,
            target_critic_params=target_critic_params,
            eta=eta,
        )
        return state, {
            "critic/loss": loss_of_critic,
            "critic/q": jnp.mean(q),
            "critic/target": jnp.mean(target),
            "critic/gradient": jnp.mean(jnp.abs(gradient)),
            "policy/loss": loss_of_policy,
            "policy/bc_loss": bc_loss,
            "policy/eta": eta,
        }

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def model(observation: Array) -> Model:
            return model_of(lambda x, t: epsilon(policy["policy"], x, t[:1], observation))

        def value(observation: Array, action: Array) -> Array:
            return jnp.mean(forward(critics, policy["critic"], observation, action), axis=0)

        solver = ancestral("forward", config.act.noise_scale)
        return soft_action(model, value, levels, solver, key, observation, spec.action_dim, config.act.svdd), carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        drawn = actions(policy["policy"], observation, config.act.num_candidates, key, config.act.noise_scale)
        if config.act.num_candidates == 1:
            return drawn[0], carry
        return best_of(drawn, jnp.mean(candidate_q(critics, policy["critic"], observation, drawn), axis=0)), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("dac", config.num_updates, config.batch_size, update),),
        policy=lambda state: {"policy": state.policy.params, "critic": state.target_critic_params},
        init_carry=no_carry,
        act=act_softly if config.act.decode == "svdd" else act,
        columns=(lambda dataset: steps_ahead(dataset, config.n_step)) if config.n_step > 1 else None,
        lookahead=config.n_step,
    )
