"""DAC: diffusion actor-critic (Fang, Liu, Zhang, Wang, Jing 2025, arXiv 2405.20555; objective and constants as in their code).

Policy improvement under a bound on KL(π ‖ data) is a regression of noise: denoising the data, weighted by η, and a pull of the
predicted noise along -σ_t ∇Q. The minimiser is the data's noise minus σ_t ∇Q/(2η): π ∝ π_data exp(Q/(2η)), a factor of two from
the paper's theorem. η is a dual variable that keeps the denoising loss at a threshold; the critics are an ensemble whose lower
confidence bound is learnt from.
"""

import dataclasses
from typing import Any, no_type_check

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
from diffrl.diffusion.schedules import Grid, LinearVP, grid
from diffrl.diffusion.targets import Predict, as_model, clipped
from diffrl.learner import Learner, forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import mish, xavier_dense
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.objectives.value import action_gradient, bootstrap, lower_confidence_bound
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SCHEDULE = LinearVP(0.1, 10.0)
GUIDANCES = ("soft", "hard")
BACKUPS = ("mean", "max")
ETA_MIN, ETA_MAX = 0.001, 100.0
EMA_START, EMA_EVERY = 1_000, 5  # updates before the actor's average first moves, and between its moves


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        actor_learning_rate, critic_learning_rate: Adam's, both along a cosine to 0.
        discount, tau: γ, and the rate of the target critics and of the actor's average.
        eta: η at the start, the weight of the denoising loss.
        eta_learning_rate: of η; 0 keeps it.
        bc_threshold: b, the denoising loss that η is to keep; 1 is what a network that says 0 achieves.
        pessimism: ρ, standard deviations below the ensemble's mean.
    """

    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    eta: float = 1.0
    eta_learning_rate: float = 1e-3
    bc_threshold: float = 1.0
    pessimism: float = 1.0


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_candidates: actions drawn, of which the one of the highest mean Q is taken.
        temperature: scales the sampler's fresh noise.
    """

    num_candidates: int = 10
    temperature: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Attributes:
    num_diffusion_steps: T; network evaluations per action.
    num_next_actions: drawn from the averaged actor for a target.
    backup: each critic's "mean" or "max" over them, before the bound.
    guidance: "soft", or "hard" without the factor σ_t (their ablation).
    max_gradient_norm: of the actor, and of all critics together.
    n_step: rewards summed before the value.
    """

    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    num_critics: int = 10
    num_diffusion_steps: int = 5
    num_next_actions: int = 10
    backup: str = "mean"
    guidance: str = "soft"
    max_gradient_norm: float = 1.0
    n_step: int = 1
    num_updates: int = setting(2_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    step: Count
    hparams: HParams
    actor: Learner
    ema_actor_params: Params
    critic: Learner
    target_critic_params: Params
    eta: Params


def draw(predict: Predict, levels: Grid, start: Float[Array, "batch action"], key: Key, temperature: float = 1.0) -> Array:
    """Actions `[B, A]` from noise: DDPM with variance β_t and the predicted action in [-1, 1]."""
    model = clipped(as_model(predict, SCHEDULE), -1.0, 1.0)
    return sample(model, levels, ancestral("forward", temperature), key, start)


def next_value(q: Float[Array, "critics candidates batch"], backup: str, pessimism: Array | float) -> Float[Array, "batch"]:
    """The bound over members of each one's mean or maximum over candidates."""
    over_candidates = jnp.max(q, axis=1) if backup == "max" else jnp.mean(q, axis=1)
    return lower_confidence_bound(over_candidates, pessimism)


def dual_step(eta: Array | float, bc_loss: Array | float, threshold: Array | float, learning_rate: Array | float) -> Array:
    """η grows where the denoising loss is above the threshold; steps and η are held in a range."""
    return jnp.clip(eta + learning_rate * jnp.clip(bc_loss - threshold, -1.0, 1.0), ETA_MIN, ETA_MAX)


def check(config: Config) -> None:
    """Raises:
    ValueError: an unknown name.
    """
    for value, known in ((config.guidance, GUIDANCES), (config.backup, BACKUPS)):
        if value not in known:
            raise ValueError(f"{value!r} is unknown; choose one of {', '.join(known)}")


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: critics and their targets, the actor on those targets, η, and the actor's average.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    num_steps = config.num_diffusion_steps
    levels = grid(SCHEDULE, num_steps)
    network = MLPDenoiser(spec.action_dim, config.hidden_dims, time_features="sinusoidal", time_dim=32)
    critics = Critics(config.critic_hidden_dims, config.num_critics, dense=xavier_dense, activation=mish)

    def epsilon(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t * num_steps, observation)

    def candidates(params: Params, observation: Array, key: Key, count: int, temperature: float = 1.0) -> Array:
        """`[count, B, A]`, drawn as one batch."""
        start_key, key = jax.random.split(key)
        repeated = jnp.tile(observation, (count, 1))
        start = jax.random.normal(start_key, (len(repeated), spec.action_dim))
        drawn = draw(lambda x, t: epsilon(params, x, t, repeated), levels, start, key, temperature)
        return drawn.reshape(count, len(observation), spec.action_dim)

    def values(params: Params, observation: Array, actions: Array) -> Array:
        """Q `[critics, candidates, B]`."""
        return forward(critics, params, jnp.broadcast_to(observation, (*actions.shape[:2], observation.shape[-1])), actions)

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        rate = optax.cosine_decay_schedule(learning_rate, config.num_updates)
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate))

    def init(key: Key, hparams: HParams) -> State:
        actor_key, critic_key = jax.random.split(key)
        observation, action = jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.action_dim))
        actor_params = network.init(actor_key, action, jnp.zeros(1), observation)["params"]
        critic_params = critics.init(critic_key, observation, action)["params"]
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            actor=Learner.create(actor_params, optimizer(hparams.actor_learning_rate)),
            ema_actor_params=jax.tree.map(jnp.copy, actor_params),
            critic=Learner.create(critic_params, optimizer(hparams.critic_learning_rate)),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            eta=jnp.asarray(hparams.eta, jnp.float32),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams = state.hparams
        next_key, time_key, noise_key = jax.random.split(key, 3)

        ahead = bootstrap(batch, hparams.discount)
        next_actions = candidates(state.ema_actor_params, ahead.observation, next_key, config.num_next_actions)
        next_q = values(state.target_critic_params, ahead.observation, next_actions)
        target = ahead.target(next_value(next_q, config.backup, hparams.pessimism))

        def critic_loss_fn(params: Params) -> tuple[Array, Array]:
            q = forward(critics, params, batch.observation, batch.action)
            return jnp.mean((q - target) ** 2), q

        (critic_loss, q), gradients = jax.value_and_grad(critic_loss_fn, has_aux=True)(state.critic.params)
        critic = state.critic.apply_gradients(gradients, optimizer(hparams.critic_learning_rate))
        target_critic_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)

        t = discrete_times(num_steps)(time_key, len(batch.reward))
        noise = jax.random.normal(noise_key, batch.action.shape)
        noised = perturb(SCHEDULE, batch.action, t, noise)
        # The values' scale C makes the guidance independent of the rewards' units.
        scale = jnp.mean(jnp.abs(forward(critics, target_critic_params, batch.observation, batch.action))) + 1e-6
        gradient = action_gradient(critics, target_critic_params, batch.observation, noised) / scale
        pull = gradient * (SCHEDULE.sigma(t)[:, None] if config.guidance == "soft" else 1.0)

        def bc_loss_of(params: Params) -> tuple[Array, Array]:
            predicted = epsilon(params, noised, t, batch.observation)
            return jnp.mean((predicted - noise) ** 2), predicted

        def actor_loss_fn(params: Params) -> tuple[Array, Array]:
            bc_loss, predicted = bc_loss_of(params)
            return state.eta * bc_loss + jnp.mean(pull * predicted), bc_loss

        (_, bc_loss), gradients = jax.value_and_grad(actor_loss_fn, has_aux=True)(state.actor.params)
        actor = state.actor.apply_gradients(gradients, optimizer(hparams.actor_learning_rate))
        eta = dual_step(state.eta, bc_loss_of(actor.params)[0], hparams.bc_threshold, hparams.eta_learning_rate)

        due = (state.step > EMA_START) & (state.step % EMA_EVERY == 0)
        ema_actor_params = optax.incremental_update(actor.params, state.ema_actor_params, jnp.where(due, hparams.tau, 0.0))
        state = dataclasses.replace(
            state,
            actor=actor,
            ema_actor_params=ema_actor_params,
            critic=critic,
            target_critic_params=target_critic_params,
            eta=eta,
        )
        return state, {
            "loss": critic_loss,
            "bc_loss": bc_loss,
            "eta": eta,
            "q": jnp.mean(q),
            "target_q": jnp.mean(target),
            "q_gradient": jnp.mean(jnp.abs(gradient)),
        }

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        drawn = candidates(policy["actor"], observation, key, config.act.num_candidates, config.act.temperature)
        if config.act.num_candidates == 1:
            return drawn[0], carry
        return best_of(drawn, jnp.mean(values(policy["critic"], observation, drawn), axis=0)), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("dac", config.num_updates, config.batch_size, update),),
        policy=lambda state: {"actor": state.actor.params, "critic": state.target_critic_params},
        init_carry=no_carry,
        act=act,
        columns=(lambda dataset: steps_ahead(dataset, config.n_step)) if config.n_step > 1 else None,
        lookahead=config.n_step,
    )
