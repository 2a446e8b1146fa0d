"""SWG: diffusion self-weighted guidance, and SWG-R with resampling (Tagle, Ruiz-del-Solar, Tobar 2025, arXiv 2505.18345).

Two stages: (i) IQL's twin Q and V; between them every transition is given a weight w(s, a) from its advantage; (ii) one
diffusion model of z = (a, w). Its own prediction of the clean weight, E[w | z_t, s], is the guidance from the behaviour μ to
π ∝ w μ: exact, and without a second network. Acting denoises z under that guidance and drops w.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.data.dataset import Dataset
from diffrl.diffusion.dpm_solver import dpm_solver
from diffrl.diffusion.guidance import best_of, self_weighted
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import Solver, ancestral, boxed, ddim, heun, sample
from diffrl.diffusion.schedules import CosineVP, LinearVP, grid
from diffrl.diffusion.targets import Model, clipped
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.ensembles import Critics, NormalizedValue
from diffrl.networks.mlp import xavier_dense
from diffrl.networks.self_weighted import SelfWeightedDenoiser
from diffrl.objectives.candidates import Decoding, soft_action
from diffrl.objectives.implicit_q import update_values
from diffrl.objectives.value import lowest_q
from diffrl.objectives.weightings import IMPLICIT, Weighting, quantile_weight
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

LABEL_BATCH = 16_384  # rows weighed at once, which bounds memory
WeightingName = Literal["expectile", "smooth_expectile", "quantile", "linex", "exponential", "energy", "dice"]
ENERGY: WeightingName = "energy"  # the weighting of one-step problems whose reward is the energy itself: no critic


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's; the diffusion model's falls along a cosine.
        weight_decay: of the diffusion model's AdamW.
        discount, tau: γ, and the rate of the target critics.
        expectile: τ of IQL, of V and of its weights.
        beta: β, the inverse temperature of the exponential weightings; h of linex.
        ema_decay: of the average of the diffusion model, which acts.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)
    beta: float = 3.0
    ema_decay: float = setting(0.999, high=1.0)


def _smooth_expectile(advantage: Array, hparams: HParams) -> Array:
    share = jax.nn.sigmoid(3.0 * advantage)
    return share * hparams.expectile + (1.0 - share) * (1.0 - hparams.expectile)


def _quantile(advantage: Array, hparams: HParams) -> Array:
    return quantile_weight(advantage, hparams.expectile, floor=1e-3)  # weights to be learnt are held lower


def _exponential(advantage: Array, hparams: HParams) -> Array:
    return jnp.clip(jnp.exp(jnp.minimum(hparams.beta * advantage, 5.0)), 1e-3, 80.0)


def _energy(reward: Array, hparams: HParams) -> Array:
    return jnp.exp(hparams.beta * (reward - 1.0))


def _dice(advantage: Array, hparams: HParams) -> Array:
    ratio = advantage / 0.6
    return jnp.clip(jnp.where(ratio >= 0.0, ratio / 2.0 + 1.0, jnp.exp(jnp.minimum(ratio, 0.0))), 1e-40, 100.0)


# Where no loss of V belongs to a weight, V is expectile regression.
_EXPECTILE, _QUANTILE = IMPLICIT["expectile"], IMPLICIT["quantile"]
WEIGHTINGS: dict[WeightingName, Weighting] = {
    "expectile": _EXPECTILE,
    "smooth_expectile": _EXPECTILE._replace(weight=_smooth_expectile),
    "quantile": _QUANTILE._replace(weight=_quantile),
    "linex": IMPLICIT["linex"],
    "exponential": _EXPECTILE._replace(weight=_exponential),
    ENERGY: _EXPECTILE._replace(weight=_energy),
    "dice": _EXPECTILE._replace(weight=_dice),
}


Sampler = Literal["ddpm", "ddpm_boxed", "ddim", "heun", "dpm_solver"]
SAMPLERS: dict[Sampler, Callable[[float, Array, Array], Solver]] = {
    "ddpm": lambda noise_scale, low, high: ancestral(noise_scale=noise_scale),
    "ddpm_boxed": lambda noise_scale, low, high: boxed(ancestral("forward", noise_scale), low, high),
    "ddim": lambda noise_scale, low, high: ddim(),
    "heun": lambda noise_scale, low, high: heun(),
    "dpm_solver": lambda noise_scale, low, high: dpm_solver(2),
}


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting.

    Attributes:
        guidance_scale: ρ; 0 is behaviour cloning, 1 the exact policy w μ, more sharpens by rule of thumb. The authors' code
            tries 1, 5, …, 30.
        sampler: "ddpm" clips the predicted data; "ddpm_boxed" is the released code's, which clips the noisy
            state and uses the forward variance; the others are deterministic.
        num_denoising_steps: levels visited, at most the `num_diffusion_steps` of training.
        noise_scale: κ, of the start (not of "svdd") and of fresh noise; 0 is deterministic, the released code's choice when
            acting.
        num_candidates: actions per observation; more than one is SWG-R. Guidance, candidates and their choice are not of "svdd".
        select: chooses among them by the target critics' minimum ("q") or by the generated weight ("w").
        weight_low, weight_high: no guidance where the predicted weight is outside.
    """

    guidance_scale: float = 1.0
    sampler: Sampler = "ddpm"
    num_denoising_steps: int = 15
    noise_scale: float = 1.0
    num_candidates: int = 1
    select: Literal["q", "w"] = "q"
    weight_low: float = 1e-4
    weight_high: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of the weights and of the diffusion model, widths and lengths.

    Attributes:
        weighting: w of an advantage; the loss of V follows it. "energy" weighs the reward itself, e^{β(r - 1)}, and trains no
            critic: for one-step problems such as the toys.
        normalize_weights: divide by the largest weight of the data, which changes nothing in theory (constants cancel in the
            logarithm) and keeps weights without a bound in (0, 1], where the prior and the clipping expect them.
        normalize_value_input: LayerNorm on V's input, as the released code has; wrong for short observations
            (`NormalizedValue`).
        num_diffusion_steps: T; the network sees the step's index.
        schedule: "vp", or the toys' "cosine".
        weight_head: where the weight's noise leaves the network (`SelfWeightedDenoiser`).
        cosine_horizon: updates over which the diffusion learning rate falls to 0; the released code's, beyond its own training.
    """

    weighting: WeightingName = "expectile"
    normalize_weights: bool = False
    normalize_value_input: bool = True
    num_diffusion_steps: int = 15
    schedule: Literal["vp", "cosine"] = "vp"
    weight_head: Literal["early", "joint"] = "early"
    hidden_dim: int = 256
    num_blocks: int = 3
    time_dim: int = 256
    dropout_rate: float = setting(0.1, high=1.0)
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    critic_updates: int = setting(1_000_000, high=2**29)
    diffusion_updates: int = setting(1_000_000, high=2**29)
    cosine_horizon: int = setting(3_000_000, high=2**31 - 1)
    critic_batch_size: int = 256
    diffusion_batch_size: int = 1024
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    value: Learner
    critic: Learner
    target_critic_params: Params
    diffusion: Learner
    ema_params: Params


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: the weights exceed the bounds of acting, the learning rate ends before training does, or the candidates
            or soft decoding cannot be as asked.
    """
    act = config.act
    bounded = config.weighting in ("expectile", "smooth_expectile", ENERGY) or config.normalize_weights
    if not bounded and act.weight_high <= 1.0:
        raise ValueError(
            f"weights of {config.weighting!r} exceed weight_high = {act.weight_high}, beyond which there is no guidance: set "
            "normalize_weights, or raise act.weight_high"
        )
    if config.diffusion_updates > config.cosine_horizon:
        raise ValueError(
            f"after cosine_horizon = {config.cosine_horizon:,} updates the learning rate is 0, but diffusion_updates = "
            f"{config.diffusion_updates:,}: raise the horizon"
        )
    if config.weighting == ENERGY and act.decode == "svdd":
        raise ValueError("act.decode='svdd' needs a critic, and weighting 'energy' trains none: act by decode='own'")
    stochastic = act.sampler in ("ddpm", "ddpm_boxed") and act.noise_scale > 0.0
    act.require_noise(stochastic, "set act.sampler='ddpm' and act.noise_scale above 0")
    if config.weighting == ENERGY and act.num_candidates > 1 and act.select == "q":
        raise ValueError("weighting 'energy' trains no critic: choose among candidates with select='w'")
    if act.num_candidates > 1 and act.noise_scale == 0.0:
        raise ValueError("num_candidates > 1 needs a noise_scale above 0: without noise all candidates are the same")


def make(config: Config, spec: Spec) -> Algorithm:
    """Critic, then diffusion; the weights join the second stage's batches as the column "weight".

    Raises:
        ValueError: see `check`; more denoising than diffusion steps.
    """
    check(config)
    schedule = LinearVP(0.1, 10.0) if config.schedule == "vp" else CosineVP.clipped(config.num_diffusion_steps)
    levels = grid(schedule, config.act.num_denoising_steps, table=config.num_diffusion_steps)
    weighting = WEIGHTINGS[config.weighting]
    critics = Critics(config.critic_hidden_dims, dense=xavier_dense)
    value_network = NormalizedValue(config.critic_hidden_dims, config.normalize_value_input)
    network = SelfWeightedDenoiser(
        spec.action_dim,
        config.hidden_dim,
        config.num_blocks,
        time_dim=config.time_dim,
        dropout_rate=config.dropout_rate,
        weight_head=config.weight_head,
    )

    def adamw(hparams: HParams) -> optax.GradientTransformation:
        rate = optax.cosine_decay_schedule(hparams.learning_rate, config.cosine_horizon)
        return optax.adamw(rate, weight_decay=hparams.weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        value_key, critic_key, diffusion_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        z = jnp.zeros((1, spec.action_dim + 1))
        diffusion = Learner.init(network, adamw(hparams), diffusion_key, z, jnp.zeros(1), observation)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            value=Learner.init(value_network, adam, value_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
            diffusion=diffusion,
            ema_params=copied(diffusion.params),
        )

    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Algorithm 3: V, then Q against the new V, then the target."""
        del key
        return update_values(
            state,
            batch,
            lowest_q(critics, state.target_critic_params, batch.observation, batch.action),
            critics,
            value_network,
            optax.adam(state.hparams.learning_rate),
            lambda error: weighting.value_loss(error, state.hparams),
            target_from_updated_value=True,
            critic_loss_weight=0.5,
        )

    def weigh(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        """w of every transition, `[N]`, by the final target Q and V."""
        del key

        def weight(index: Array) -> Array:
            row = dataset[index]
            if config.weighting == ENERGY:
                return weighting.weight(row.reward, state.hparams)
            v = forward(value_network, state.value.params, row.observation)
            q = lowest_q(critics, state.target_critic_params, row.observation, row.action)
            return weighting.weight(q - v, state.hparams)

        w = jax.lax.map(weight, jnp.arange(dataset.size), batch_size=min(LABEL_BATCH, dataset.size))
        return {"weight": w / jnp.max(w) if config.normalize_weights else w}

    def noise(params: Params, noised: Array, t: Array, observation: Array, **options: Any) -> tuple[Array, Array]:
        """ε_a and ε_w; the network is told the index of the step, 0 to T - 1."""
        index = t * config.num_diffusion_steps - 1.0
        return network.apply({"params": params}, noised, index, observation, **options)  # pyright: ignore[reportReturnType]

    def update_diffusion(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Algorithm 1: noise prediction of z = (a, w), every coordinate alike."""
        loss_key, dropout_key = jax.random.split(key)
        weight = batch.extras["weight"]
        z = jnp.concatenate([batch.action, weight[:, None]], axis=-1)

        def loss_fn(params: Params) -> Array:
            def predict(noised: Array, t: Array) -> Array:
                parts = noise(params, noised, t, batch.observation, train=True, rngs={"dropout": dropout_key})
                return jnp.concatenate(parts, axis=-1)

            return denoising_loss(predict, schedule, z, loss_key, times=discrete_times(config.num_diffusion_steps))

        diffusion, loss = state.diffusion.step(loss_fn, adamw(state.hparams))
        state = dataclasses.replace(
            state,
            diffusion=diffusion,
            ema_params=optax.incremental_update(diffusion.params, state.ema_params, 1.0 - state.hparams.ema_decay),
        )
        return state, {
            "diffusion/loss": loss,
            "diffusion/weight": jnp.mean(weight),
            "diffusion/weight_std": jnp.std(weight),
        }

    low = jnp.array([-1.0] * spec.action_dim + [config.act.weight_low])
    high = jnp.array([1.0] * spec.action_dim + [config.act.weight_high])
    solver = SAMPLERS[config.act.sampler](config.act.noise_scale, low, high)

    def model_of(policy: Policy, observation: Array, guidance_scale: float) -> Model:
        """Of z given the observation, for the sampler chosen."""

        def predict(noised: Array, t: Array) -> tuple[Array, Array]:
            return noise(policy["denoiser"], noised, t, observation)

        model = self_weighted(predict, config.act.weight_low, config.act.weight_high, guidance_scale)
        return model if config.act.sampler == "ddpm_boxed" else clipped(model, low, high)

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def value(observation: Array, z: Array) -> Array:
            return lowest_q(critics, policy["critic"], observation, z[:, :-1])

        def model(observation: Array) -> Model:
            return model_of(policy, observation, 0.0)

        z = soft_action(model, value, levels, solver, key, observation, spec.action_dim + 1, config.act.svdd)
        return z[:, :-1], carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        """Algorithm 2 with `num_candidates` chains per observation, then the choice among them."""
        choice = config.act
        repeated = jnp.repeat(observation[None], choice.num_candidates, axis=0).reshape(-1, spec.observation_dim)

        start_key, key = jax.random.split(key)
        start = choice.noise_scale * jax.random.normal(start_key, (repeated.shape[0], spec.action_dim + 1))
        z = sample(model_of(policy, repeated, choice.guidance_scale), levels, solver, key, start)
        z = z.reshape(choice.num_candidates, -1, spec.action_dim + 1)
        if choice.num_candidates == 1:
            return z[0, :, :-1], carry
        actions = z[..., :-1]
        if choice.select == "w":
            return best_of(actions, z[..., -1]), carry
        q = lowest_q(critics, policy["critic"], repeated, actions.reshape(-1, spec.action_dim))
        return best_of(actions, q.reshape(actions.shape[:-1])), carry

    critic_stage = Stage("critic", config.critic_updates, config.critic_batch_size, update_critic)
    diffusion_stage = Stage("diffusion", config.diffusion_updates, config.diffusion_batch_size, update_diffusion, weigh)
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(diffusion_stage,) if config.weighting == ENERGY else (critic_stage, diffusion_stage),
        policy=lambda state: {"denoiser": state.ema_params, "critic": state.target_critic_params},
        init_carry=no_carry,
        act=act_softly if config.act.decode == "svdd" else act,
    )
