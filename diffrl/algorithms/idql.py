"""IDQL: implicit Q-learning whose policy is a clone of the data, re-weighted when it acts.

Hansen-Estruch et al. 2023, arXiv 2304.10573; IFQL where the clone is a flow (Park, Li, Levine 2025, arXiv 2502.02538, app. D).
Two stages that do not look at each other: (i) an unweighted clone of the behaviour, (ii) implicit Q-learning with one of three
losses of V, each of which stands for a policy w μ (theorem 4.1). Acting draws N actions of the clone and takes the one of the
highest Q, or one by its weight w.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.decoding import DataValue
from diffrl.diffusion.flows import flow_grid, flow_map, flow_matching_loss
from diffrl.diffusion.guidance import best_of, softmax_of
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import ancestral, boxed, sample
from diffrl.diffusion.schedules import CosineVP, LinearVP, grid
from diffrl.diffusion.targets import Model, as_model
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Critics, NormalizedValue, Value
from diffrl.networks.mlp import ACTIVATIONS, MLP, xavier_dense
from diffrl.networks.time_features import LearnedFourierFeatures
from diffrl.objectives.candidates import Decoding, soft_action
from diffrl.objectives.implicit_q import update_values
from diffrl.objectives.value import lowest_q
from diffrl.objectives.weightings import IMPLICIT, ImplicitName
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's; the clone's falls along a cosine where `cosine` says so.
        weight_decay: of the clone's AdamW.
        discount, tau: γ, and the rate of the target critics.
        expectile: τ, of the expectile or the quantile that V is of Q over the data's actions.
        beta: α of the exponential loss "linex".
        ema_decay: of the average of the clone, which acts; 0 for the clone itself.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)
    beta: float = 1.0
    ema_decay: float = setting(0.999, high=1.0)


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting.

    Attributes:
        num_candidates: N, actions drawn for an observation: 128 for locomotion, 32 for AntMaze, 64 with one setting for all.
        select: "argmax" of the critics' minimum, as in all published offline scores; "implicit" draws one with probability ∝ w.
            Neither is of "svdd".
        num_denoising_steps: levels visited, at most the `num_diffusion_steps` of training; of a flow, Euler steps (10 in IFQL).
        noise_scale: of the diffusion sampler's fresh noise.
    """

    num_candidates: int = 128
    select: Literal["argmax", "implicit"] = "argmax"
    num_denoising_steps: int = 5
    noise_scale: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of clone and critic, widths and lengths: the paper's.

    Attributes:
        clone: "diffusion", or "flow", with which this is IFQL.
        value_loss: of V, and the weight of "implicit" acting.
        schedule, num_diffusion_steps: of the diffusion clone: β "vp" or "cosine", and T, of which the network is told the index.
        activation: in the diffusion clone's network; "swish" in the code's later form.
        num_frequencies, time_dim: learnt features of the index, and the width of the two layers on them.
        flow_hidden_dims: of the flow's network.
        cosine: whether the clone's learning rate falls to 0.
        critic_activation, layer_norm: in Q and V; with a flow's they are "gelu", and LayerNorm after it.
        normalize_value_input: LayerNorm on V's input, as the code's later form has; wrong for short observations
            (`NormalizedValue`).
        judge: the critics that acting asks, "target" or as in IFQL's code "online".
    """

    clone: Literal["diffusion", "flow"] = "diffusion"
    value_loss: ImplicitName = "expectile"
    schedule: Literal["vp", "cosine"] = "vp"
    num_diffusion_steps: int = 5
    activation: Literal["mish", "swish"] = "mish"
    hidden_dim: int = 256
    num_blocks: int = 3
    num_frequencies: int = 32
    time_dim: int = 128
    dropout_rate: float = setting(0.1, high=1.0)
    flow_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    cosine: bool = True
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    critic_activation: Literal["relu", "gelu"] = "relu"
    layer_norm: bool = False
    normalize_value_input: bool = False
    judge: Literal["target", "online"] = "target"
    behavior_updates: int = setting(3_000_000, high=2**29)
    critic_updates: int = setting(1_500_000, high=2**29)
    behavior_batch_size: int = 1024
    critic_batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner
    ema_params: Params
    value: Learner
    critic: Learner
    target_critic_params: Params


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: see the messages.
    """
    act, default = config.act, Config()
    act.require_noise(config.clone == "diffusion" and act.noise_scale > 0.0, "set clone='diffusion' and act.noise_scale above 0")
    if config.clone == "flow":
        for name in ("schedule", "num_diffusion_steps"):
            if getattr(config, name) != getattr(default, name):
                raise ValueError(
                    f"{name} = {getattr(config, name)!r} is of a noise schedule, and clone='flow' has none: leave it at "
                    f"{getattr(default, name)!r}, or set clone='diffusion'"
                )
        if act.noise_scale != default.act.noise_scale:
            raise ValueError(
                f"act.noise_scale = {act.noise_scale} is of a diffusion sampler's noise, and a flow draws none: leave it at "
                f"{default.act.noise_scale}, or set clone='diffusion'"
            )
    elif act.num_denoising_steps > config.num_diffusion_steps:
        raise ValueError(
            f"act.num_denoising_steps = {act.num_denoising_steps} is more than the num_diffusion_steps = "
            f"{config.num_diffusion_steps} of training: set it to that or less"
        )
    if config.normalize_value_input and (config.layer_norm or config.critic_activation != "relu"):
        raise ValueError(
            "normalize_value_input is of a V with relu and without other LayerNorm: unset it, or set critic_activation='relu' "
            "and layer_norm=False"
        )


class Clone(NamedTuple):
    """A generative model of the data's actions.

    Attributes:
        init: key -> parameters.
        loss: (parameters, batch, key) -> the loss of one step.
        draw: (parameters, observation `[B, O]`, noise `[N, B, A]`, key) -> actions `[N, B, A]` in [-1, 1].
        decode: (parameters, value of actions, observation `[B, O]`, key) -> softly decoded actions `[B, A]`; None of a flow.
    """

    init: Callable[[Key], Params]
    loss: Callable[[Params, Transition, Key], Array]
    draw: Callable[[Params, Array, Array, Key], Array]
    decode: Callable[[Params, DataValue, Array, Key], Array] | None = None


def diffusion_clone(config: Config, spec: Spec) -> Clone:
    """DDPM of T steps (sec. 5): the noise is predicted, and the sampler holds each step in the box of actions."""
    steps = config.num_diffusion_steps
    schedule = LinearVP(0.1, 10.0) if config.schedule == "vp" else CosineVP.clipped(steps)
    levels = grid(schedule, config.act.num_denoising_steps, table=steps)
    solver = boxed(ancestral("forward", config.act.noise_scale), -1.0, 1.0)
    network = ResidualDenoiser(
        spec.action_dim,
        config.hidden_dim,
        config.num_blocks,
        time_dim=config.time_dim,
        dropout_rate=config.dropout_rate,
        time_features=partial(LearnedFourierFeatures, config.num_frequencies),
        activation=ACTIVATIONS[config.activation],
        dense=xavier_dense,
        block_dense=nn.Dense,
        epsilon=1e-6,
    )

    def noise(params: Params, noised: Array, t: Array, observation: Array, **options: Any) -> Array:
        """The network is told the index of the step, 0 to T - 1."""
        return forward(network, params, noised, t * steps - 1.0, observation, **options)

    def init(key: Key) -> Params:
        observation, action = example(spec)
        return network.init(key, action, jnp.zeros(1), observation)["params"]

    def loss(params: Params, batch: Transition, key: Key) -> Array:
        loss_key, dropout_key = jax.random.split(key)

        def predict(noised: Array, t: Array) -> Array:
            return noise(params, noised, t, batch.observation, train=True, rngs={"dropout": dropout_key})

        return denoising_loss(predict, schedule, batch.action, loss_key, times=discrete_times(steps))

    def draw(params: Params, observation: Array, start: Array, key: Key) -> Array:
        # One time for all, and each observation once: the network broadcasts them.
        model = as_model(lambda noised, t: noise(params, noised, t[:1, None], observation), schedule)
        return sample(model, levels, solver, key, start)

    def decode(params: Params, value: DataValue, observation: Array, key: Key) -> Array:
        def model(observation: Array) -> Model:
            return as_model(lambda noised, t: noise(params, noised, t[:1], observation), schedule)

        return soft_action(model, value, levels, solver, key, observation, spec.action_dim, config.act.svdd)

    return Clone(init, loss, draw, decode)


def flow_clone(config: Config, spec: Spec) -> Clone:
    """Flow matching, and Euler's method; the last point is clipped."""
    network = MLP(config.flow_hidden_dims, spec.action_dim, dense=xavier_dense, activation=nn.gelu)
    levels = flow_grid(config.act.num_denoising_steps)

    def init(key: Key) -> Params:
        observation, action = example(spec)
        return network.init(key, action, jnp.zeros((1, 1)), observation)["params"]

    def loss(params: Params, batch: Transition, key: Key) -> Array:
        def predict(noised: Array, t: Array) -> Array:
            return forward(network, params, noised, t[:, None], batch.observation)

        return flow_matching_loss(predict, batch.action, key)

    def draw(params: Params, observation: Array, start: Array, key: Key) -> Array:
        del key

        def predict(noised: Array, t: Array) -> Array:
            return forward(network, params, noised, t[:1, None, None], observation)

        return jnp.clip(flow_map(predict, levels, start), -1.0, 1.0)

    return Clone(init, loss, draw)


CLONES: dict[str, Callable[[Config, Spec], Clone]] = {"diffusion": diffusion_clone, "flow": flow_clone}


def draw_implicit(
    key: Key,
    drawn: Float[Array, "candidates batch action"],
    q: Float[Array, "candidates batch"],
    v: Float[Array, "batch"],
    value_loss: ImplicitName,
    hparams: HParams,
) -> Float[Array, "batch action"]:
    """One candidate per row, with probability ∝ w(Q - V): of many, a draw of the policy w μ that V is the value of."""
    return softmax_of(key, drawn, jnp.log(IMPLICIT[value_loss].weight(q - v, hparams)))


def make(config: Config, spec: Spec) -> Algorithm:
    """The clone and the critic share one State; each stage leaves the other's networks alone.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    clone = CLONES[config.clone](config, spec)
    layers: dict[str, Any] = {
        "dense": xavier_dense,
        "activation": ACTIVATIONS[config.critic_activation],
        "layer_norm": "after" if config.layer_norm else "",
    }
    critics = Critics(config.critic_hidden_dims, **layers)
    if config.normalize_value_input:
        value_network = NormalizedValue(config.critic_hidden_dims)
    else:
        value_network = Value(config.critic_hidden_dims, **layers)

    def adamw(hparams: HParams) -> optax.GradientTransformation:
        rate = optax.cosine_decay_schedule(hparams.learning_rate, config.behavior_updates)
        return optax.adamw(rate if config.cosine else hparams.learning_rate, weight_decay=hparams.weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, value_key, critic_key = jax.random.split(key, 3)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        behavior = Learner.create(clone.init(behavior_key), adamw(hparams))
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=behavior,
            ema_params=copied(behavior.params),
            value=Learner.init(value_network, adam, value_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
        )

    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """One step of the clone, and of its average."""
        behavior, loss = state.behavior.step(lambda params: clone.loss(params, batch, key), adamw(state.hparams))
        ema_params = optax.incremental_update(behavior.params, state.ema_params, 1.0 - state.hparams.ema_decay)
        return dataclasses.replace(state, behavior=behavior, ema_params=ema_params), {"behavior/loss": loss}

    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """V, then Q on the new V, then the target critics, in the authors' order."""
        del key
        return update_values(
            state,
            batch,
            lowest_q(critics, state.target_critic_params, batch.observation, batch.action),
            critics,
            value_network,
            optax.adam(state.hparams.learning_rate),
            lambda error: IMPLICIT[config.value_loss].value_loss(error, state.hparams),
            target_from_updated_value=True,
            critic_loss_weight=0.5,
        )

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def value(observation: Array, action: Array) -> Array:
            return lowest_q(critics, policy["critic"], observation, jnp.clip(action, -1.0, 1.0))

        assert clone.decode is not None
        return clone.decode(policy["behavior"], value, observation, key), carry

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        """Algorithm 2, or with "argmax" eq. 13."""
        start_key, draw_key, choice_key = jax.random.split(key, 3)
        start = jax.random.normal(start_key, (config.act.num_candidates, *observation.shape[:1], spec.action_dim))
        drawn = clone.draw(policy["behavior"], observation, start, draw_key)
        if config.act.num_candidates == 1:
            return drawn[0], carry
        q = lowest_q(critics, policy["critic"], observation, drawn)
        if config.act.select == "argmax":
            return best_of(drawn, q), carry
        v = forward(value_network, policy["value"], observation)
        return draw_implicit(choice_key, drawn, q, v, config.value_loss, policy["hparams"]), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("behavior", config.behavior_updates, config.behavior_batch_size, update_behavior),
            Stage("critic", config.critic_updates, config.critic_batch_size, update_critic),
        ),
        policy=lambda state: {
            "behavior": state.ema_params,
            "critic": state.target_critic_params if config.judge == "target" else state.critic.params,
            "value": state.value.params,
            "hparams": state.hparams,
        },
        init_carry=no_carry,
        act=act_softly if config.act.decode == "svdd" else act,
    )
