"""BRIDGeR: imitation by a bridge from a source policy to the data (Chen, Lim, Lin, Chen, Soh 2024, arXiv 2402.16075).

A diffusion policy begins at noise; this one begins at what another policy would do, and a stochastic interpolant, learnt drift
and score, carries that to what the data do. A better source leaves less to learn, which shows where steps or data are few. No
rewards.

A policy that another training cloned is a source by `init_from` with the field "policy", and `train_source` off.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.action_chunks import open_loop, open_loop_carry
from diffrl.algorithm import Algorithm, Stage, hparams_of
from diffrl.algorithms import bc, gaussian_bc
from diffrl.data.goals import GOAL, as_goal
from diffrl.data.sampling import windows
from diffrl.diffusion.bridges import (
    INTERPOLANTS,
    Crossing,
    DiffusionName,
    InterpolantName,
    StepsForm,
    bridge_loss,
    bridge_steps,
    cross,
)
from diffrl.learner import Learner, averaged, copied, forward
from diffrl.networks.chunk_unet import ChunkUNet, chunk_unet_fits
from diffrl.networks.chunk_vae import ChunkVAE
from diffrl.networks.ensembles import ensemble
from diffrl.networks.gaussian import GaussianPolicy, kl_divergence
from diffrl.networks.mlp import ACTIVATIONS, MLP
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

SourceName = Literal["gaussian", "cvae", "bc", "gaussian_bc", "seek"]
SEEK_GAIN = 10.0


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate, source_learning_rate: Adam's, of the bridge and of a source that is trained; published 5e-6.
        bridge_noise: d, the scale of the bridge's own noise.
        ema_decay: of the average of the bridge that acts; the code's is 0.75, an average of four updates.
        reconstruction_weight, kl_growth, kl_weight: of a variational source: the divergence weighs `kl_growth` more with each
            update, up to `kl_weight`.
    """

    learning_rate: float = 1e-4
    source_learning_rate: float = 1e-4
    bridge_noise: float = 0.03
    ema_decay: float = setting(0.999, high=1.0)
    reconstruction_weight: float = 10.0
    kl_growth: float = 1e-4
    kl_weight: float = 0.1


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_denoising_steps: from the source to the action, each a pass through both networks; 0 acts by the source alone.
        diffusion: ε of the process, t from the data: "none" follows its flow, in which nothing is drawn but the source.
        steps_form: see `diffusion.bridges.bridge_steps`.
        execution_steps: of a chunk, before the next one is made.
    """

    num_denoising_steps: int = setting(5, low=0)
    diffusion: DiffusionName = "linear"
    steps_form: StepsForm = "exact"
    execution_steps: int = 8


@dataclasses.dataclass
class Config(HParams):
    """Source and interpolant, widths and lengths: of the code's Kitchen. Of Adroit horizon, window and execution are 64, 4, 48.

    Attributes:
        source: "gaussian", N(0, I); "cvae", a variational autoencoder of chunks; "bc" and "gaussian_bc", those methods' policies,
            which are told the last observation alone, of `action_chunk=horizon`; or "seek", a script that pushes towards the goal
            in the observation.
        train_source: whether a first stage trains the source; otherwise it stays as it begins.
        interpolant: how source and data are mixed, see `diffusion.bridges`.
        horizon: actions of a chunk, which begins with the present one.
        window: W, observations that are known.
        hidden_dims, num_blocks, time_hidden_dim: of the bridge's U-Nets.
        source_hidden_dims: of a learnt source; a cloned policy's are those of its training.
        source_activation: of "bc".
        latent_dim: of the variational source.
        decay_every, decay: the learning rates are multiplied by `decay` after every so many updates.
    """

    source: SourceName = "gaussian"
    train_source: bool = True
    interpolant: InterpolantName = "power3"
    horizon: int = 16
    window: int = 2
    hidden_dims: tuple[int, ...] = (256, 512, 512)
    num_blocks: int = 2
    time_hidden_dim: int = 256
    source_hidden_dims: tuple[int, ...] = (512, 512, 512)
    source_activation: Literal["relu", "elu"] = "relu"
    latent_dim: int = 64
    decay_every: int = 5_000
    decay: float = setting(0.5, high=1.0)
    source_updates: int = setting(30_000, high=2**29)
    num_updates: int = setting(30_000, high=2**29)
    batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    bridge: Learner  # direction and noise, two networks in one
    ema_params: Params
    policy: Any = ()  # the source's Learner, where it is learnt; the name is that of cloned policies


class History(NamedTuple):
    """What is remembered of an episode: the last W observations, the oldest first, whether there were any, and the chunk."""

    observations: Array
    begun: Array
    chunk: Carry


# Sources -----------------------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A policy of flat chunks `[B, H · A]`, given the observations of a window `[B, W · O]`.

    Attributes:
        draw: (params, observations, key) -> chunks.
        init: (key, observations, chunks) -> params; None where nothing is learnt.
        loss: (params, observations, chunks, update, hparams, key) -> what it is trained by.
    """

    draw: Callable[[Params, Array, Key], Array]
    init: Callable[[Key, Array, Array], Params] | None = None
    loss: Callable[[Params, Array, Array, Array, HParams, Key], Array] | None = None


def vae_loss(
    params: Params,
    network: ChunkVAE,
    observations: Float[Array, "batch observations"],
    chunk: Float[Array, "batch chunk"],
    update: Array,
    hparams: HParams,
    key: Key,
) -> Float[Array, ""]:
    """w MSE(decoded, chunk) + κ KL(N(μ, σ²) ‖ N(0, I)), κ growing with the updates."""
    found: Any = network.apply({"params": params}, observations, chunk, key)
    decoded, mean, std = found
    weight = jnp.minimum(hparams.kl_growth * update, hparams.kl_weight)
    error = jnp.mean((decoded - chunk) ** 2)
    return hparams.reconstruction_weight * error + weight * jnp.mean(kl_divergence(mean, std))


def source_of(config: Config, spec: Spec) -> Source:
    """The source that a config names.

    Raises:
        ValueError: "seek" where the observation has no goal that actions could push towards.
    """
    chunk_dim = config.horizon * spec.action_dim

    def last(observations: Array) -> Array:
        return observations[:, -spec.observation_dim :]

    def rows(observations: Array, chunk: Array) -> Transition:
        nothing = jnp.zeros(len(chunk))
        seen, never = last(observations), nothing.astype(bool)
        return Transition(seen, chunk, nothing, seen, never, never)

    match config.source:
        case "gaussian":
            return Source(lambda params, observations, key: jax.random.normal(key, (len(observations), chunk_dim)))
        case "cvae":
            vae = ChunkVAE(chunk_dim, config.source_hidden_dims, config.latent_dim)

            def drawn(params: Params, observations: Array, key: Key) -> Array:
                latent = jax.random.normal(key, (len(observations), config.latent_dim))
                return forward(vae, params, observations, latent, method="decode")

            return Source(
                drawn,
                lambda key, observations, chunk: vae.init(key, observations, chunk, key)["params"],
                lambda params, observations, chunk, update, hparams, key: vae_loss(
                    params, vae, observations, chunk, update, hparams, key
                ),
            )
        case "bc":
            activation = ACTIVATIONS[config.source_activation]
            network = MLP(config.source_hidden_dims, chunk_dim, activation=activation, output_activation=jnp.tanh)
            return Source(
                lambda params, observations, key: forward(network, params, last(observations)),
                lambda key, observations, chunk: network.init(key, last(observations))["params"],
                lambda params, observations, chunk, update, hparams, key: bc.policy_loss(
                    params, network, rows(observations, chunk)
                ),
            )
        case "gaussian_bc":
            gaussian = GaussianPolicy(config.source_hidden_dims, chunk_dim, state_dependent_std=True)

            def sampled(params: Params, observations: Array, key: Key) -> Array:
                mean, log_std = gaussian.mean_and_log_std(params, last(observations))
                return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)

            return Source(
                sampled,
                lambda key, observations, chunk: gaussian.init(key, last(observations)),
                lambda params, observations, chunk, update, hparams, key: gaussian_bc.policy_loss(
                    params, gaussian, rows(observations, chunk)
                ),
            )
        case "seek":
            if GOAL not in dict(spec.observation_parts) or spec.part(GOAL).stop - spec.part(GOAL).start != spec.action_dim:
                raise ValueError(
                    f"source='seek' pushes towards the part {GOAL!r} of an observation, with an action for each of its numbers, "
                    "and here is none: choose another source"
                )
            scale = jnp.asarray(spec.observation_std)[spec.part(GOAL)]

            def sought(params: Params, observations: Array, key: Key) -> Array:
                del params, key
                seen = last(observations)
                push = jnp.clip(SEEK_GAIN * scale * (seen[:, spec.part(GOAL)] - as_goal(seen, spec)), -1.0, 1.0)
                return jnp.tile(push, (1, config.horizon))

            return Source(sought)


# The method --------------------------------------------------------------------------------------------------------------------


def make(config: Config, spec: Spec) -> Algorithm:
    """A stage for the source where one is trained, and one for the bridge.

    Raises:
        ValueError: lengths or widths do not fit, see `check`; or the source, see `source_of`.
    """
    check(config)
    horizon, window = config.horizon, config.window
    interpolant, source = INTERPOLANTS[config.interpolant], source_of(config, spec)
    network = ensemble(ChunkUNet, 2)(spec.action_dim, config.hidden_dims, config.num_blocks, config.time_hidden_dim)
    num_steps, deterministic = config.act.num_denoising_steps, config.act.diffusion == "none"
    steps = bridge_steps(interpolant, num_steps, config.act.diffusion, config.act.steps_form) if num_steps else None

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        return optax.adam(optax.exponential_decay(learning_rate, config.decay_every, config.decay, staircase=True))

    def predict(params: Params, x: Array, t: Array, observations: Array) -> Crossing:
        return Crossing(*forward(network, params, x, t, observations))

    def start(params: Params, observations: Array, key: Key) -> Array:
        return source.draw(params, observations, key).reshape(len(observations), horizon, -1)

    def init(key: Key, hparams: HParams) -> State:
        bridge_key, source_key = jax.random.split(key)
        observations, chunk = jnp.zeros((1, window * spec.observation_dim)), jnp.zeros((1, horizon, spec.action_dim))
        bridge = Learner.init(network, optimizer(hparams.learning_rate), bridge_key, chunk, jnp.zeros(1), observations)
        state = State(jnp.int32(0), hparams, bridge, copied(bridge.params))
        if source.init is None:
            return state
        params = source.init(source_key, observations, chunk.reshape(1, -1))
        # A source from elsewhere brings its optimiser's state along, which is that of plain Adam.
        adam = optimizer if config.train_source else optax.adam
        return dataclasses.replace(state, policy=Learner.create(params, adam(hparams.source_learning_rate)))

    def parts(batch: Transition) -> tuple[Array, Array]:
        """The window up to a row and the chunk from it on; an episode's first and last rows are repeated beyond its ends."""
        observations = batch.extras["window_observation"][:, :window]
        return observations.reshape(len(observations), -1), batch.extras["window_action"][:, window - 1 :]

    def update_source(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        observations, chunk = parts(batch)
        assert source.loss is not None
        loss_of, flat = source.loss, chunk.reshape(len(chunk), -1)
        policy, loss = state.policy.step(
            lambda params: loss_of(params, observations, flat, state.step, state.hparams, key),
            optimizer(state.hparams.source_learning_rate),
        )
        return dataclasses.replace(state, policy=policy), {"source/loss": loss}

    def update_bridge(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, (source_key, key) = state.hparams, jax.random.split(key)
        observations, chunk = parts(batch)
        begin = start(source_params(state), observations, source_key)

        def loss_fn(params: Params) -> tuple[Array, Crossing]:
            losses = bridge_loss(
                lambda x, t: predict(params, x, t, observations), interpolant, chunk, begin, hparams.bridge_noise, key
            )
            return losses.direction + losses.noise, losses

        bridge, loss, losses = state.bridge.step(loss_fn, optimizer(hparams.learning_rate), has_aux=True)
        ema_params = averaged(state.ema_params, bridge.params, 1.0 - hparams.ema_decay, jnp.bool_(True))
        metrics = {"bridge/loss": loss, "bridge/direction": losses.direction, "bridge/noise": losses.noise}
        metrics["source/distance"] = jnp.mean((begin - chunk) ** 2)
        return dataclasses.replace(state, bridge=bridge, ema_params=ema_params), metrics

    def refined(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        """`observation` is the window's, flat."""
        source_key, key = jax.random.split(key)
        chunk = start(policy["source"], observation, source_key)
        if steps is not None:
            chunk = cross(
                lambda x, t: predict(policy["bridge"], x, t, observation),
                steps,
                chunk,
                policy["bridge_noise"],
                key,
                deterministic=deterministic,
            )
        return chunk[:, : config.act.execution_steps], carry

    execute = open_loop(refined, config.act.execution_steps)

    def init_carry(policy: Policy, num_envs: int) -> Carry:
        del policy
        chunk = open_loop_carry((), num_envs, config.act.execution_steps, spec.action_dim)
        return History(jnp.zeros((num_envs, window, spec.observation_dim)), jnp.zeros(num_envs, bool), chunk)

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        seen = jnp.concatenate([carry.observations[:, 1:], observation[:, None]], axis=1)
        seen = jnp.where(carry.begun[:, None, None], seen, observation[:, None])  # the first one is repeated, as in training
        action, chunk = execute(policy, carry.chunk, seen.reshape(len(seen), -1), key)
        return action, History(seen, jnp.ones_like(carry.begun), chunk)

    rows = windows(window - 1 + horizon, 1 - window)
    learnt = config.train_source and source.loss is not None
    first = (Stage("source", config.source_updates, config.batch_size, update_source, batch=rows),) if learnt else ()
    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(*first, Stage("bridge", config.num_updates, config.batch_size, update_bridge, batch=rows)),
        policy=lambda state: {
            "bridge": state.ema_params,
            "source": source_params(state),
            "bridge_noise": state.hparams.bridge_noise,
        },
        init_carry=init_carry,
        act=act,
    )


def source_params(state: State) -> Params:
    """Of a learnt source its parameters."""
    return state.policy.params if isinstance(state.policy, Learner) else ()


def check(config: Config) -> None:
    """Refuse settings with which nothing can be trained.

    Raises:
        ValueError: names the setting and what would do.
    """
    if not chunk_unet_fits(config.horizon, config.hidden_dims):
        halvings = 2 ** (len(config.hidden_dims) - 1)
        raise ValueError(
            f"horizon={config.horizon} and hidden_dims={config.hidden_dims} are no U-Net: the horizon must be a multiple of "
            f"{halvings}, one halving for each width but the first, and widths multiples of 8"
        )
    if config.act.execution_steps > config.horizon:
        raise ValueError(f"act.execution_steps={config.act.execution_steps} is more than horizon={config.horizon} has")
    if INTERPOLANTS[config.interpolant].through_noise and config.act.num_denoising_steps % 2:
        raise ValueError(
            f"interpolant={config.interpolant!r} turns halfway, between steps: act.num_denoising_steps must be even, got "
            f"{config.act.num_denoising_steps}"
        )
