"""Samplers: from noise to data along a grid of levels, given a model.

The probability-flow ODE of every process here is dx = x_0 dα + ε dσ, with x_0 and ε the model's predictions at x. A solver is
one step of it, or of its stochastic relatives, between two levels; `sample` walks the grid. The model is any function from x
and level to (x_0, ε): a network, or one wrapped by clipping or guidance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.schedules import Grid, Level, Schedule, level_at
from diffrl.diffusion.targets import Model
from diffrl.types import Key

MAX_UNROLLED = 32
Memory = Any  # what a multistep solver keeps of the steps before


@runtime_checkable
class Step(Protocol):
    """From x at level `here` to the less noisy level `there`; the memory is the solver's own."""

    def __call__(
        self, model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]: ...


def to_data(
    model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
) -> tuple[Array, Memory]:
    """The step to σ = 0: the predicted data. What every solver comes to there."""
    del schedule, key
    return there.alpha * model(x, here).x0, memory


class Solver(NamedTuple):
    """A step, the last step where the grid ends in data, and the memory at the start, made from x."""

    step: Step
    last: Step = to_data
    init: Callable[[Array], Memory] = lambda x: ()


def sample(
    model: Model,
    grid: Grid,
    solver: Solver,
    key: Key,
    x: Float[Array, "batch *dims"],
    *,
    unroll: bool | None = None,
    history: bool = False,
) -> Float[Array, "batch *dims"] | Float[Array, "levels batch *dims"]:
    """Walks the grid from x at its first level.

    Args:
        x: the noise to start from; N(0, I) for variance-preserving schedules and flows, σ(1) times that for VE and EDM.
        unroll: write the steps out; at the few steps a policy uses a scan costs more in launches than it saves in code.
            False compiles one step, for many. None unrolls up to `MAX_UNROLLED`.
        history: return every level's x, `[num_steps + 1, B, …]`.

    Fresh noise of step i comes from `fold_in(key, i)`: both forms draw the same.
    """

    # All at once: one call of the generator in place of one for every step.
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(grid.num_steps))

    def step(x: Array, memory: Memory, index: int | Array) -> tuple[Array, Memory]:
        return solver.step(model, grid.schedule, x, grid[index], grid[index + 1], keys[index], memory)

    memory, visited = solver.init(x), [x]
    count = grid.num_steps - 1 if grid.to_data else grid.num_steps
    if count <= MAX_UNROLLED if unroll is None else unroll:
        for index in range(count):
            x, memory = step(x, memory, index)
            visited.append(x)
    else:

        def body(carry: tuple[Array, Memory], index: Array) -> tuple[tuple[Array, Memory], Array | None]:
            x, memory = step(*carry, index)
            return (x, memory), x if history else None

        (x, memory), scanned = jax.lax.scan(body, (x, memory), jnp.arange(count))
        visited.extend([] if scanned is None else list(scanned))
    if grid.to_data:
        x, _ = solver.last(model, grid.schedule, x, grid[count], grid[count + 1], keys[count], memory)
        visited.append(x)
    return jnp.stack(visited) if history else x


def ddim(eta: float = 0.0) -> Solver:
    """DDIM (Song, Meng, Ermon 2021, eq. 12): first order.

    With `eta` = 0 it is Euler's method on dx = x_0 dα + ε dσ, so also Euler's method in t for rectified flow and in σ for EDM;
    with `eta` = 1 the ancestral sampler of DDPM.
    """

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        x0, epsilon = model(x, here)
        if eta == 0.0:  # known when compiling: the deterministic sampler draws nothing
            return there.alpha * x0 + there.sigma * epsilon, memory
        fresh = eta * there.sigma / here.sigma * jnp.sqrt(_added_variance(here, there))
        kept = jnp.sqrt(jnp.maximum(there.sigma**2 - fresh**2, 0.0))
        return there.alpha * x0 + kept * epsilon + fresh * jax.random.normal(key, x.shape), memory

    return Solver(step)


def ancestral(variance: str = "posterior", noise_scale: float = 1.0) -> Solver:
    """DDPM's sampler (Ho et al. 2020, eq. 11): the mean of q(x_s | x_t, x_0), and fresh noise.

    Args:
        variance: "posterior" for that of q(x_s | x_t, x_0), "forward" for that of q(x_t | x_s), β of the step.
        noise_scale: scales the fresh noise alone; 0 follows the means.

    Raises:
        ValueError: another variance.
    """
    if variance not in ("posterior", "forward"):
        raise ValueError(f"variance must be 'posterior' or 'forward', got {variance!r}")

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        x0, epsilon = model(x, here)
        mean = there.alpha * x0 + here.alpha / there.alpha * there.sigma**2 / here.sigma * epsilon
        if noise_scale == 0.0:
            return mean, memory
        shrink = there.sigma / here.sigma if variance == "posterior" else 1.0
        spread = noise_scale * shrink * jnp.sqrt(_added_variance(here, there))
        return mean + spread * jax.random.normal(key, x.shape), memory

    return Solver(step)


def _added_variance(here: Level, there: Level) -> Array:
    """Variance of q(x_t | x_s)."""
    return jnp.maximum(here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2, 0.0)


def heun() -> Solver:
    """The trapezoidal rule on dx = x_0 dα + ε dσ: second order, two evaluations a step.

    For EDM it is Karras et al. 2022, algorithm 1 without churn; for rectified flow Heun's method in t.
    """

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        first = model(x, here)
        second = model(there.alpha * first.x0 + there.sigma * first.epsilon, there)
        x0, epsilon = (first.x0 + second.x0) / 2.0, (first.epsilon + second.epsilon) / 2.0
        return x + (there.alpha - here.alpha) * x0 + (there.sigma - here.sigma) * epsilon, memory

    return Solver(step)


def midpoint() -> Solver:
    """The midpoint rule on dx = x_0 dα + ε dσ, halfway in t: second order, two evaluations a step, none of them at its end."""

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        first, between = model(x, here), level_at(schedule, (here.t + there.t) / 2.0)
        x0, epsilon = model(between.alpha * first.x0 + between.sigma * first.epsilon, between)
        return x + (there.alpha - here.alpha) * x0 + (there.sigma - here.sigma) * epsilon, memory

    return Solver(step)


def still() -> Solver:
    """Stays where it is. Under `langevin` that is Langevin dynamics at the grid's levels (Song & Ermon 2019, algorithm 1)."""
    return Solver(lambda model, schedule, x, here, there, key, memory: (x, memory))


def langevin_step(
    x: Float[Array, "*batch"], score: Float[Array, "*batch"], step_size: Array | float, noise: Float[Array, "*batch"] | float
) -> Float[Array, "*batch"]:
    """x + δ ∇log p + √(2δ) z: with `noise` z ~ N(0, I) it keeps p up to O(δ), with c·z a power of it, p^{1/c²}."""
    return x + step_size * score + jnp.sqrt(2.0 * step_size) * noise


def langevin(solver: Solver, step_size: float = 0.1, num_corrections: int = 1, noise_scale: float = 1.0) -> Solver:
    """Corrects each level by Langevin steps x ← x - δσε + σ√(2δ) z after the solver's own (Song et al. 2021, algorithm 2).

    δ = `step_size` is in units of the level's noise variance: ∇ log p_t = -ε/σ, so it needs no tuning per level. `noise_scale`
    scales z alone; 0 climbs log p_t.
    """

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        x, memory = solver.step(model, schedule, x, here, there, key, memory)
        for index in range(num_corrections):
            score, noise = -model(x, there).epsilon / there.sigma, 0.0
            if noise_scale != 0.0:  # known when compiling: an ascent draws nothing
                noise = noise_scale * jax.random.normal(jax.random.fold_in(key, index + 1), x.shape)
            x = langevin_step(x, score, step_size * there.sigma**2, noise)
        return x, memory

    return solver._replace(step=step)


def boxed(solver: Solver, low: Array | float, high: Array | float) -> Solver:
    """Holds x itself, noise and all, in a box after every step (IDQL's and SWG's code; `clipped` bounds the predicted data)."""

    def wrap(inner: Step) -> Step:
        def step(
            model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
        ) -> tuple[Array, Memory]:
            x, memory = inner(model, schedule, x, here, there, key, memory)
            return jnp.clip(x, low, high), memory

        return step

    return Solver(wrap(solver.step), wrap(solver.last), solver.init)


def polished(solver: Solver, level: Level, count: int) -> Solver:
    """Denoises the result again at this level, so often: what LDCQ's code does with its lowest (Venkatraman et al. 2024).

    It repeats the last step of a discrete process, without noise; the posterior's mean there is the predicted data.
    """

    def last(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        x, memory = solver.last(model, schedule, x, here, there, key, memory)
        for _ in range(count):
            x = model(x, level).x0
        return x, memory

    return solver._replace(last=last)
