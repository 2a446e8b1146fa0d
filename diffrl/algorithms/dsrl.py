"""DSRL: reinforcement learning in the noise space of a flow or diffusion policy.

Wagenmaker et al. 2025, arXiv 2506.15799, in the form of "noise aliasing"; constants and averages are those of the JAX code in the
repository of QAM, which OGBench's published numbers are of.

A generator F(s, w) clones the data: a flow in Euler's steps, or a diffusion model by DDIM without noise. A small policy chooses
the noise w in a box of half width b in place of N(0, I), by a critic of noises Q^W(s, w) that is distilled from the critic of
actions, Q^A(s, F(s, w)): nothing is differentiated through the generator. It may be another training's, left as it is:
`train_behavior` off, and `init_from` with the field "behavior", for a diffusion model also "behavior_constants".
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.flows import SolverName, flow_grid, flow_map, flow_matching_loss
from diffrl.diffusion.samplers import ddim, sample
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import as_model, clipped
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Critics
from diffrl.networks.gaussian import distribution, squashed
from diffrl.networks.mlp import MLP, xavier_dense
from diffrl.objectives.behavior import behavior_loss
from diffrl.objectives.value import bootstrap, lower_confidence_bound, mean_critic_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

LOG_STD_MIN = -20.0


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of all networks and of the entropy's weight.
        weight_decay: of a diffusion model's AdamW.
        discount, tau: γ, and the rate of the target critics and of the generator's average.
        noise_bound: b, which holds the policy to the data: 0.4 to 1.4 in the published runs of flows, 1 to 2.5 in those of
            diffusion models. A flow in Euler's steps of data of deviation s reaches from their mean by less than s b.
        pessimism: ρ, standard deviations below the mean of Q^A in targets.
        initial_entropy_weight, entropy_deficit: as SAC's, of the noise before it is scaled to the box.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    noise_bound: float = 1.0
    pessimism: float = 0.5
    initial_entropy_weight: float = 1.0
    entropy_deficit: float = setting(0.5, low=-math.inf)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        deterministic: take the noise policy's mean; the published scores are of samples.
    """

    deterministic: bool = False


@dataclasses.dataclass
class Config(HParams):
    """Choices of the generator and of the distillation, widths and lengths.

    Attributes:
        generator: "flow", of `hidden_dims`; or "diffusion", the network of `diffusion_bc` and of SRPO's first stage.
        train_behavior: whether it is trained all the while, and acts by its average; otherwise it stays as it begins.
        num_flow_steps, flow_solver: of F, a flow.
        num_denoising_steps: of F, a diffusion model; the authors take 5 to 8.
        behavior_hidden_dim, behavior_blocks, dropout_rate: of a diffusion model.
        distillation_noise: where Q^W is fitted: "normal" as published, although in many dimensions nearly nothing of N(0, I)
            lies in a small box; or "box", uniform in the policy's own.
    """

    generator: Literal["flow", "diffusion"] = "flow"
    train_behavior: bool = True
    num_flow_steps: int = 10
    flow_solver: SolverName = "euler"
    num_denoising_steps: int = 8
    behavior_hidden_dim: int = 256
    behavior_blocks: int = 3
    dropout_rate: float = setting(0.1, high=1.0)
    distillation_noise: Literal["normal", "box"] = "normal"
    hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    critic_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    num_critics: int = 10
    num_updates: int = setting(1_000_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner  # the generator
    behavior_constants: Params  # a diffusion model's time frequencies: part of the network, not trained
    ema_params: Params  # the generator's average
    critic: Learner  # of actions, Q^A
    target_critic_params: Params
    noise_critic: Learner  # of noises, Q^W
    policy: Learner
    log_entropy_weight: Learner


class Generator(NamedTuple):
    """A model of the behaviour as a map of noises; trained and fixed variables are apart.

    Attributes:
        init: key -> (params, constants).
        loss: (params, constants, batch, key) -> its cloning loss.
        draw: (params, constants, observation, noise `[batch, action]`) -> actions `[batch, action]` within their box.
        optimizer: hparams -> that of its training, alone or here.
    """

    init: Callable[[Key], tuple[Params, Params]]
    loss: Callable[[Params, Params, Transition, Key], Array]
    draw: Callable[[Params, Params, Array, Array], Array]
    optimizer: Callable[[HParams], optax.GradientTransformation]


def flow_generator(config: Config, spec: Spec) -> Generator:
    """Flow matching, and Euler's method; the last point is clipped."""
    network = MLP(config.hidden_dims, spec.action_dim, dense=xavier_dense, activation=nn.gelu)
    levels = flow_grid(config.num_flow_steps)

    def velocity(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t[:, None], observation)

    def init(key: Key) -> tuple[Params, Params]:
        observation, action = example(spec)
        return network.init(key, action, jnp.zeros((1, 1)), observation)["params"], {}

    def loss(params: Params, constants: Params, batch: Transition, key: Key) -> Array:
        return flow_matching_loss(lambda x, t: velocity(params, x, t, batch.observation), batch.action, key)

    def draw(params: Params, constants: Params, observation: Array, noise: Array) -> Array:
        end = flow_map(lambda x, t: velocity(params, x, t, observation), levels, noise, config.flow_solver)
        return jnp.clip(end, -1.0, 1.0)

    return Generator(init, loss, draw, lambda hparams: optax.adam(hparams.learning_rate))


def diffusion_generator(config: Config, spec: Spec) -> Generator:
    """Noise prediction, and DDIM without noise: a stochastic sampler's draws would be noise in what Q^W is fitted to."""
    schedule = LinearVP()
    levels = grid(schedule, config.num_denoising_steps)
    network = ResidualDenoiser(
        spec.action_dim, config.behavior_hidden_dim, config.behavior_blocks, dropout_rate=config.dropout_rate
    )

    def init(key: Key) -> tuple[Params, Params]:
        observation, action = example(spec)
        variables = network.init(key, action, jnp.zeros(1), observation)
        return variables["params"], variables["constants"]

    def loss(params: Params, constants: Params, batch: Transition, key: Key) -> Array:
        return behavior_loss(network, params, constants, schedule, batch, key)

    def draw(params: Params, constants: Params, observation: Array, noise: Array) -> Array:
        def epsilon(noised: Array, t: Array) -> Array:
            return forward(network, params, noised, t, observation, constants=constants)

        # Without noise no key is drawn from.
        return sample(clipped(as_model(epsilon, schedule), -1.0, 1.0), levels, ddim(0.0), jax.random.key(0), noise)

    def optimizer(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)

    return Generator(init, loss, draw, optimizer)


GENERATORS: dict[str, Callable[[Config, Spec], Generator]] = {"flow": flow_generator, "diffusion": diffusion_generator}


def distillation_loss(
    params: Params,
    critics: nn.Module,
    observation: Float[Array, "batch observation"],
    noise: Float[Array, "batch action"],
    q: Float[Array, "critics batch"],
) -> Float[Array, ""]:
    """mean (Q^W_k(s, z) - Q^A_k(s, F(s, z)))², member by member."""
    return jnp.mean((forward(critics, params, observation, noise) - q) ** 2)


def policy_loss(
    params: Params,
    policy: nn.Module,
    critics: nn.Module,
    critic_params: Params,
    observation: Float[Array, "batch observation"],
    noise_bound: Float[Array, ""] | float,
    entropy_weight: Float[Array, ""] | float,
    key: Key,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """E [α log π(u | s) - mean_k Q^W_k(s, b u)], the entropy of u in nats, and the mean of |u|."""
    u, log_prob = squashed(*distribution(policy, params, observation, LOG_STD_MIN), key)
    q = jnp.mean(forward(critics, critic_params, observation, noise_bound * u), axis=0)
    return jnp.mean(entropy_weight * log_prob - q), (-jnp.mean(log_prob), jnp.mean(jnp.abs(u)))


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage. As in the authors' code every step and average is from what all were before the update."""
    layers = {"dense": xavier_dense, "activation": nn.gelu}
    critics = Critics(config.critic_hidden_dims, config.num_critics, layer_norm="after", **layers)  # of actions and of noises
    noise_policy = MLP(config.hidden_dims, 2 * spec.action_dim, **layers)
    generator = GENERATORS[config.generator](config, spec)

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, critic_key, noise_key, policy_key = jax.random.split(key, 4)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        behavior_params, behavior_constants = generator.init(behavior_key)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        log_entropy_weight = jnp.log(jnp.asarray(hparams.initial_entropy_weight, jnp.float32))
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(behavior_params, generator.optimizer(hparams)),
            behavior_constants=behavior_constants,
            ema_params=copied(behavior_params),
            critic=critic,
            target_critic_params=copied(critic.params),
            noise_critic=Learner.init(critics, adam, noise_key, observation, action),
            policy=Learner.init(noise_policy, adam, policy_key, observation),
            log_entropy_weight=Learner.create(log_entropy_weight, adam),
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, optax.adam(state.hparams.learning_rate)
        next_key, noise_key, policy_key, behavior_key = jax.random.split(key, 4)
        entropy_weight = jnp.exp(state.log_entropy_weight.params)

        # The actions of the policy's noise behind the transition, and of any noise before it, in one pass.
        ahead = bootstrap(batch, hparams.discount)
        moments = distribution(noise_policy, state.policy.params, ahead.observation, LOG_STD_MIN)
        next_noise = hparams.noise_bound * squashed(*moments, next_key)[0]
        if config.distillation_noise == "normal":
            noise = jax.random.normal(noise_key, batch.action.shape)
        else:
            noise = hparams.noise_bound * jax.random.uniform(noise_key, batch.action.shape, minval=-1.0)
        both = jnp.concatenate([ahead.observation, batch.observation]), jnp.concatenate([next_noise, noise])
        next_action, aliased = jnp.split(generator.draw(*_acting(state, config), *both), 2)

        next_q = forward(critics, state.target_critic_params, ahead.observation, next_action)
        target = ahead.target(lower_confidence_bound(next_q, hparams.pessimism))
        critic, critic_loss, q = state.critic.step(
            lambda params: mean_critic_loss(params, critics, batch, target), adam, has_aux=True
        )
        aliased_q = forward(critics, state.critic.params, batch.observation, aliased)
        noise_critic, noise_critic_loss = state.noise_critic.step(
            lambda params: distillation_loss(params, critics, batch.observation, noise, aliased_q), adam
        )
        policy, loss, (entropy, size) = state.policy.step(
            lambda params: policy_loss(
                params,
                noise_policy,
                critics,
                state.noise_critic.params,
                batch.observation,
                hparams.noise_bound,
                entropy_weight,
                policy_key,
            ),
            adam,
            has_aux=True,
        )
        log_entropy_weight, _ = state.log_entropy_weight.step(
            lambda log_weight: jnp.exp(log_weight) * (entropy + hparams.entropy_deficit * spec.action_dim), adam
        )
        metrics = {
            "critic/loss": critic_loss,
            "critic/q": jnp.mean(q),
            "critic/target": jnp.mean(target),
            "noise_critic/loss": noise_critic_loss,
            "policy/loss": loss,
            "policy/entropy": entropy,
            "policy/entropy_weight": entropy_weight,
            "policy/noise": size,
        }
        if config.train_behavior:
            ema_params = optax.incremental_update(state.behavior.params, state.ema_params, hparams.tau)
            behavior, metrics["behavior/loss"] = state.behavior.step(
                lambda params: generator.loss(params, state.behavior_constants, batch, behavior_key),
                generator.optimizer(hparams),
            )
            state = dataclasses.replace(state, behavior=behavior, ema_params=ema_params)
        state = dataclasses.replace(
            state,
            critic=critic,
            target_critic_params=optax.incremental_update(state.critic.params, state.target_critic_params, hparams.tau),
            noise_critic=noise_critic,
            policy=policy,
            log_entropy_weight=log_entropy_weight,
        )
        return state, metrics

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        moments = distribution(noise_policy, policy["noise"], observation, LOG_STD_MIN)
        u = jnp.tanh(moments[0]) if config.act.deterministic else squashed(*moments, key)[0]
        params, constants = policy["generator"]
        return generator.draw(params, constants, observation, policy["noise_bound"] * u), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("dsrl", config.num_updates, config.batch_size, update),),
        policy=lambda state: {
            "noise": state.policy.params,
            "generator": _acting(state, config),
            "noise_bound": state.hparams.noise_bound,
        },
        init_carry=no_carry,
        act=act,
    )


def _acting(state: State, config: Config) -> tuple[Params, Params]:
    """Parameters and constants of F."""
    return state.ema_params if config.train_behavior else state.behavior.params, state.behavior_constants
