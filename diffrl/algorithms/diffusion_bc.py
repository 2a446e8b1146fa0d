"""Behaviour cloning with a diffusion model: SRPO's first stage on its own, acting by sampling.

Chen et al. 2024 (SRPO), eq. 13 and Appendix C for loss, network and optimiser; DDIM for sampling.
"""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.samplers import ddim, sample
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import as_model, clipped
from diffrl.learner import Learner, example, forward
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.objectives.behavior import behavior_loss
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program."""

    learning_rate: float = 3e-4
    weight_decay: float = 0.01


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        num_denoising_steps: network evaluations per action.
        stochasticity: 0 for the deterministic sampler, 1 for ancestral sampling.
    """

    num_denoising_steps: int = 15
    stochasticity: float = setting(0.0, high=1.0)


@dataclasses.dataclass
class Config(HParams):
    """SRPO's network and lengths."""

    hidden_dim: int = 256
    num_blocks: int = 3
    dropout_rate: float = setting(0.1, high=1.0)
    num_updates: int = setting(2_000_000, high=2**29)
    batch_size: int = 2048
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains."""

    step: Count
    hparams: HParams
    behavior: Learner
    behavior_constants: Params  # the time frequencies: part of the network, not trained


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: ε_ψ(a_t | s, t) learns to predict the noise on the data's actions; acting denoises."""
    schedule = LinearVP()
    network = ResidualDenoiser(
        spec.action_dim, hidden_dim=config.hidden_dim, num_blocks=config.num_blocks, dropout_rate=config.dropout_rate
    )

    def optimizer(hparams: HParams) -> optax.GradientTransformation:
        return optax.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)

    def init(key: Key, hparams: HParams) -> State:
        observation, action = example(spec)
        variables = network.init(key, action, jnp.zeros(1), observation)
        return State(
            step=jnp.int32(0),
            hparams=hparams,
            behavior=Learner.create(variables["params"], optimizer(hparams)),
            behavior_constants=variables["constants"],
        )

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        behavior, loss = state.behavior.step(
            lambda params: behavior_loss(network, params, state.behavior_constants, schedule, batch, key),
            optimizer(state.hparams),
        )
        return dataclasses.replace(state, behavior=behavior), {"behavior/loss": loss}

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        def epsilon(noised: Array, t: Array) -> Array:
            return forward(network, policy["params"], noised, t, observation, constants=policy["constants"])

        start_key, key = jax.random.split(key)
        start = jax.random.normal(start_key, (observation.shape[0], spec.action_dim))
        model = clipped(as_model(epsilon, schedule), -1.0, 1.0)
        levels = grid(schedule, config.act.num_denoising_steps)
        action = sample(model, levels, ddim(config.act.stochasticity), key, start)
        return action, carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("behavior", config.num_updates, config.batch_size, update),),
        policy=lambda state: {"params": state.behavior.params, "constants": state.behavior_constants},
        init_carry=no_carry,
        act=act,
    )
