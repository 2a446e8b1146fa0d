"""EDP: efficient diffusion policies (Kang, Ma, Du, Pang, Yan 2023, arXiv 2305.20081; constants as in their code).

Diffusion-QL asks for a whole chain at every gradient. Here the policy is improved at â_0, the action that one evaluation
reconstructs from a noised action of the data, the same evaluation that the denoising loss is made of; so the process may have a
thousand levels. What is left to sample, in targets and when acting, takes fifteen evaluations of DPM-Solver. The improvement is
TD3's, CRR's or IQL's. At the noisiest levels â_0 is the mean of the data's actions, be it between two modes of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.dpm_solver import fast
from diffrl.diffusion.objectives import discrete_times, perturb
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import TableVP, grid
from diffrl.diffusion.targets import Predict, as_model, clipped, split
from diffrl.learner import Learner, averaged, copied, example, forward
from diffrl.networks.ensembles import Critics, Value, member
from diffrl.networks.mlp import mish
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.objectives.candidates import backup, candidate_q, candidates, resampled
from diffrl.objectives.implicit_q import advantage_weight, update_values
from diffrl.objectives.value import bootstrap, critic_loss, expectile_loss, lowest_q, normalized_q
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

Form = Literal["td3", "crr", "iql"]
Sampler = Literal["dpm_solver", "ddpm"]
BACKUP_ACTIONS = 10
BASELINE_ACTIONS, MOST_CRR_WEIGHT = 10, 20.0
AVERAGE_START, AVERAGE_EVERY = 1_000, 5  # updates after which the target policy moves, and between its moves


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's, of all networks.
        discount, tau: γ, and the rate of the target critics and of the target policy.
        guide_weight: of the improvement against the denoising loss.
        alpha: of TD3's improvement, which is Q over its mean size.
        expectile: of IQL's V.
        beta: β, the inverse temperature of the advantage weights: 3 for IQL in their code, 1 for CRR.
        max_gradient_norm: of the policy, of V, and of both critics together.
    """

    learning_rate: float = 3e-4
    discount: float = setting(0.99, high=1.0)
    tau: float = setting(0.005, high=1.0)
    guide_weight: float = 1.0
    alpha: float = 2.0
    expectile: float = setting(0.7, high=1.0)
    beta: float = 3.0
    max_gradient_norm: float = setting(1.0, low=1e-6)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        sampler, num_denoising_steps: as in training.
        num_candidates: actions drawn, of which one is chosen with probability ∝ exp(β min Q).
        beta: β of that choice.
    """

    sampler: Sampler = "dpm_solver"
    num_denoising_steps: int = 15
    num_candidates: int = 50
    beta: float = 1.0


@dataclasses.dataclass
class Config(HParams):
    """Choices of the improvement and of the diffusion model, widths and lengths.

    Attributes:
        form: how the policy is improved, and with it how Q is learnt: "td3" and "crr" ask the policy for the next action, "iql"
            learns a V.
        num_levels: T of the diffusion process: β rises linearly from 0.1/T to 20/T. The paper's is 1,000, their code's default
            100.
        sampler: of next actions: "dpm_solver", or "ddpm" with the posterior variance.
        num_denoising_steps: evaluations it takes.
        max_q_backup: a target takes of ten next actions each critic's highest value, before the lower of the two.
    """

    form: Form = "td3"
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    critic_hidden_dims: tuple[int, ...] = (256, 256, 256)
    num_levels: int = setting(1_000, high=10_000)
    sampler: Sampler = "dpm_solver"
    num_denoising_steps: int = 15
    max_q_backup: bool = False
    num_updates: int = setting(2_000_000, high=2**29)
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
    target_policy_params: Params  # None in IQL's form, which asks no policy for next actions
    value: Any  # a Learner in IQL's form, None in the others


def linear_schedule(num_levels: int) -> TableVP:
    """β from 0.1/T to 20/T: the linear table of 1,000 levels, spread over T."""
    return TableVP.linear(num_levels, 0.1 / num_levels, 20.0 / num_levels)


def drawing(sampler: Sampler, num_steps: int, schedule: TableVP) -> Callable[[Predict, Array, Key], Array]:
    """(noise prediction, noise `[B, …]`, key) -> actions, the predicted action always in [-1, 1].

    DPM-Solver ends at the least level, not in the data, so that its end is clipped too.
    """
    num_levels = len(schedule.log_alphas) - 1
    levels, walk = grid(schedule, num_steps, table=num_levels), fast(schedule, num_steps, 1.0 / num_levels)

    def draw(predict: Predict, start: Array, key: Key) -> Array:
        model = clipped(as_model(predict, schedule), -1.0, 1.0)
        return sample(model, levels, ancestral(), key, start) if sampler == "ddpm" else jnp.clip(walk(model, start), -1.0, 1.0)

    return draw


def reconstructed(
    schedule: TableVP, t: Float[Array, "batch"], noised: Float[Array, "batch *dims"], predicted: Float[Array, "batch *dims"]
) -> Float[Array, "batch *dims"]:
    """â_0 = (x_t - σ_t ε)/α_t in [-1, 1]: the action in one evaluation (eq. 9)."""
    return jnp.clip(split("epsilon", schedule, t, noised, predicted).x0, -1.0, 1.0)


def q_loss(
    critic: nn.Module, climbed: Params, observation: Float[Array, "batch observation"], reconstruction: Array
) -> Float[Array, ""]:
    """-mean Q_i(s, â_0) / mean |Q_i(s, â_0)| of one critic; Diffusion-QL divides by the other's values."""
    q = forward(critic, climbed, observation, reconstruction)[0]
    return -normalized_q(q, q)


def regression(
    action: Float[Array, "batch action"], reconstruction: Float[Array, "batch action"], weight: Float[Array, "batch"]
) -> Float[Array, ""]:
    """mean w ½‖a - â_0‖²: -E w log N(a; â_0, I) up to a constant, in place of the likelihood that a diffusion model has not."""
    return jnp.mean(weight * 0.5 * jnp.sum((action - reconstruction) ** 2, axis=-1))


def crr_weight(
    critics: nn.Module, params: Params, batch: Transition, reconstruction: Array, beta: Array | float, key: Key
) -> Float[Array, "batch"]:
    """min(e^{βA}, 20) with A = min Q(s, a) less its mean over ten actions of N(â_0, I)."""
    noise = jax.random.normal(key, (BASELINE_ACTIONS, *reconstruction.shape))
    baseline = jnp.mean(jnp.min(candidate_q(critics, params, batch.observation, reconstruction + noise), axis=0), axis=0)
    return advantage_weight(lowest_q(critics, params, batch.observation, batch.action) - baseline, beta, MOST_CRR_WEIGHT)


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: β of the schedule reaches 1, or a sampler has more steps than there are levels.
    """
    if config.num_levels <= 20:
        raise ValueError(f"num_levels = {config.num_levels}: the last β, 20/num_levels, must be below 1; set 21 or more")
    for name, steps in (("", config.num_denoising_steps), ("act.", config.act.num_denoising_steps)):
        if steps > config.num_levels:
            raise ValueError(f"{name}num_denoising_steps = {steps} is more than num_levels = {config.num_levels}: lower it")


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage. Critics and policy step from the parameters before the update; with IQL the policy sees the new V.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    schedule, implicit = linear_schedule(config.num_levels), config.form == "iql"
    dense = nn.Dense  # LeCun's initialisation
    network = MLPDenoiser(spec.action_dim, config.hidden_dims, time_features="sinusoidal_open", time_dims=(32, 16), dense=dense)
    critics, one_critic = (Critics(config.critic_hidden_dims, count, dense=dense, activation=mish) for count in (2, 1))
    value_network = Value(config.critic_hidden_dims, dense=dense, activation=mish)

    def epsilon(params: Params, noised: Array, t: Array, observation: Array) -> Array:
        return forward(network, params, noised, t * config.num_levels - 1.0, observation)

    draw = drawing(config.sampler, config.num_denoising_steps, schedule)
    draw_to_act = drawing(config.act.sampler, config.act.num_denoising_steps, schedule)

    def actions(draw: Callable[..., Array], params: Params, observation: Array, count: int, key: Key) -> Array:
        """`[count, B, A]`."""

        def chains(start: Array, observation: Array, key: Key) -> Array:
            # Within a chain one time serves all rows.
            return draw(lambda x, t: epsilon(params, x, t[:1], observation), start, key)

        return candidates(chains, observation, count, spec.action_dim, key)

    def optimizer(hparams: HParams) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(hparams.max_gradient_norm), optax.adam(hparams.learning_rate))

    def init(key: Key, hparams: HParams) -> State:
        policy_key, critic_key, value_key = jax.random.split(key, 3)
        (observation, action), clipped_adam = example(spec), optimizer(hparams)
        policy = Learner.init(network, clipped_adam, policy_key, action, jnp.zeros(1), observation)
        critic = Learner.init(critics, clipped_adam, critic_key, observation, action)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            policy=policy,
            critic=critic,
            target_critic_params=copied(critic.params),
            target_policy_params=None if implicit else copied(policy.params),
            value=Learner.init(value_network, clipped_adam, value_key, observation) if implicit else None,
        )

    def explicit_critics(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Critics towards the target policy's next action, and their targets."""
        hparams = state.hparams
        ahead, count = bootstrap(batch, hparams.discount), BACKUP_ACTIONS if config.max_q_backup else 1
        next_actions = actions(draw, state.target_policy_params, ahead.observation, count, key)
        next_q = candidate_q(critics, state.target_critic_params, ahead.observation, next_actions)
        target = ahead.target(backup(next_q))
        critic, loss, q = state.critic.step(
            lambda params: critic_loss(params, critics, batch, target), optimizer(hparams), has_aux=True
        )
        target_critic_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)
        state = dataclasses.replace(state, critic=critic, target_critic_params=target_critic_params)
        return state, {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}

    def implicit_critics(state: State, batch: Transition, q: Array) -> tuple[State, Metrics]:
        hparams = state.hparams
        return update_values(
            state,
            batch,
            q,
            critics,
            value_network,
            optimizer(hparams),
            lambda error: expectile_loss(error, hparams.expectile),
            target_from_updated_value=True,
            critic_loss_weight=1.0,
        )

    def improvement(x0: Array, hparams: HParams, critic_params: Params, batch: Transition, weight: Array, key: Key) -> Array:
        """What is minimised at â_0 beside the denoising loss; `weight` is IQL's."""
        if config.form == "td3":
            climbed = member(critic_params, jax.random.bernoulli(key).astype(jnp.int32))
            return hparams.alpha * q_loss(one_critic, climbed, batch.observation, x0)
        if config.form == "crr":
            weight = crr_weight(critics, critic_params, batch, jax.lax.stop_gradient(x0), hparams.beta, key)
        return regression(batch.action, x0, weight)

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, critic_params = state.hparams, state.critic.params
        next_key, time_key, noise_key, guide_key = jax.random.split(key, 4)
        if implicit:
            q = lowest_q(critics, state.target_critic_params, batch.observation, batch.action)
            state, metrics = implicit_critics(state, batch, q)
            weight = advantage_weight(q - forward(value_network, state.value.params, batch.observation), hparams.beta)
        else:
            state, metrics = explicit_critics(state, batch, next_key)
            weight = jnp.ones_like(batch.reward)  # what there is to weigh depends on â_0

        t = discrete_times(config.num_levels)(time_key, len(batch.reward))
        noise = jax.random.normal(noise_key, batch.action.shape)
        noised = perturb(schedule, batch.action, t, noise)

        def policy_loss(params: Params) -> tuple[Array, tuple[Array, Array]]:
            predicted = epsilon(params, noised, t, batch.observation)
            bc_loss = jnp.mean((predicted - noise) ** 2)
            x0 = reconstructed(schedule, t, noised, predicted)
            guide_loss = improvement(x0, hparams, critic_params, batch, weight, guide_key)
            return bc_loss + hparams.guide_weight * guide_loss, (bc_loss, guide_loss)

        policy, loss, (bc_loss, guide_loss) = state.policy.step(policy_loss, optimizer(hparams), has_aux=True)
        state = dataclasses.replace(state, policy=policy)
        if not implicit:
            updates = state.step + 1
            due = (updates > AVERAGE_START) & (updates % AVERAGE_EVERY == 0)
            average = averaged(state.target_policy_params, policy.params, hparams.tau, due)
            state = dataclasses.replace(state, target_policy_params=average)
        return state, metrics | {"policy/loss": loss, "policy/bc_loss": bc_loss, "policy/guide_loss": guide_loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        choice, (key, choice_key) = config.act, jax.random.split(key)
        drawn = actions(draw_to_act, policy["policy"], observation, choice.num_candidates, key)
        return resampled(critics, policy["critic"], observation, drawn, choice.beta, choice_key), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("edp", config.num_updates, config.batch_size, update),),
        policy=lambda state: {"policy": state.policy.params, "critic": state.critic.params},
        init_carry=no_carry,
        act=act,
    )
