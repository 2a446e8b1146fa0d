"""DIAR: skills of a latent diffusion model, valued by implicit Q-learning (Park, Lee, Lee, Kim, Choi 2024, arXiv 2410.11338).

Three stages: (i) a variational autoencoder of H steps, whose latents z are skills; (ii) a diffusion model of the skills that the
data carry out in a state; (iii) Q(s, z) of skills that are carried out whole, and V(s), an expectile of it over the model's.
Acting draws many, takes the best by Q, and thinks again where V says that it leads to a worse state than the present one. LDCQ
(Venkatraman et al., ICLR 2024, arXiv 2309.06599), on which it is built, has no V: the value of a state is the best of Q.
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

from diffrl.action_chunks import anywhere, open_loop, open_loop_carry
from diffrl.algorithm import Algorithm, Stage, hparams_of
from diffrl.data.dataset import Dataset
from diffrl.data.sampling import windows, windows_at
from diffrl.diffusion.guidance import best_of
from diffrl.diffusion.objectives import denoising_loss, discrete_times, min_snr
from diffrl.diffusion.samplers import Solver, ancestral, ddim, polished, sample
from diffrl.diffusion.schedules import TableVP, grid, level_at
from diffrl.diffusion.targets import Predict, as_model
from diffrl.learner import Learner, copied, example, forward
from diffrl.networks.action_unet import ActionUNet
from diffrl.networks.chunk_vae import SkillVAE
from diffrl.networks.ensembles import TowerCritics, Value
from diffrl.objectives.candidates import backup
from diffrl.objectives.implicit_q import value_loss
from diffrl.objectives.skills import as_skills, leading_on, vae_loss
from diffrl.objectives.value import bootstrap, expectile_loss, lowest_q, priority_weight
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

Reconsider = Literal["constrained", "resample", "never"]
SOLVERS: dict[str, Solver] = {"ddim": ddim(), "ancestral": ancestral("forward")}
BLOCK = 512  # rows whose skills are encoded or drawn at a time, which bounds memory


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        vae_learning_rate, behavior_learning_rate, critic_learning_rate: Adam's; the last is that of Q and V.
        max_gradient_norm: to which every network's gradient is clipped.
        kl_weight: β of the autoencoder.
        max_snr: the most that a noise level's loss weighs.
        discount: γ of a step.
        tau: the rate of the targets of Q and V.
        expectile: τ, which V is of Q over the model's skills.
        priority, priority_correction: α, and β at the beginning, of prioritised rows: see `priority_weight`; α = 0 for none.
    """

    vae_learning_rate: float = 5e-5
    behavior_learning_rate: float = 1e-4
    critic_learning_rate: float = 5e-4
    max_gradient_norm: float = 1.0
    kl_weight: float = 0.1
    max_snr: float = 5.0
    discount: float = setting(0.995, high=1.0)
    tau: float = setting(0.005, high=1.0)
    expectile: float = setting(0.9, high=1.0)
    priority: float = 0.7
    priority_correction: float = setting(0.3, high=1.0)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_candidates: N, skills drawn for a decision.
        reconsider: what is done about skills whose end is worth less than the present state. "constrained" takes the best of the
            others; "resample" draws all anew where the best is one, as the paper does; "never" is LDCQ's.
        tolerance: how much less an end may be worth.
        num_attempts: draws of "resample".
        execution_steps: of a skill, before the next decision.
    """

    num_candidates: int = 500
    reconsider: Reconsider = "constrained"
    tolerance: float = 0.0
    num_attempts: int = setting(5, high=100)
    execution_steps: int = 30


@dataclasses.dataclass
class Config(HParams):
    """Lengths, networks and targets: of mazes, as a reimplementation quotes them from the paper.

    Attributes:
        form: "diar", or "ldcq" without V: the value of a state is the best of Q over the model's skills.
        horizon: H, steps of a skill.
        latent_dim: numbers of z.
        encoder_hidden_dims, vae_hidden_dims: see `SkillVAE`.
        prior_loss: whether the autoencoder is trained together with a diffusion model of its latents, which makes them easier to
            model; that one is not used again.
        behavior_hidden_dims: of the diffusion model.
        num_diffusion_steps: T; β from 1e-4 to 0.02 whatever T, so that of 100, as LDCQ has, much of the data is left at the end.
        solver, num_denoising_steps, num_polish_steps: of a draw, and how often its result is denoised again at the lowest level.
        num_latents: skills that V, or LDCQ's value, is of.
        latents: whether they are "cached", drawn once for each row, or "fresh" ones of every update.
        end_discount: the weight of the value at a skill's end: "horizon" for γ^H, "step" for γ, as their codes have in mazes.
        critic_hidden_dims, latent_hidden_dims: of Q and V, and of what reads z.
        decay_every, decay: the learning rate of Q and V is multiplied by `decay` after every so many updates.
    """

    form: Literal["diar", "ldcq"] = "diar"
    horizon: int = 30
    latent_dim: int = 16
    encoder_hidden_dims: tuple[int, ...] = (128, 128)
    vae_hidden_dims: tuple[int, ...] = (128, 128)
    prior_loss: bool = True
    behavior_hidden_dims: tuple[int, ...] = (256, 128, 64)
    num_diffusion_steps: int = 500
    solver: Literal["ddim", "ancestral"] = "ddim"
    num_denoising_steps: int = 10
    num_polish_steps: int = setting(5, low=0, high=100)
    num_latents: int = 32
    latents: Literal["cached", "fresh"] = "cached"
    end_discount: Literal["horizon", "step"] = "horizon"
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    latent_hidden_dims: tuple[int, ...] = (128, 128)
    num_critics: int = 2
    decay_every: int = 50_000
    decay: float = setting(0.3, high=1.0)
    vae_updates: int = setting(800_000, high=2**29)
    behavior_updates: int = setting(3_500_000, high=2**29)
    critic_updates: int = setting(100_000, high=2**29)
    batch_size: int = 128
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    vae: Learner  # and the diffusion model that it is trained with
    behavior: Learner
    behavior_constants: Params  # the time frequencies: part of the network, not trained
    critic: Learner
    target_critic_params: Params
    value: Any = ()  # LDCQ has none
    target_value_params: Params = ()


def reconsidered(
    draw: Callable[[Key], tuple[Array, Array]], present: Float[Array, "batch"], tolerance: float, num_attempts: int, key: Key
) -> Float[Array, "batch latent"]:
    """Adaptive revaluation: draws again where V(ŝ_H) of what was chosen is below V(s), at most so often, then takes the best end.

    Args:
        draw: key -> (the best skill of a fresh pool `[B, D]`, the value of its end `[B]`).
    """
    keys = jax.random.split(key, num_attempts)
    chosen, end = draw(keys[0])
    for again in keys[1:]:
        unsure = end + tolerance < present

        def once_more(held: tuple[Array, Array], again: Key = again, unsure: Array = unsure) -> tuple[Array, Array]:
            (latent, value), (chosen, end) = draw(again), held
            better = unsure & (value > end)
            return jnp.where(better[:, None], latent, chosen), jnp.where(better, value, end)

        chosen, end = jax.lax.cond(anywhere(unsure), once_more, lambda held: held, (chosen, end))
    return chosen


def make(config: Config, spec: Spec) -> Algorithm:
    """The stages share one State; each trains its own networks and leaves the others alone.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    horizon, count, has_value = config.horizon, config.num_latents, config.form == "diar"
    vae = SkillVAE(spec.observation_dim, spec.action_dim, config.encoder_hidden_dims, config.vae_hidden_dims, config.latent_dim)
    network = ActionUNet(config.latent_dim, config.behavior_hidden_dims)
    critics = TowerCritics(config.critic_hidden_dims, config.latent_hidden_dims, config.num_critics)
    value_network = Value((*config.critic_hidden_dims, *config.critic_hidden_dims), activation=nn.gelu, layer_norm="after")
    schedule = TableVP.linear(config.num_diffusion_steps)
    levels = grid(schedule, config.num_denoising_steps, table=config.num_diffusion_steps)
    with jax.ensure_compile_time_eval():  # a constant of the program, as the levels are
        lowest = level_at(schedule, jnp.float32(1.0 / config.num_diffusion_steps))
    solver = polished(SOLVERS[config.solver], lowest, config.num_polish_steps)

    def adam(hparams: HParams, learning_rate: Any) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(hparams.max_gradient_norm), optax.adam(learning_rate))

    def critic_adam(hparams: HParams) -> optax.GradientTransformation:
        rate = optax.exponential_decay(hparams.critic_learning_rate, config.decay_every, config.decay, staircase=True)
        return adam(hparams, rate)

    def init(key: Key, hparams: HParams) -> State:
        vae_key, behavior_key, critic_key, value_key = jax.random.split(key, 4)
        (observation, action), latent = example(spec), jnp.zeros((1, config.latent_dim))
        steps = (jnp.zeros((1, horizon, x.shape[-1])) for x in (observation, action))
        behavior = network.init(behavior_key, latent, jnp.zeros(1), observation)
        vae_params = {"vae": vae.init(vae_key, *steps)["params"]}
        if config.prior_loss:
            vae_params["prior"] = copied(behavior["params"])
        critic = Learner.init(critics, critic_adam(hparams), critic_key, observation, latent)
        state = State(
            step=jnp.int32(0),
            hparams=hparams,
            vae=Learner.create(vae_params, adam(hparams, hparams.vae_learning_rate)),
            behavior=Learner.create(behavior["params"], adam(hparams, hparams.behavior_learning_rate)),
            behavior_constants=behavior["constants"],
            critic=critic,
            target_critic_params=copied(critic.params),
        )
        if not has_value:
            return state
        value = Learner.init(value_network, critic_adam(hparams), value_key, observation)
        return dataclasses.replace(state, value=value, target_value_params=copied(value.params))

    def predicts(params: Params, constants: Params, observation: Array) -> Predict:
        """ẑ_0 of rows of these observations, or of candidates `[N, B, D]` that share one time."""

        def predict(noised: Array, t: Array) -> Array:
            t = t if noised.ndim == 2 else jnp.broadcast_to(t[:1, None], observation.shape[:-1])
            return forward(network, params, noised, t, observation, constants=constants)

        return predict

    def drawn(params: Params, constants: Params, observation: Array, number: int, key: Key) -> Array:
        """Skills `[N, B, D]`."""
        start_key, key = jax.random.split(key)
        model = as_model(predicts(params, constants, observation[None]), schedule, "x0")
        return sample(model, levels, solver, key, jax.random.normal(start_key, (number, len(observation), config.latent_dim)))

    def skill_loss(params: Params, state: State, observation: Array, latent: Array, taken: Array, key: Key) -> Array:
        """min(SNR_t, 5) ‖ẑ_0(z_t, s_0, t) - z‖²/d_z, the mean over the skills that were taken whole."""
        share, weight = taken / jnp.maximum(jnp.mean(taken), 1e-6), min_snr(schedule, state.hparams.max_snr)
        loss = denoising_loss(
            predicts(params, state.behavior_constants, observation),
            schedule,
            latent,
            key,
            target="x0",
            times=discrete_times(config.num_diffusion_steps),
            weight=lambda t: share * weight(t),
        )
        return loss / config.latent_dim

    # (i)
    def update_vae(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        latent_key, key = jax.random.split(key)
        hparams, batch = state.hparams, as_skills(batch)

        def loss_fn(params: Params) -> tuple[Array, Metrics]:
            loss, (latent, parts) = vae_loss(params["vae"], vae, batch, hparams.kl_weight, latent_key)
            if config.prior_loss:
                taken = batch.extras["chunk_taken"]
                parts["vae/prior"] = skill_loss(params["prior"], state, batch.observation, latent, taken, key)
                loss += parts["vae/prior"]
            return loss, parts

        learner, loss, parts = state.vae.step(loss_fn, adam(hparams, hparams.vae_learning_rate), has_aux=True)
        return dataclasses.replace(state, vae=learner), {"vae/loss": loss} | parts

    def encoded(state: State, dataset: Dataset, row: Array) -> tuple[Array, Transition]:
        """The skill that begins at a row, the mean of its z, and the window."""
        batch = as_skills(windows_at(dataset, row[None], horizon))
        steps = batch.extras["window_observation"], batch.extras["window_action"]
        found: Any = vae.apply({"params": state.vae.params["vae"]}, *steps, method="encode")
        return found[0][0], batch

    def prepare_behavior(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        del key

        def column(row: Array) -> dict[str, Array]:
            latent, batch = encoded(state, dataset, row)
            return {"skill": latent, "skill_taken": batch.extras["chunk_taken"][0]}

        return jax.lax.map(column, jnp.arange(dataset.size), batch_size=BLOCK)

    # (ii)
    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        behavior, loss = state.behavior.step(
            lambda params: skill_loss(params, state, batch.observation, batch.extras["skill"], batch.extras["skill_taken"], key),
            adam(state.hparams, state.hparams.behavior_learning_rate),
        )
        return dataclasses.replace(state, behavior=behavior), {"behavior/loss": loss}

    def prepare_critic(state: State, dataset: Dataset, key: Key) -> dict[str, Array]:
        """The data's skills, and those drawn where a value is asked for: DIAR asks at a skill's beginning, LDCQ at its end."""

        def column(row: Array) -> dict[str, Array]:
            latent, batch = encoded(state, dataset, row)
            if config.latents == "fresh":
                return {"skill": latent}
            at = batch.observation if has_value else batch.extras["ahead_observation"]
            found = drawn(state.behavior.params, state.behavior_constants, at, count, jax.random.fold_in(key, row))
            return {"skill": latent, "latents": found.reshape(-1)}

        return jax.lax.map(column, jnp.arange(dataset.size), batch_size=BLOCK)

    # (iii)
    def update_critic(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, adam = state.hparams, critic_adam(state.hparams)
        batch = as_skills(batch, batch.extras["skill"], one_step=config.end_discount == "step")
        ahead = bootstrap(batch, hparams.discount)
        at = batch.observation if has_value else ahead.observation
        if config.latents == "cached":
            latents = jnp.moveaxis(batch.extras["latents"].reshape(len(at), count, -1), 0, 1)
        else:
            latents = drawn(state.behavior.params, state.behavior_constants, at, count, key)

        metrics = {}
        if has_value:
            value, metrics["value/loss"], v = state.value.step(
                lambda params: value_loss(
                    params,
                    value_network,
                    at,
                    lowest_q(critics, state.target_critic_params, at, latents),
                    lambda error: expectile_loss(error, hparams.expectile),
                ),
                adam,
                has_aux=True,
            )
            metrics["value/v"] = jnp.mean(v)
            target_value_params = optax.incremental_update(value.params, state.target_value_params, hparams.tau)
            next_value = forward(value_network, state.target_value_params, ahead.observation)
            state = dataclasses.replace(state, value=value, target_value_params=target_value_params)
        else:
            next_value = backup(forward(critics, state.target_critic_params, at, latents))
        target = ahead.target(next_value)

        earlier = config.vae_updates + config.behavior_updates
        progress = jnp.clip((state.step - earlier) / config.critic_updates, 0.0, 1.0)
        exponent = hparams.priority * (1.0 - hparams.priority_correction) * (1.0 - progress)

        def loss_fn(params: Params) -> tuple[Array, Array]:
            q = forward(critics, params, batch.observation, batch.action)
            weight = priority_weight(target - jnp.min(q, axis=0), exponent) * batch.extras["chunk_taken"]
            return jnp.mean(weight[None] * (q - target[None]) ** 2), q

        critic, loss, q = state.critic.step(loss_fn, adam, has_aux=True)
        target_params = optax.incremental_update(critic.params, state.target_critic_params, hparams.tau)
        metrics |= {"critic/loss": loss, "critic/q": jnp.mean(q), "critic/target": jnp.mean(target)}
        return dataclasses.replace(state, critic=critic, target_critic_params=target_params), metrics

    def choose(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        """A skill for each observation, once for every step that it is carried out."""
        act = config.act

        def pool(key: Key) -> tuple[Array, Array]:
            latents = drawn(policy["behavior"], policy["constants"], observation, act.num_candidates, key)
            return latents, lowest_q(critics, policy["critic"], observation, latents)

        def value_of_end(latent: Array) -> Array:
            return forward(value_network, policy["value"], forward(vae, policy["vae"], observation, latent, method="end"))

        def best(key: Key) -> tuple[Array, Array]:
            latent = best_of(*pool(key))
            return latent, value_of_end(latent)

        if act.reconsider == "never":
            latent = best_of(*pool(key))
        else:
            present = forward(value_network, policy["value"], observation)
            if act.reconsider == "resample":
                latent = reconsidered(best, present, act.tolerance, act.num_attempts, key)
            else:
                latents, q = pool(key)
                latent = leading_on(latents, q, value_of_end(latents), present, act.tolerance)
        return jnp.broadcast_to(latent[:, None], (len(latent), act.execution_steps, config.latent_dim)), carry

    execute = open_loop(choose, config.act.execution_steps)

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        latent, carry = execute(policy, carry, observation, key)
        return forward(vae, policy["vae"], observation, latent, method="act"), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("vae", config.vae_updates, config.batch_size, update_vae, batch=windows(horizon)),
            Stage("behavior", config.behavior_updates, config.batch_size, update_behavior, prepare_behavior),
            Stage("critic", config.critic_updates, config.batch_size, update_critic, prepare_critic, windows(horizon)),
        ),
        policy=lambda state: {
            "vae": state.vae.params["vae"],
            "behavior": state.behavior.params,
            "constants": state.behavior_constants,
            "critic": state.target_critic_params,
            "value": state.target_value_params,
        },
        init_carry=lambda policy, num_envs: open_loop_carry((), num_envs, config.act.execution_steps, config.latent_dim),
        act=act,
    )


def check(config: Config) -> None:
    """Refuses choices that do not fit together.

    Raises:
        ValueError: see the messages.
    """
    for name in ("behavior_hidden_dims", "critic_hidden_dims", "latent_hidden_dims"):
        if not getattr(config, name):
            raise ValueError(f"{name} = () is a network without layers: give it one")
    if config.num_denoising_steps > config.num_diffusion_steps:
        raise ValueError(
            f"num_denoising_steps = {config.num_denoising_steps} is more than the num_diffusion_steps = "
            f"{config.num_diffusion_steps} of training: set it to that or less"
        )
    if config.act.execution_steps > config.horizon:
        raise ValueError(f"act.execution_steps = {config.act.execution_steps} is more than horizon = {config.horizon} has")
    if config.form == "ldcq" and config.act.reconsider != "never":
        raise ValueError(f"act.reconsider = {config.act.reconsider!r} asks V, and form = 'ldcq' has none: set it to 'never'")
