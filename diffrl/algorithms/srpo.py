"""SRPO: score-regularised policy optimisation through diffusion behaviour (Chen et al., ICLR 2024, arXiv 2310.07297).

Three stages: (i) a diffusion model ε_ψ of the behaviour, (ii) IQL's twin Q and V, (iii) a deterministic policy that
climbs Q and is held to the data by the frozen score. The diffusion model is not sampled: acting is one MLP forward.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.objectives import perturb
from diffrl.diffusion.samplers import ancestral
from diffrl.diffusion.schedules import LinearVP, grid, over
from diffrl.diffusion.targets import Model, Predict, as_model, clipped
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Critics, Value
from diffrl.networks.mlp import MLP
from diffrl.objectives.behavior import behavior_loss
from diffrl.objectives.candidates import Decoding, soft_action
from diffrl.objectives.implicit_q import update_values
from diffrl.objectives.value import expectile_loss, lowest_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

T_MIN, T_MAX = 0.02, 0.98  # the surrogate's diffusion times (eq. 14)

# ω(t) of eq. 14 under the names of the authors' code. With Adam only the ratio β : ω matters.
Weighting = Literal["vds", "stable", "score"]
WEIGHTINGS: dict[Weighting, Callable[[Array, Array], Array]] = {
    "vds": lambda alpha, sigma: sigma**2,
    "stable": lambda alpha, sigma: jnp.ones_like(sigma),
    "score": lambda alpha, sigma: alpha / sigma,
}


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        beta: β, what Q weighs against the score (table 2).
        learning_rate: Adam's; the policy's falls along a cosine.
        weight_decay: of the behaviour's AdamW.
        discount, tau: γ, and the rate of the target critics.
        expectile: τ of IQL, which V is of Q over the data's actions.
    """

    beta: float = 0.1
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)


@dataclasses.dataclass
class Act(Decoding):
    """Choices made when acting; "own" is the policy, with "svdd" the behaviour is sampled and the policy not asked.

    Attributes:
        num_denoising_steps: of the behaviour's sampler.
    """

    num_denoising_steps: int = 15


@dataclasses.dataclass
class Config(HParams):
    """Choices of the policy's loss, widths and lengths.

    Attributes:
        weighting: ω(t); the paper's default is "vds", σ_t².
        baseline: subtract z from ε (eq. 15): the same expectation, 40 to 10⁵ times less variance. The released code's
            default is off, the paper's is on.
        normalize_q_gradient: scale ∇_a Q to unit root mean square per sample, as the code does for AntMaze.
        policy_hidden_dims: two layers for locomotion, four for mazes.
    """

    weighting: Weighting = "vds"
    baseline: bool = True
    normalize_q_gradient: bool = False
    behavior_hidden_dim: int = 256
    behavior_blocks: int = 3
    dropout_rate: float = setting(0.1, high=1.0)
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    policy_hidden_dims: tuple[int, ...] = (256, 256)
    behavior_updates: int = setting(2_000_000, high=2**29)
    critic_updates: int = setting(1_500_000, high=2**29)
    policy_updates: int = setting(1_000_000, high=2**29)
    behavior_batch_size: int = 2048
    critic_batch_size: int = 256
    policy_batch_size: int = 256
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner
    behavior_constants: Params  # the time frequencies: part of the network, not trained
    value: Learner
    critic: Learner
    target_critic_params: Params
    policy: Learner


def score_direction(
    predict: Predict,
    schedule: LinearVP,
    weighting: Weighting,
    baseline: bool,
    action: Float[Array, "batch *dims"],
    key: Key,
) -> Float[Array, "batch *dims"]:
    """ω(t) (ε_ψ(α_t a + σ_t z, t) - z), one (t, z) per row: the descent direction of the behaviour term (eq. 15)."""
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, action.shape[:1], minval=T_MIN, maxval=T_MAX)
    noise = jax.random.normal(noise_key, action.shape)
    epsilon = predict(perturb(schedule, action, t, noise), t)
    weight = WEIGHTINGS[weighting](schedule.alpha(t), schedule.sigma(t))
    return over(weight, action) * (epsilon - noise if baseline else epsilon)


def policy_loss(
    action: Float[Array, "batch action"],
    score: Float[Array, "batch action"],
    q_gradient: Float[Array, "batch action"],
    beta: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """mean ⟨ω e, a⟩ - β ⟨∇_a Q, a⟩: its gradient in θ is eq. 15 times -β. Only `action` carries gradient."""
    return jnp.mean(jnp.sum(jax.lax.stop_gradient(score - beta * q_gradient) * action, axis=-1))


def make(config: Config, spec: Spec) -> Algorithm:
    """The three stages share one State; each trains its own networks and leaves the others alone."""
    schedule = LinearVP()
    behavior_network = ResidualDenoiser(
        spec.action_dim,
        hidden_dim=config.behavior_hidden_dim,
        num_blocks=config.behavior_blocks,
        dropout_rate=config.dropout_rate,
    )
    critics = Critics(config.critic_hidden_dims)
    value_network = Value(config.critic_hidden_dims)
    policy_network = MLP(config.policy_hidden_dims, spec.action_dim, output_activation=jnp.tanh)
    levels = grid(schedule, config.act.num_denoising_steps)

    def adamw(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)

    def cosine(hparams: HParams) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.learning_rate, config.policy_updates))

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, value_key, critic_key, policy_key = jax.random.split(key, 4)
        (observation, action), adam = example(spec), optax.adam(hparams.learning_rate)
        behavior = behavior_network.init(behavior_key, action, jnp.zeros(1), observation)
        critic = Learner.init(critics, adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(behavior["params"], adamw(hparams)),
            behavior_constants=behavior["constants"],
            value=Learner.init(value_network, adam, value_key, observation),
            critic=critic,
            target_critic_params=copied(critic.params),
            policy=Learner.init(policy_network, cosine(hparams), policy_key, observation),
        )

    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Noise prediction (eq. 13)."""
        behavior, loss = state.behavior.step(
            lambda params: behavior_loss(behavior_network, params, state.behavior_constants, schedule, batch, key),
            adamw(state.hparams),
        )
        return dataclasses.replace(state, behavior=behavior), {"behavior/loss": loss}

    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """V and Q of eq. 11 and 12. The target uses V before its step, as the authors' code does (IQL's own uses it after)."""
        del key
        hparams = state.hparams
        return update_values(
            state,
            batch,
            lowest_q(critics, state.target_critic_params, batch.observation, batch.action),
            critics,
            value_network,
            optax.adam(hparams.learning_rate),
            lambda error: expectile_loss(error, hparams.expectile),
            target_from_updated_value=False,
            critic_loss_weight=0.5,
        )

    def update_policy(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """The step of eq. 15, with ε_ψ in evaluation mode and the mean of the target critics."""

        def epsilon(noised: Array, t: Array) -> Array:
            params, constants = state.behavior.params, state.behavior_constants
            return forward(behavior_network, params, noised, t, batch.observation, constants=constants)

        def mean_q(action: Array) -> Array:
            return jnp.mean(forward(critics, state.target_critic_params, batch.observation, action), axis=0)

        def loss_fn(params: Params) -> tuple[Array, Metrics]:
            action = forward(policy_network, params, batch.observation)
            fixed = jax.lax.stop_gradient(action)
            q, q_vjp = jax.vjp(mean_q, fixed)
            (q_gradient,) = q_vjp(jnp.ones_like(q))
            if config.normalize_q_gradient:
                # The authors' code has no epsilon: 0/0 where Q is flat.
                q_gradient = q_gradient / jnp.sqrt(jnp.mean(q_gradient**2, axis=-1, keepdims=True) + 1e-8)
            score = score_direction(epsilon, schedule, config.weighting, config.baseline, fixed, key)
            size = jnp.mean(jnp.linalg.norm(fixed, axis=-1))
            return (
                policy_loss(action, score, q_gradient, state.hparams.beta),
                {"policy/q": jnp.mean(q), "policy/action_norm": size},
            )

        policy, loss, metrics = state.policy.step(loss_fn, cosine(state.hparams), has_aux=True)
        return dataclasses.replace(state, policy=policy), {"policy/loss": loss, **metrics}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return forward(policy_network, policy, observation), carry

    def act_softly(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def behavior(observation: Array) -> Model:
            def epsilon(noised: Array, t: Array) -> Array:
                return forward(behavior_network, policy["behavior"], noised, t, observation, constants=policy["constants"])

            return clipped(as_model(epsilon, schedule), -1.0, 1.0)

        value = partial(lowest_q, critics, policy["critic"])
        return soft_action(behavior, value, levels, ancestral(), key, observation, spec.action_dim, config.act.svdd), carry

    def models(state: State) -> Policy:
        behavior, constants = state.behavior.params, state.behavior_constants
        return {"behavior": behavior, "constants": constants, "critic": state.target_critic_params}

    softly = config.act.decode == "svdd"

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("behavior", config.behavior_updates, config.behavior_batch_size, update_behavior),
            Stage("critic", config.critic_updates, config.critic_batch_size, update_critic),
            Stage("policy", config.policy_updates, config.policy_batch_size, update_policy),
        ),
        policy=models if softly else lambda state: state.policy.params,
        init_carry=no_carry,
        act=act_softly if softly else act,
    )
