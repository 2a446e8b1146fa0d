"""EDM: strictly batch imitation by energy-based distribution matching (Jarrett, Bica, van der Schaar 2020, arXiv 2006.14154).

A classifier of discrete actions whose logits are also an energy model of states: cloning, regularised by matching the states that
the demonstrations visit. Not Karras's diffusion process of the same name (`diffusion/schedules.py`).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, no_type_check

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from diffrl.algorithm import Algorithm, Stage, hparams_of, no_carry
from diffrl.diffusion.samplers import langevin_step
from diffrl.learner import Learner, example, forward
from diffrl.networks.categorical import drawn, log_prob
from diffrl.networks.mlp import MLP, elu
from diffrl.settings import setting
from diffrl.types import Carry, Count, Key, Metrics, Params, Policy, Spec, Transition


@jax.tree_util.register_dataclass
@no_type_check  # inside a program the floats are tracers
@dataclasses.dataclass
class HParams:
    """Floats that a sweep may vary in one program.

    Attributes:
        learning_rate: Adam's.
        occupancy_weight: of L_ρ; 0 leaves cloning, at the price of the chains.
        square_weight: of L_ρ², which the authors' code adds to the paper's loss; it keeps energies from drifting away.
        step_size: η of a Langevin step.
        noise_scale: its noise over √(2η): 1 for a chain of ρ_θ itself, at temperature 1. The code's noise is 0.01, which is
            nearly an ascent (temperature 0.005).
        renewal: the probability that a chain begins anew.
    """

    learning_rate: float = 1e-3
    occupancy_weight: float = 1.0
    square_weight: float = 1.0
    step_size: float = 0.01
    noise_scale: float = 0.01 / 0.02**0.5
    renewal: float = setting(0.05, high=1.0)


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        deterministic: take the likeliest action; otherwise draw from the softmax.
    """

    deterministic: bool = True


@dataclasses.dataclass
class Config(HParams):
    """Widths and lengths.

    Attributes:
        buffer_size: chains that are kept between updates.
        chain_steps: of each chain of a batch, in an update.
        chains_begin: uniformly in (-1, 1), as in the code, whatever the scale of the states; or within the range of the data.
    """

    hidden_dims: tuple[int, ...] = (64, 64)
    buffer_size: int = 10_000
    chain_steps: int = setting(20, low=0)
    chains_begin: Literal["unit", "data"] = "unit"
    num_updates: int = setting(10_000, high=2**29)
    batch_size: int = 32
    act: Act = dataclasses.field(default_factory=Act)


@flax.struct.dataclass
class State:
    """What one run trains, and its chains, `[buffer_size, observation]`."""

    step: Count
    hparams: HParams
    policy: Learner
    buffer: Params


Box = tuple[Float[Array, "observation"], Float[Array, "observation"]]  # least and largest


def log_mass(logits: Float[Array, "*batch actions"]) -> Float[Array, "*batch"]:
    """log Σ_a e^{f_a(s)} = -E(s): the log density of states under ρ_θ up to its constant (sec. 3)."""
    return jax.nn.logsumexp(logits, axis=-1)


def starts(
    buffer: Float[Array, "chains observation"], batch_size: int, box: Box, renewal: Float[Array, ""] | float, key: Key
) -> tuple[Float[Array, "batch observation"], Int[Array, "batch"]]:
    """States of chains drawn from the buffer, some of them begun anew in the box, and which chains they are."""
    index_key, renewal_key, fresh_key = jax.random.split(key, 3)
    index = jax.random.randint(index_key, (batch_size,), 0, len(buffer))
    shape = (batch_size, buffer.shape[-1])
    fresh = jax.random.uniform(fresh_key, shape, minval=box[0], maxval=box[1])
    return jnp.where(jax.random.bernoulli(renewal_key, renewal, (batch_size, 1)), fresh, buffer[index]), index


def walk(
    log_density: Callable[[Array], Array],
    x: Float[Array, "batch observation"],
    hparams: HParams,
    num_steps: int,
    key: Key,
) -> Float[Array, "batch observation"]:
    """Where Langevin chains on a log density `[batch]` of states `[batch, observation]` end; no gradient goes through them."""
    score = jax.grad(lambda x: jnp.sum(log_density(x)))
    noise = hparams.noise_scale * jax.random.normal(key, (num_steps, *x.shape))  # of all steps: one call of the generator

    def step(x: Array, noise: Array) -> tuple[Array, None]:
        return langevin_step(x, score(x), hparams.step_size, noise), None

    return jax.lax.stop_gradient(jax.lax.scan(step, x, noise)[0])


def loss(
    params: Params, network: nn.Module, batch: Transition, samples: Float[Array, "batch observation"], hparams: HParams
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """L_π + w L_ρ + c L_ρ², and L_π and L_ρ.

    L_π = -E log π_θ(a | s). L_ρ = E_D[E(s)] - E_ρ[E(s)], whose gradient is that of -E_D log ρ_θ where the samples are of ρ_θ
    (eq. 9). Adding a number to all logits of a state changes neither π nor L_π, but ρ.
    """
    logits = forward(network, params, batch.observation)
    cloning = -jnp.mean(log_prob(logits, batch.action))
    occupancy = jnp.mean(log_mass(forward(network, params, samples))) - jnp.mean(log_mass(logits))
    return cloning + hparams.occupancy_weight * occupancy + hparams.square_weight * occupancy**2, (cloning, occupancy)


def make(config: Config, spec: Spec) -> Algorithm:
    """One stage: chains of ρ_θ go on from where they were left, and the classifier learns from the batch and from them.

    `policy/loss` is L_π, as in cloning, and `policy/occupancy` L_ρ, which comes to lie around 0. Where it stays at -½ the two
    terms of it have found their minimum, not the data: chains do not get there. `chains/inside` are those in the data's range.

    Raises:
        ValueError: chains are to begin within the data's range, which a Spec of old does not have.
    """
    network = MLP(config.hidden_dims, spec.num_actions, activation=elu)
    ranged = bool(spec.observation_min)
    if config.chains_begin == "data" and not ranged:
        raise ValueError("chains_begin='data' needs the range of the data, which this spec does not have; set it to 'unit'")

    def data_range() -> Box:
        return jnp.asarray(spec.observation_min), jnp.asarray(spec.observation_max)

    def box() -> Box:
        if config.chains_begin == "data":
            return data_range()
        return -jnp.ones(spec.observation_dim), jnp.ones(spec.observation_dim)

    def init(key: Key, hparams: HParams) -> State:
        # The network's key is that of cloning: both start from the same weights.
        policy = Learner.init(network, optax.adam(hparams.learning_rate), key, example(spec)[0])
        low, high = box()
        shape = (config.buffer_size, spec.observation_dim)
        buffer = jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=low, maxval=high)
        return State(step=jnp.int32(0), hparams=hparams, policy=policy, buffer=buffer)

    def update(state: State, batch: Transition, key: Key) -> tuple[State, Metrics]:
        hparams, params = state.hparams, state.policy.params
        start_key, walk_key = jax.random.split(key)
        start, index = starts(state.buffer, len(batch.reward), box(), hparams.renewal, start_key)
        samples = walk(lambda x: log_mass(forward(network, params, x)), start, hparams, config.chain_steps, walk_key)
        policy, _, (cloning, occupancy) = state.policy.step(
            lambda params: loss(params, network, batch, samples, hparams), optax.adam(hparams.learning_rate), has_aux=True
        )
        metrics = {"policy/loss": cloning, "policy/occupancy": occupancy, "policy/occupancy_size": jnp.abs(occupancy)}
        if ranged:
            low, high = (bound[None] for bound in data_range())
            metrics["chains/inside"] = jnp.mean(jnp.all((samples >= low) & (samples <= high), axis=-1), dtype=jnp.float32)
        return dataclasses.replace(state, policy=policy, buffer=state.buffer.at[index].set(samples)), metrics

    def act(policy: Policy, carry: Carry, observation: Array, key: Key) -> tuple[Array, Carry]:
        logits = forward(network, policy, observation)
        return (logits if config.act.deterministic else drawn(logits, key)), carry

    return Algorithm(
        hparams=hparams_of(config, HParams),
        init=init,
        stages=(Stage("policy", config.num_updates, config.batch_size, update),),
        policy=lambda state: state.policy.params,
        init_carry=no_carry,
        act=act,
    )
