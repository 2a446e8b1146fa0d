"""CEP: exact energy guidance by contrastive energy prediction (Lu et al., ICML 2023, arXiv 2304.12824), without a state.

For one-step problems such as the laboratory's distributions, where the reward is the (negative) energy e. A diffusion model of
the data q, and a network f(x_t, t) that learns the energy of every noise level, log E[e^{βe(x_0)} | x_t]; its gradient added to
the score samples p ∝ q e^{βe} exactly. The paper's form for reinforcement learning is `qgpo.py`.
"""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.dpm_solver import dpm_solver
from diffrl.diffusion.guidance import energy_guided
from diffrl.diffusion.objectives import denoising_loss, perturb
from diffrl.diffusion.samplers import sample
from diffrl.diffusion.schedules import Level, LinearVP, grid
from diffrl.diffusion.targets import as_model
from diffrl.learner import Learner, example, forward
from diffrl.networks.time_mlp import TimeMLP
from diffrl.objectives.energy import contrastive_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition

T_MIN = 1e-5  # of the energy's diffusion times


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate, energy_learning_rate: Adam's, of the data's model and of the energies.
        beta: β, the inverse temperature of p ∝ q e^{βe}.
    """

    learning_rate: float = 1e-4
    energy_learning_rate: float = 3e-4
    beta: float = 3.0


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        guidance_scale: 0 for the data's distribution, 1 for the exact target.
        num_denoising_steps: of the second-order multistep DPM-Solver++.
    """

    guidance_scale: float = 1.0
    num_denoising_steps: int = 25


@dataclasses.dataclass
class Config(HParams):
    """The paper's widths and lengths on the toys (750 epochs of 489 batches)."""

    behavior_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    energy_hidden_dims: tuple[int, ...] = (512, 512, 512, 512)
    behavior_updates: int = setting(366_750, high=2**29)
    energy_updates: int = setting(366_750, high=2**29)
    batch_size: int = 2048
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner
    behavior_constants: Params  # time frequencies: part of the networks, not trained
    energy: Learner
    energy_constants: Params


def make(config: Config, spec: Spec) -> Algorithm:
    """The data's diffusion model, then the energies; both look at the actions and rewards alone."""
    schedule = LinearVP()
    behavior_network = TimeMLP(config.behavior_hidden_dims, spec.action_dim)
    energy_network = TimeMLP(config.energy_hidden_dims, 1)
    levels = grid(schedule, config.act.num_denoising_steps, spacing="log_snr")

    def init(key: Key, hparams: HParams) -> State:
        behavior_key, energy_key = jax.random.split(key)
        (_, x), t = example(spec), jnp.zeros(1)
        behavior, energy = behavior_network.init(behavior_key, x, t), energy_network.init(energy_key, x, t)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(behavior["params"], optax.adam(hparams.learning_rate)),
            behavior_constants=behavior["constants"],
            energy=Learner.create(energy["params"], optax.adam(hparams.energy_learning_rate)),
            energy_constants=energy["constants"],
        )

    def update_behavior(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """Noise prediction on the data's actions."""

        def loss_fn(params: Params) -> Array:
            def epsilon(noised: Array, t: Array) -> Array:
                return forward(behavior_network, params, noised, t, constants=state.behavior_constants)

            return denoising_loss(epsilon, schedule, batch.action, key)

        behavior, loss = state.behavior.step(loss_fn, optax.adam(state.hparams.learning_rate))
        return dataclasses.replace(state, behavior=behavior), {"behavior/loss": loss}

    def update_energy(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        """The whole batch is one contrastive set at one diffusion time, as in the authors' toys."""
        time_key, noise_key = jax.random.split(key)
        t = jnp.broadcast_to(jax.random.uniform(time_key, minval=T_MIN), batch.reward.shape)
        noised = perturb(schedule, batch.action, t, jax.random.normal(noise_key, batch.action.shape))

        def loss_fn(params: Params) -> Array:
            predicted = forward(energy_network, params, noised, t, constants=state.energy_constants)[:, 0]
            return contrastive_loss(batch.reward, predicted, state.hparams.beta)

        energy, loss = state.energy.step(loss_fn, optax.adam(state.hparams.energy_learning_rate))
        return dataclasses.replace(state, energy=energy), {"energy/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def epsilon(noised: Array, t: Array) -> Array:
            return forward(behavior_network, policy["behavior"], noised, t, constants=policy["behavior_constants"])

        def log_weight(x: Array, level: Level) -> Array:
            t = jnp.broadcast_to(level.t, x.shape[:1])
            return forward(energy_network, policy["energy"], x, t, constants=policy["energy_constants"])[:, 0]

        model = energy_guided(as_model(epsilon, schedule), log_weight, config.act.guidance_scale)
        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (observation.shape[0], spec.action_dim))
        return sample(model, levels, dpm_solver(2), key, start), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(
            Stage("behavior", config.behavior_updates, config.batch_size, update_behavior),
            Stage("energy", config.energy_updates, config.batch_size, update_energy),
        ),
        policy=lambda state: {
            "behavior": state.behavior.params,
            "behavior_constants": state.behavior_constants,
            "energy": state.energy.params,
            "energy_constants": state.energy_constants,
        },
        init_carry=no_carry,
        act=act,
    )
