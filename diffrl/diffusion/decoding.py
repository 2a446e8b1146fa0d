"""Soft value-based decoding: a diffusion model steered by values without their gradients (Li et al. 2024, arXiv 2408.08252).

Every step of a stochastic sampler has several children, of which one goes on, drawn with probability ∝ e^{v/α}. With the exact
soft value v_t(x_t) = α log E[e^{r(x_0)/α} | x_t] the samples are of p e^{r/α} as the children grow in number. The value of the
predicted data, r(E[x_0 | x_t]), needs no training and tilts too much.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffrl.diffusion.samplers import MAX_UNROLLED, Solver, to_data
from diffrl.diffusion.schedules import Grid, Level
from diffrl.diffusion.targets import Model, Prediction
from diffrl.settings import setting
from diffrl.types import Key

Conditioned = Callable[[Array], Model]  # conditions [N, C] -> the model of as many rows
DataValue = Callable[[Array, Array], Array]  # (conditions [N, C], data [N, D]) -> r [N]
Carry = tuple[Array, Prediction]  # x_t [N, D] and what the model predicts there
NoisyValue = Callable[[Array, Array, Level], Array]  # (conditions [N, C], x_t [N, D], its level) -> v_t [N]


@dataclasses.dataclass
class SoftDecoding:
    """How children are had and chosen. Of T steps the model is asked 1 + M (T - 1) times, of one batch of M after the first.

    Attributes:
        num_children: M, of each chain in each step; 1 is the sampler left alone.
        temperature: α, in units of the values; 0 takes the best, as the authors' code does.
        num_chains: K for each condition; more than one are drawn anew among themselves after each choice (SVDD-R), which tilts
            further, and the best at the end is taken.
        select_below: the diffusion time below which children are chosen among; above it there is one.
    """

    num_children: int = 8
    temperature: float = 0.1
    num_chains: int = 1
    select_below: float = setting(1.0, high=1.0)


def soft_decode(
    model_of: Conditioned,
    value: DataValue,
    levels: Grid,
    solver: Solver,
    key: Key,
    condition: Float[Array, "batch _"],
    dim: int,
    settings: SoftDecoding,
    noisy_value: NoisyValue | None = None,
) -> Float[Array, "chains batch dim"]:
    """Walks the grid by the solver's steps, with a choice among children after each (algorithms 1 and 2).

    Args:
        model_of: the model for some conditions; its prediction for the child that goes on is kept for the next step.
        value: r of data, asked of the children's predicted data.
        solver: without memory, and stochastic: children of a deterministic step are all the same.
        dim: of the data.
        noisy_value: v_t of the noisy children themselves, asked in place of `value`; the model is then asked of one child alone.
    """
    chains, temperature = settings.num_chains, settings.temperature
    start_key, key = jax.random.split(key)
    parents = jnp.tile(condition, (chains, 1))

    def move(carry: Carry, index: int | Array, count: int, to_end: bool = False) -> Carry:
        """One step with `count` children of each chain."""
        x, prediction = carry
        there, step = levels[index + 1], solver.last if to_end else solver.step
        step_key, choice_key = jax.random.split(jax.random.fold_in(key, index))
        rows, above, known = jax.tree.map(lambda each: jnp.tile(each, (count, 1)), (parents, x, prediction))
        x, _ = step(lambda x, level: known, levels.schedule, above, levels[index], there, step_key, ())
        if to_end:
            values = value(rows, x)
        elif noisy_value is None:
            prediction = model_of(rows)(x, there)
            values = value(rows, prediction.x0)
        else:
            values = noisy_value(rows, x, there)
        if count * chains > 1:
            kept = survivors(choice_key, values.reshape(count, chains, -1), temperature).ravel()
            x = x[kept]
            if noisy_value is None and not to_end:
                prediction = jax.tree.map(lambda each: each[kept], prediction)
        if noisy_value is not None and not to_end:
            prediction = model_of(parents)(x, there)
        return x, prediction

    def walk(carry: Carry, first: int, until: int, count: int) -> Carry:
        if until - first > MAX_UNROLLED:
            return jax.lax.scan(lambda carry, index: (move(carry, index, count), None), carry, jnp.arange(first, until))[0]
        for index in range(first, until):
            carry = move(carry, index, count)
        return carry

    x, times = jax.random.normal(start_key, (len(parents), dim)), np.asarray(levels.levels.t)
    until = levels.num_steps - 1 if levels.to_data else levels.num_steps
    free = int(np.sum(times[1 : until + 1] >= settings.select_below))
    first: Level = levels[0]  # pyright: ignore[reportAssignmentType]
    carry = walk((x, model_of(parents)(x, first)), 0, free, 1)
    carry = walk(carry, free, until, settings.num_children)
    if levels.to_data:
        # That step draws nothing in most samplers, and all its children would be one.
        carry = move(carry, until, 1 if solver.last is to_data else settings.num_children, to_end=True)
    return carry[0].reshape(chains, -1, dim)


def survivors(key: Key, values: Float[Array, "children chains batch"], temperature: float | Array) -> Int[Array, "chains batch"]:
    """Which of all children, counted through, go on: one of each chain, then as many as there are chains among these."""

    def chosen(key: Key, values: Array) -> Array:
        greedy = isinstance(temperature, float) and temperature == 0.0
        return jnp.argmax(values, axis=0) if greedy else jax.random.categorical(key, values / temperature, axis=0)

    child_key, chain_key = jax.random.split(key)
    rows, best = jnp.arange(values.size).reshape(values.shape), chosen(child_key, values)[None]
    rows, values = (jnp.take_along_axis(each, best, axis=0)[0] for each in (rows, values))
    if len(rows) == 1:
        return rows
    again = chosen(chain_key, jnp.broadcast_to(values[:, None], (len(values), *values.shape)))
    return jnp.take_along_axis(rows, again, axis=0)
