"""BESO: goal-conditioned imitation by score-based diffusion of action windows (Reuss, Li, Jia, Lioutikov 2023, arXiv 2304.02532).

A causal transformer denoises a window of actions given the states of its steps and a state that the trajectory comes to later.
With Karras' preconditioning three steps of a first-order sampler do. No rewards. Data without goals are cloned as they are.
"""

import dataclasses
from typing import Any, Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float

from diffrl.algorithm import Algorithm, Stage, hparams_of
from diffrl.data.goals import GOAL, as_goal, trajectory_end, without_goal
from diffrl.data.sampling import goals, windows
from diffrl.diffusion.guidance import guided
from diffrl.diffusion.objectives import denoising_loss, log_logistic_times
from diffrl.diffusion.samplers import Solver, ancestral, ddim, heun, sample
from diffrl.diffusion.schedules import EDM, VE, Schedule, grid
from diffrl.diffusion.targets import Model, as_model, karras
from diffrl.learner import Learner, averaged, copied, forward
from diffrl.networks.transformer import WindowDenoiser
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SOLVERS: dict[str, Solver] = {"ddim": ddim(), "ancestral": ancestral(), "heun": heun()}


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: AdamW's; times 0.99 after every `decay_every` updates.
        weight_decay: of all parameters.
        goal_dropout: share of the rows whose goal is dropped (0.1 for guidance, 0 for a model that always knows it).
        ema_decay: of the average that acts, less at the beginning.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    goal_dropout: float = setting(0.0, high=1.0)
    ema_decay: float = setting(0.999, high=1.0)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_denoising_steps: network evaluations of an action, of "heun" twice as many but the last.
        solver: "ddim" is Euler's method in σ.
        spacing: of σ from `sigma_max` to `sigma_min`, before the step to the data; "karras" with ρ = 5.
        sigma_min: may lie above that of training, which makes the last step less stiff.
        guidance_scale: λ; 1 for the conditional model, 0 for no goal.
    """

    num_denoising_steps: int = 3
    solver: Literal["ddim", "ancestral", "heun"] = "ddim"
    spacing: Literal["linear", "exponential", "karras"] = "linear"
    sigma_min: float = setting(0.1, low=1e-4)
    guidance_scale: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Noise, widths and lengths: of the code's Block-Push; in Franka Kitchen W is 4 and the width 360, 6 layers and heads.

    Attributes:
        window: W, steps that are denoised together.
        sigma_data: deviation of actions, for which the network's inputs and targets are scaled.
        sigma_min, sigma_max: noise of training, within which log σ is logistic around log σ_data with scale ½.
        hidden_dim: of tokens.
    """

    window: int = 5
    sigma_data: float = setting(0.5, low=1e-3)
    sigma_min: float = setting(0.05, low=1e-4)
    sigma_max: float = 1.0
    hidden_dim: int = 240
    num_layers: int = 4
    num_heads: int = 12
    attention_dropout: float = setting(0.05, high=1.0)
    residual_dropout: float = setting(0.05, high=1.0)
    decay_every: int = 100
    num_updates: int = setting(60_000, high=2**29)
    batch_size: int = 1024
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    denoiser: Learner
    ema_params: Params


@flax.struct.dataclass
class History:
    """What is remembered of an episode: states and actions of the last W steps, the oldest first, and how many there were."""

    states: Any
    actions: Any
    count: Any


def network_input(
    noised: Float[Array, "batch window action"], sigma: Float[Array, "batch"], sigma_data: float
) -> tuple[Array, Array]:
    """c_in x and c_noise = log(σ)/4 (Karras et al. 2022, table 1)."""
    return noised / jnp.sqrt(sigma**2 + sigma_data**2)[:, None, None], jnp.log(sigma) / 4.0


def schedule_of(spacing: str, sigma_min: float, sigma_max: float) -> Schedule:
    """The noise levels whose equal steps of t are spaced so: "linear" in σ, "exponential" in log σ, "karras" in σ^(1/5)."""
    return (
        VE(sigma_min, sigma_max) if spacing == "exponential" else EDM(sigma_min, sigma_max, 5.0 if spacing == "karras" else 1.0)
    )


def window_loss(
    network: WindowDenoiser,
    params: Params,
    config: Config,
    actions: Float[Array, "batch window action"],
    states: Float[Array, "batch window state"],
    goal: Float[Array, "batch goal"],
    known: Bool[Array, "batch window"],
    key: Key,
) -> Float[Array, ""]:
    """‖F - (a - c_skip x)/c_out‖², mean over the actions that are there; one σ to a window (their eq. 3, Karras' weights)."""
    noise_key, dropout_key = jax.random.split(key)
    schedule = schedule_of("exponential", config.sigma_min, config.sigma_max)

    def predict(noised: Array, t: Array) -> Array:
        scaled, level = network_input(noised, schedule.sigma(t), config.sigma_data)
        return forward(network, params, scaled, level, states, goal, known, train=True, rngs={"dropout": dropout_key})

    share = known / (jnp.mean(jnp.sum(known, axis=1)) * actions.shape[-1])
    times = log_logistic_times(schedule, jnp.log(config.sigma_data), 0.5)
    return denoising_loss(
        predict, schedule, actions, noise_key, target=karras(config.sigma_data), times=times, weight=lambda t: share
    )


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage.

    Raises:
        ValueError: heads do not divide the width, the noise levels are no range, or guidance is asked for and there is no goal.
    """
    check(config, spec)
    has_goal = GOAL in dict(spec.observation_parts)
    wanted = spec.part(GOAL) if has_goal else slice(0, 0)
    network = WindowDenoiser(
        spec.action_dim, config.hidden_dim, config.num_layers, config.num_heads, config.attention_dropout, config.residual_dropout
    )
    state_dim = spec.observation_dim - (wanted.stop - wanted.start)
    shape = (config.window, state_dim), (config.window, spec.action_dim)

    def optimizer(hparams: HParams) -> optax.GradientTransformation:
        rate = optax.exponential_decay(hparams.learning_rate, config.decay_every, 0.99, staircase=True)
        return optax.adamw(rate, weight_decay=hparams.weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        states, actions = (jnp.zeros((1, *each)) for each in shape)
        goal, known = jnp.zeros((1, wanted.stop - wanted.start)), jnp.ones((1, config.window), bool)
        denoiser = Learner.init(network, optimizer(hparams), key, actions, jnp.zeros(1), states, goal, known)
        return State(jnp.int32(0), hparams, denoiser, copied(denoiser.params))

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        drop_key, key = jax.random.split(key)
        goal = jnp.zeros((len(batch.action), 0))
        if has_goal:
            dropped = jax.random.bernoulli(drop_key, state.hparams.goal_dropout, (len(batch.action), 1))
            goal = jnp.where(dropped, 0.0, as_goal(batch.extras["goal"], spec))
        actions, states = batch.extras["window_action"], without_goal(batch.extras["window_observation"], spec)
        known = batch.extras["window_mask"]
        denoiser, loss = state.denoiser.step(
            lambda params: window_loss(network, params, config, actions, states, goal, known, key), optimizer(state.hparams)
        )
        decay = jnp.minimum(state.hparams.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema_params = averaged(state.ema_params, denoiser.params, 1.0 - decay, jnp.bool_(True))
        return dataclasses.replace(state, denoiser=denoiser, ema_params=ema_params), {"denoiser/loss": loss}

    schedule = schedule_of(config.act.spacing, config.act.sigma_min, config.sigma_max)
    levels = grid(schedule, config.act.num_denoising_steps)

    def init_carry(policy: Policy, num_envs: int) -> Carry:
        del policy
        states, actions = (jnp.zeros((num_envs, *each)) for each in shape)
        return History(states, actions, jnp.zeros(num_envs, jnp.int32))

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        states = jnp.concatenate([carry.states[:, 1:], without_goal(observation, spec)[:, None]], axis=1)
        count = jnp.minimum(carry.count + 1, config.window)
        known = jnp.arange(config.window)[None] >= config.window - count[:, None]

        def model(goal: Array) -> Model:
            def predict(noised: Array, t: Array) -> Array:
                return forward(network, policy, *network_input(noised, schedule.sigma(t), config.sigma_data), states, goal, known)

            return as_model(predict, schedule, karras(config.sigma_data))

        # As in the authors' code the actions that were taken are given without noise, and denoised again with the new one.
        start_key, key = jax.random.split(key)
        fresh = config.sigma_max * jax.random.normal(start_key, (len(observation), 1, spec.action_dim))
        start = jnp.concatenate([carry.actions[:, 1:], fresh], axis=1)
        goal = observation[:, wanted]
        denoiser = guided(model(goal), model(jnp.zeros_like(goal)), config.act.guidance_scale) if has_goal else model(goal)
        action = sample(denoiser, levels, SOLVERS[config.act.solver], key, start)[:, -1]
        taken = jnp.clip(action, -1.0, 1.0)
        return action, History(states, jnp.concatenate([carry.actions[:, 1:], taken[:, None]], axis=1), count)

    later = goals(current=0.0, future=1.0, random=0.0, discount=None, until="trajectory_end") if has_goal else None
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage(
                "denoiser",
                config.num_updates,
                config.batch_size,
                update,
                batch=windows(config.window, 1 - config.window, of=later),
            ),
        ),
        policy=lambda state: state.ema_params,
        init_carry=init_carry,
        act=act,
        columns=(lambda dataset: trajectory_end(dataset, spec)) if has_goal else None,
    )


def check(config: Config, spec: Spec) -> None:
    """Refuse settings with which nothing can be trained.

    Raises:
        ValueError: names the setting and what would do.
    """
    if config.hidden_dim % config.num_heads:
        raise ValueError(f"num_heads={config.num_heads} does not divide hidden_dim={config.hidden_dim}: choose a divisor")
    for name, low in (("sigma_min", config.sigma_min), ("act.sigma_min", config.act.sigma_min)):
        if low >= config.sigma_max:
            raise ValueError(f"{name}={low} must lie below sigma_max={config.sigma_max}")
    if GOAL not in dict(spec.observation_parts) and config.act.guidance_scale != 1.0:
        raise ValueError(
            f"act.guidance_scale={config.act.guidance_scale} guides towards a goal, and the observation has no part {GOAL!r}: "
            "set it to 1, or load data with goals (OGBench's with dataset.task=goals)"
        )
