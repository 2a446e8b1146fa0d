"""DPM-Solver++: exponential integrators of the data prediction (Lu et al. 2022, arXiv 2211.01095), orders 1 to 3.

With λ = log(α/σ) and h = λ_s - λ_t the ODE's exact solution is x_s = (σ_s/σ_t) x_t + σ_s ∫ e^λ x_0(λ) dλ; the orders differ in
the polynomial they put for x_0. Both ends of a step need α > 0 and σ > 0; the step to the data is first order.
"""

import jax.numpy as jnp
from jax import Array

from diffrl.diffusion.samplers import Memory, Solver, ddim
from diffrl.diffusion.schedules import Level, Schedule, level_at
from diffrl.diffusion.targets import Model
from diffrl.types import Key


def dpm_solver(order: int = 2, multistep: bool = True) -> Solver:
    """A step of the given order: one evaluation a step where `multistep`, `order` evaluations otherwise.

    Raises:
        ValueError: an order other than 1, 2, 3.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    if order == 1:
        return ddim()  # the same step: Lu et al. 2022, eq. 9
    if multistep:
        return _multistep(order)
    return Solver(_second_order if order == 2 else _third_order)


def _coefficients(h: Array) -> tuple[Array, Array, Array]:
    """∫₀^h e^(u - h) u^k/k! du for k = 0, 1, 2: what a constant, linear and quadratic x_0(λ) contribute."""
    phi1 = -jnp.expm1(-h)
    phi2 = h - phi1
    return phi1, phi2, h**2 / 2.0 - phi2


def _second_order(
    model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
) -> tuple[Array, Memory]:
    """Midpoint in λ (algorithm 1 with r = 1/2)."""
    h = there.log_snr - here.log_snr
    middle = level_at(schedule, schedule.time(here.log_snr + h / 2.0))
    start = model(x, here).x0
    half = model(middle.sigma / here.sigma * x - middle.alpha * jnp.expm1(-h / 2.0) * start, middle).x0
    return there.sigma / here.sigma * x - there.alpha * jnp.expm1(-h) * half, memory


def _third_order(
    model: Model, schedule: Schedule, x: Array, here: Level, there: Level, key: Key, memory: Memory
) -> tuple[Array, Memory]:
    """Nodes at a third and two thirds of the step, the counterpart for x_0 of DPM-Solver-3 (Lu et al. 2022b, algorithm 4)."""
    h = there.log_snr - here.log_snr
    first, second = (level_at(schedule, schedule.time(here.log_snr + part * h)) for part in (1.0 / 3.0, 2.0 / 3.0))
    start = model(x, here).x0
    phi1, _, _ = _coefficients(h / 3.0)
    change = model(first.sigma / here.sigma * x + first.alpha * phi1 * start, first).x0 - start
    phi1, phi2, _ = _coefficients(2.0 * h / 3.0)
    slope = 3.0 * change / h
    at_second = second.sigma / here.sigma * x + second.alpha * (phi1 * start + phi2 * slope)
    slope = 1.5 * (model(at_second, second).x0 - start) / h
    phi1, phi2, _ = _coefficients(h)
    return there.sigma / here.sigma * x + there.alpha * (phi1 * start + phi2 * slope), memory


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
