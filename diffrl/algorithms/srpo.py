"""SRPO: score-regularised policy optimisation through diffusion behaviour (Chen et al., ICLR 2024, arXiv 2310.07297).

Three stages: (i) a diffusion model ε_ψ of the behaviour, (ii) IQL's twin Q and V, (iii) a deterministic policy that
climbs Q and is held to the data by the frozen score. The diffusion model is never sampled: acting is one MLP forward.
"""

import dataclasses
from collections.abc import Callable
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.objectives import perturb
from diffrl.diffusion.schedules import LinearVP
from diffrl.diffusion.targets import Predict
from diffrl.learner import Learner, forward
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Critics, Value
from diffrl.networks.mlp import MLP
from diffrl.objectives.behavior import behavior_loss
from diffrl.objectives.value import expectile_loss, td_loss, td_target
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

T_MIN, T_MAX = 0.02, 0.98  # the surrogate's diffusion times (eq. 14)

# ω(t) of eq. 14 under the names of the authors' code. With Adam only the ratio β : ω matters.
WEIGHTINGS: dict[str, Callable[[Array, Array], Array]] = {
    "vds": lambda alpha, sigma: sigma**2,
    "stable": lambda alpha, sigma: jnp.ones_like(sigma),
    "score": lambda alpha, sigma: alpha / sigma,
}


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program. `beta` weighs Q against the score (the paper's β; table 2)."""

    beta: float = 0.1
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.7, high=1.0)


@dataclasses.dataclass
class Config(HParams):
    """Attributes:
    weighting: ω(t), one of `WEIGHTINGS`; the paper's default is "vds", σ_t².
    baseline: subtract z from ε (eq. 15): the same expectation, 40 to 10⁵ times less variance. The released code's
        default is off, the paper's is on.
    normalize_q_gradient: scale ∇_a Q to unit root mean square per sample, as the code does for AntMaze.
    policy_hidden_dims: two layers for locomotion, four for mazes.
    """

    weighting: str = "vds"
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


@flax.struct.dataclass
class State:
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
    weighting: str,
    baseline: bool,
    action: Float[Array, "batch action"],
    key: Key,
) -> Float[Array, "batch action"]:
    """ω(t) (ε_ψ(α_t a + σ_t z, t) - z), one (t, z) per row: the descent direction of the behaviour term (eq. 15)."""
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, action.shape[:1], minval=T_MIN, maxval=T_MAX)
    noise = jax.random.normal(noise_key, action.shape)
    epsilon = predict(perturb(schedule, action, t, noise), t)
    weight = WEIGHTINGS[weighting](schedule.alpha(t), schedule.sigma(t))
    return weight[:, None] * (epsilon - noise if baseline else epsilon)


def policy_loss(
    action: Float[Array, "batch action"],
    score: Float[Array, "batch action"],
    q_gradient: Float[Array, "batch action"],
    beta: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """mean ⟨ω e, a⟩ - β ⟨∇_a Q, a⟩: its gradient in θ is eq. 15 times -β. Only `action` carries gradient."""
    return jnp.mean(jnp.sum(jax.lax.stop_gradient(score - beta * q_gradient) * action, axis=-1))


def make(config: Config, spec: Spec) -> Algorithm:
    """The three stages share one State; each trains its own networks and leaves the others alone.

    Raises:
        ValueError: the weighting is unknown.
    """
    if config.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {config.weighting!r} is unknown; choose one of {', '.join(WEIGHTINGS)}")
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

    def adamw(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)

    def cosine(hparams: HParams) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(hparams.learning_rate, config.policy_updates))

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, value_key, critic_key, policy_key = jax.random.split(key, 4)
        observation, action = jnp.zeros((1, spec.observation_dim)), jnp.zeros((1, spec.action_dim))
        adam = optax.adam(hparams.learning_rate)
        behavior = behavior_network.init(behavior_key, action, jnp.zeros(1), observation)
        critic_params = critics.init(critic_key, observation, action)["params"]
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(behavior["params"], adamw(hparams)),
            behavior_constants=behavior["constants"],
            value=Learner.create(value_network.init(value_key, observation)["params"], adam),
            critic=Learner.create(critic_params, adam),
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            policy=Learner.create(policy_network.init(policy_key, observation)["params"], cosine(hparams)),
        )

    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Eq. 13."""

        def loss_fn(params: Params) -> Array:
            return behavior_loss(behavior_network, params, state.behavior_constants, schedule, batch, key)

        loss, gradients = jax.value_and_grad(loss_fn)(state.behavior.params)
        behavior = state.behavior.apply_gradients(gradients, adamw(state.hparams))
        return dataclasses.replace(state, behavior=behavior), {"loss": loss}

    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Eq. 11 and 12. The target uses V before its step, as the authors' code does (IQL's own uses it after)."""
        del key
        hparams = state.hparams
        adam = optax.adam(hparams.learning_rate)
        target_q = jnp.min(forward(critics, state.target_critic_params, batch.observation, batch.action), axis=0)
        next_value = forward(value_network, state.value.params, batch.next_observation)
        target = td_target(batch.reward, batch.terminal, next_value, hparams.discount)

        def value_loss_fn(params: Params) -> tuple[Array, Array]:
            v = forward(value_network, params, batch.observation)
            return expectile_loss(target_q - v, hparams.expectile), v

        def critic_loss_fn(params: Params) -> Array:
            return 0.5 * td_loss(forward(critics, params, batch.observation, batch.action), target)

        (value_loss, v), value_gradients = jax.value_and_grad(value_loss_fn, has_aux=True)(state.value.params)
        critic_loss, critic_gradients = jax.value_and_grad(critic_loss_fn)(state.critic.params)
        critic = state.critic.apply_gradients(critic_gradients, adam)
        state = dataclasses.replace(
            state,
            value=state.value.apply_gradients(value_gradients, adam),
            critic=critic,
            target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
        )
        return state, {"loss": critic_loss, "value_loss": value_loss, "value": jnp.mean(v)}

    def update_policy(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Eq. 15, with ε_ψ in evaluation mode and the mean of the target critics."""

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
            score = score_direction(
                epsilon,
                schedule,
                config.weighting,
                config.baseline,
                fixed,
                key,
            )
            loss = policy_loss(action, score, q_gradient, state.hparams.beta)
            return loss, {"q": jnp.mean(q), "action_norm": jnp.mean(jnp.linalg.norm(fixed, axis=-1))}

        (loss, metrics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.policy.params)
        policy = state.policy.apply_gradients(gradients, cosine(state.hparams))
        return dataclasses.replace(state, policy=policy), {"loss": loss, **metrics}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        del key
        return forward(policy_network, policy, observation), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("behavior", config.behavior_updates, config.behavior_batch_size, update_behavior),
            Stage("critic", config.critic_updates, config.critic_batch_size, update_critic),
            Stage("policy", config.policy_updates, config.policy_batch_size, update_policy),
        ),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
