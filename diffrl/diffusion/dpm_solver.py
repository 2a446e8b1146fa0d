"""Exponential integrators of the probability flow, orders 1 to 3: DPM-Solver++ of the predicted data and DPM-Solver of the noise.

With λ = log(α/σ) and h = λ_s - λ_t the ODE's exact solution is x_s = (σ_s/σ_t) x_t + σ_s ∫ e^λ x_0(λ) dλ (Lu et al. 2022,
arXiv 2211.01095); the orders differ in the polynomial they put for x_0. x = α x_0 + σ ε does not tell data from noise: the same
formula with α and σ, x_0 and ε exchanged is DPM-Solver (Lu et al. 2022b, arXiv 2206.00927). Both ends of a step need α > 0 and
σ > 0; the step to the data is first order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.samplers import Memory, Solver, Step, ddim, sample
from diffrl.diffusion.schedules import Level, Schedule, grid, level_at
from diffrl.diffusion.targets import Model, Prediction
from diffrl.types import Key


def dpm_solver(order: int = 2, multistep: bool = True, *, integrand: str = "x0", nodes: str = "log_snr") -> Solver:
    """A step of the given order: one evaluation a step where `multistep`, `order` evaluations otherwise.

    Args:
        integrand: "x0" for DPM-Solver++, which clipped data keep stable; "epsilon" for DPM-Solver.
        nodes: within a step of several evaluations they are spaced equally in λ, "log_snr", or in "time".

    Raises:
        ValueError: an order other than 1, 2, 3, another integrand or another spacing.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if integrand not in ("x0", "epsilon"):
        raise ValueError(f"integrand must be 'x0' or 'epsilon', got {integrand!r}")
    if nodes not in ("log_snr", "time"):
        raise ValueError(f"nodes must be spaced in 'log_snr' or 'time', got {nodes!r}")
    if order == 1:
        return ddim()  # the same step of both: Lu et al. 2022, eq. 9
    if multistep:
        solver = _multistep(order)
    else:
        solver = Solver(_second_order(nodes) if order == 2 else _third_order(nodes))
    return solver if integrand == "x0" else solver._replace(step=_exchanged(solver.step))


def fast(
    schedule: Schedule, num_evaluations: int, t_min: float, order: int = 3, integrand: str = "epsilon"
) -> Callable[[Model, Array], Array]:
    """The singlestep sampler of a given number of evaluations, from t = 1 to `t_min`, all equally spaced in time.

    Steps of the given order, and as much as is left of lower ones: 3, 3, 3, 3, 2, 1 for fifteen of third order
    ("DPM-Solver-fast" of Lu et al. 2022b, appendix D.3, with the times of EDP's code), seven times 2 and 1 of second (QGPO's
    code, of the data). Every evaluation is at its own of the times; the last is where x ends.

    Returns:
        (model, x at t = 1 `[B, …]`) -> x at `t_min`.
    """
    at, spacing, blocks = 0, (1.0 - t_min) / num_evaluations, []
    for of_block, count in _blocks(num_evaluations, order):
        until = at + of_block * count
        levels = grid(schedule, count, t_max=1.0 - at * spacing, t_min=1.0 - until * spacing)
        blocks.append((levels, dpm_solver(of_block, multistep=False, integrand=integrand, nodes="time")))
        at = until
    unused = jax.random.key(0)

    def walk(model: Model, x: Array) -> Array:
        for levels, solver in blocks:
            x = sample(model, levels, solver, unused, x, unroll=levels.num_steps == 1)
        return x

    return walk


def _blocks(num_evaluations: int, order: int) -> list[tuple[int, int]]:
    """(order, number of steps), in order of time; the last step is never of the full order, which errs most there."""
    full, rest = divmod(num_evaluations, order)
    if rest:
        blocks = [(order, full), (rest, 1)]
    else:
        blocks = [(order, full - 1), (order - 1, 1), (1, 1)]
    return [block for block in blocks if block[1]]


def _coefficients(h: Array) -> tuple[Array, Array, Array]:
    """∫₀^h e^(u - h) u^k/k! du for k = 0, 1, 2: what a constant, linear and quadratic x_0(λ) contribute."""
    phi1 = -jnp.expm1(-h)
    phi2 = h - phi1
    return phi1, phi2, h**2 / 2.0 - phi2


def _node(spacing: str, schedule: Schedule, here: Level, there: Level, part: float) -> tuple[Level, Array | float]:
    """The level after so large a part of a step, and the part of h = Δλ that it is."""
    h = there.log_snr - here.log_snr
    if spacing == "log_snr":
        return level_at(schedule, schedule.time(here.log_snr + part * h)), part
    node = level_at(schedule, here.t + part * (there.t - here.t))
    return node, (node.log_snr - here.log_snr) / h


def _second_order(nodes: str) -> Step:
    """One node half way (algorithm 1 with r = 1/2 where the spacing is that of λ)."""

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        h = there.log_snr - here.log_snr
        middle, r = _node(nodes, schedule, here, there, 0.5)
        start = model(x, here).x0
        half = model(middle.sigma / here.sigma * x - middle.alpha * jnp.expm1(-r * h) * start, middle).x0
        mean = start + (half - start) / (2.0 * r)
        return there.sigma / here.sigma * x - there.alpha * jnp.expm1(-h) * mean, memory

    return step


def _third_order(nodes: str) -> Step:
    """Nodes after a third and two thirds, the counterpart for x_0 of DPM-Solver-3 (Lu et al. 2022b, algorithm 4)."""

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        h = there.log_snr - here.log_snr
        (first, r1), (second, r2) = (_node(nodes, schedule, here, there, part) for part in (1.0 / 3.0, 2.0 / 3.0))
        start = model(x, here).x0
        phi1, _, _ = _coefficients(r1 * h)
        slope = (model(first.sigma / here.sigma * x + first.alpha * phi1 * start, first).x0 - start) / (r1 * h)
        phi1, phi2, _ = _coefficients(r2 * h)
        at_second = second.sigma / here.sigma * x + second.alpha * (phi1 * start + phi2 * slope)
        slope = (model(at_second, second).x0 - start) / (r2 * h)
        phi1, phi2, _ = _coefficients(h)
        return there.sigma / here.sigma * x + there.alpha * (phi1 * start + phi2 * slope), memory

    return step


class _Exchanged(NamedTuple):
    """A schedule with data and noise exchanged."""

    schedule: Schedule

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return self.schedule.sigma(t)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return self.schedule.alpha(t)

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return self.schedule.time(-log_snr)


def _exchange(level: Level) -> Level:
    return Level(level.t, level.sigma, level.alpha)


def _exchanged(step: Step) -> Step:
    """The step that does with the noise what this one does with the data."""

    def exchanged(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        def other(x: Array, level: Level) -> Prediction:
            x0, epsilon = model(x, _exchange(level))
            return Prediction(epsilon, x0)

        return step(other, _Exchanged(schedule), x, _exchange(here), _exchange(there), key, memory)

    return exchanged


def _multistep(order: int) -> Solver:
    """Polynomial through the present and the `order` - 1 last predictions (algorithm 2).

    While there are fewer the order is lower, so with 3 the first step bounds the whole at second order in the limit; in practice
    that step, all noise, errs little.
    """

    def init(x: Array) -> Memory:
        return jnp.int32(0), jnp.zeros((order - 1, *x.shape)), jnp.zeros(order - 1)

    def step(
        model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
    ) -> tuple[Array, Memory]:
        count, old_x0, old_log_snr = memory
        h = there.log_snr - here.log_snr
        x0 = model(x, here).x0
        # Newton's divided differences; a point that is not there yet makes its difference zero.
        gap = jnp.where(count > 0, here.log_snr - old_log_snr[0], 1.0)
        slope = jnp.where(count > 0, (x0 - old_x0[0]) / gap, 0.0)
        phi1, phi2, phi3 = _coefficients(h)
        moved = phi1 * x0 + phi2 * slope
        if order == 3:
            old_gap = jnp.where(count > 1, old_log_snr[0] - old_log_snr[1], 1.0)
            old_slope = (old_x0[0] - old_x0[1]) / old_gap
            curvature = jnp.where(count > 1, (slope - old_slope) / (gap + old_gap), 0.0)
            # x_0(u) = x0 + u slope + u (u + gap) curvature.
            moved = moved + (2.0 * phi3 + gap * phi2) * curvature
        x = there.sigma / here.sigma * x + there.alpha * moved
        memory = (
            count + 1,
            jnp.concatenate([x0[None], old_x0[:-1]]),
            jnp.concatenate([here.log_snr[None], old_log_snr[:-1]]),
        )
        return x, memory

    return Solver(step, init=init)
