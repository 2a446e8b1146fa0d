"""Zeroth-order planners: they ask for the cost of many plans and for no gradient. Baselines of score-guided planning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffrl.planning.problem import Plan, PlanCost, Planner, Problem, model_cost, shown
from diffrl.types import Key


def cem(
    num_iterations: int = 50,
    num_samples: int = 64,
    num_elites: int = 8,
    deviation: float = 0.5,
    *,
    refit: bool = True,
    bounded: bool = True,
    cost: PlanCost = model_cost,
) -> Planner:
    """The cross-entropy method: draw plans around the mean, move the mean to the best ones.

    Args:
        deviation: of the draws, at the start.
        refit: fit the deviation to the best ones too (Rubinstein & Kroese 2004); False keeps it, as SGP's released baseline does.
        bounded: draws are held in [-1, 1].
        cost: what is minimised.

    Raises:
        ValueError: not 1 ≤ num_elites ≤ num_samples.
    """
    if not 1 <= num_elites <= num_samples:
        raise ValueError(f"num_elites must be 1 … num_samples, got {num_elites} of {num_samples}")

    def update(mean: Array, spread: Array, draws: Array, costs: Array) -> tuple[Array, Array]:
        best = draws[jax.lax.top_k(-costs, num_elites)[1]]
        return jnp.mean(best, axis=0), jnp.std(best, axis=0) if refit else spread

    return _sampled(update, num_iterations, num_samples, deviation, bounded, cost)


def mppi(
    num_iterations: int = 50,
    num_samples: int = 64,
    deviation: float = 0.5,
    temperature: float = 0.1,
    *,
    bounded: bool = True,
    cost: PlanCost = model_cost,
) -> Planner:
    """Model-predictive path integrals: the mean moves to the average of all draws, weighted by e^{-cost/temperature}.

    Williams et al. 2017. Costs are counted in standard deviations of the draws' costs, so one temperature serves all tasks.
    """

    def update(mean: Array, spread: Array, draws: Array, costs: Array) -> tuple[Array, Array]:
        standard = (costs - jnp.min(costs)) / jnp.maximum(jnp.std(costs), 1e-8)
        return jnp.tensordot(jax.nn.softmax(-standard / temperature), draws, axes=1), spread

    return _sampled(update, num_iterations, num_samples, deviation, bounded, cost)


def _sampled(
    update: Callable[[Array, Array, Array, Array], tuple[Array, Array]],
    num_iterations: int,
    num_samples: int,
    deviation: float,
    bounded: bool,
    cost: PlanCost,
) -> Planner:
    """A mean and a spread, moved by `update(mean, spread, draws, costs)`; the mean is the plan."""

    def plan(problem: Problem, start: Array, guess: Array, key: Key) -> Plan:
        def step(carry: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
            mean, spread = carry
            noise = jax.random.normal(jax.random.fold_in(key, index), (num_samples, *guess.shape))
            draws = mean + spread * noise
            draws = jnp.clip(draws, -1.0, 1.0) if bounded else draws
            costs = jax.vmap(lambda actions: cost(problem, start, actions)[0])(draws)
            # What overflows is as bad as can be, and must not spoil an average.
            return update(mean, spread, draws, jnp.where(jnp.isfinite(costs), costs, 1e30)), None

        first = guess, jnp.full(guess.shape, deviation)
        (actions, _), _ = jax.lax.scan(step, first, jnp.arange(num_iterations))
        return shown(problem, start, actions)

    return plan
