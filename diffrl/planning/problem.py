"""What is planned: a model of the world, a cost, and a likelihood of which only the gradient is known.

Everything here speaks of one start and one plan; `vmap` makes many of it. No reinforcement learning and no network: those are
handed in as functions (Suh et al. 2023, arXiv 2306.14079).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from diffrl.types import Key

Dynamics = Callable[[Array, Array], Array]  # (observation [n], action [m]) -> next observation [n]
Cost = Callable[[Array, Array], Array]  # (observation [n], action [m]) -> ()
FinalCost = Callable[[Array], Array]  # observation [n] -> ()
# (points [T, d], level ()) -> ∇ log p_σ [T, d]; points are (observation, action), or (observation, action, next observation)
Score = Callable[[Array, Array], Array]


def no_final_cost(observation: Array) -> Array:
    return jnp.zeros(observation.shape[:-1])


class Ensemble(NamedTuple):
    """Several models: `dynamics` maps observations `[size, n]`, each member's own, and one action to the next `[size, n]`."""

    size: int
    dynamics: Dynamics


class Problem(NamedTuple):
    """One task of planning.

    Attributes:
        dynamics: the model; not asked by a collocation.
        cost, final_cost: of a step and of the last observation.
        score: of the data, smoothed by noise of `sigmas[level]`.
        sigmas: the noise levels, falling.
        goal: the last observation `[n]` where it is given (a boundary-value problem); None where it is free.
        ensemble: of models, for costs that ask how far they differ.
    """

    dynamics: Dynamics
    cost: Cost
    final_cost: FinalCost = no_final_cost
    score: Score | None = None
    sigmas: tuple[float, ...] = ()
    goal: Array | None = None
    ensemble: Ensemble | None = None


class Plan(NamedTuple):
    """Actions `[T, m]`, the observations that the model expects `[T + 1, n]`, and their cost without any penalty."""

    actions: Float[Array, "horizon action"]
    observations: Float[Array, "steps observation"]
    cost: Float[Array, ""]


@runtime_checkable
class Planner(Protocol):
    """A plan from `start` `[n]`, looked for from `guess` `[T, m]` on."""

    def __call__(
        self, problem: Problem, start: Float[Array, " observation"], guess: Float[Array, "horizon action"], key: Key
    ) -> Plan: ...


def rollout(
    dynamics: Dynamics, start: Float[Array, "*members observation"], actions: Float[Array, "horizon action"]
) -> Float[Array, "steps *members observation"]:
    """Observations `[T + 1, n]` of the model under the actions, the start included; of an ensemble `[T + 1, K, n]`."""

    def step(observation: Array, action: Array) -> tuple[Array, Array]:
        following = dynamics(observation, action)
        return following, following

    return jnp.concatenate([start[None], jax.lax.scan(step, start, actions)[1]])


def path_cost(
    problem: Problem, observations: Float[Array, "steps observation"], actions: Float[Array, "horizon action"]
) -> Float[Array, ""]:
    """Σ_t c(x_t, u_t) + c_T(x_T)."""
    return jnp.sum(jax.vmap(problem.cost)(observations[:-1], actions)) + problem.final_cost(observations[-1])


def shown(problem: Problem, start: Float[Array, " observation"], actions: Float[Array, "horizon action"]) -> Plan:
    """The Plan of these actions by the model."""
    observations = rollout(problem.dynamics, start, actions)
    return Plan(actions, observations, path_cost(problem, observations, actions))


def pairs(
    observations: Float[Array, "steps observation"], actions: Float[Array, "horizon action"]
) -> Float[Array, "horizon pair"]:
    """(x_t, u_t) for t < T."""
    return jnp.concatenate([observations[:-1], actions], axis=-1)


# What a planner over actions minimises: (problem, start [n], actions [T, m]) -> (cost (), observations [T + 1, n])
PlanCost = Callable[[Problem, Array, Array], tuple[Array, Array]]


def model_cost(
    problem: Problem, start: Float[Array, " observation"], actions: Float[Array, "horizon action"]
) -> tuple[Array, Array]:
    """The cost of the actions under the model, and nothing else."""
    observations = rollout(problem.dynamics, start, actions)
    return path_cost(problem, observations, actions), observations


def with_distance(distance: Callable[[Array], Array], beta: float) -> PlanCost:
    """Adds β Σ_t d(x_t, u_t); `distance` maps points `[T, n + m]` to `[T]`, learnt or exact."""

    def cost(problem: Problem, start: Array, actions: Array) -> tuple[Array, Array]:
        total, observations = model_cost(problem, start, actions)
        return total + beta * jnp.sum(distance(pairs(observations, actions))), observations

    return cost


def with_spread(beta: float) -> PlanCost:
    """Mean of the cost over the ensemble's members, each rolled out on its own, plus β times its variance."""

    def cost(problem: Problem, start: Array, actions: Array) -> tuple[Array, Array]:
        if problem.ensemble is None:
            raise ValueError("the spread of a plan's cost needs a problem with an ensemble")
        size, dynamics = problem.ensemble
        observations = rollout(dynamics, jnp.broadcast_to(start, (size, *start.shape)), actions)  # [T + 1, K, n]
        costs = jax.vmap(lambda path: path_cost(problem, path, actions), in_axes=1)(observations)
        return jnp.mean(costs) + beta * jnp.var(costs, ddof=1), jnp.mean(observations, axis=1)

    return cost


def log_likelihood(score: Score, points: Float[Array, "points dim"], level: Int[Array, ""]) -> Float[Array, ""]:
    """A function whose gradient is Σ_t ∇ log p_σ(z_t) and whose value is 0: what is learnt is the gradient alone.

    The score is never differentiated.
    """
    value = jnp.sum(jax.lax.stop_gradient(score(jax.lax.stop_gradient(points), level)) * points)
    return value - jax.lax.stop_gradient(value)
