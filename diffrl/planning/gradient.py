"""First-order planners: Adam on the cost minus β log p of the plan under the data, while the noise level falls.

Single shooting, direct transcription and collocation differ in what is free and in who says what follows: the model exactly, the
model softly, or the data's own transitions (Suh et al. 2023; objectives and annealing as in their code).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from diffrl.planning.problem import Plan, PlanCost, Planner, Problem, log_likelihood, model_cost, pairs, path_cost, shown
from diffrl.types import Key

Weighting = Literal["logp", "dist"]
Variables = dict[str, Array]  # what a plan leaves free: "actions" [T, m], and "observations" where there is no exact model
Bound = Literal["none", "project", "tanh"]
LearningRate = Literal["constant", "cosine"]


@dataclasses.dataclass(frozen=True)
class Annealing:
    """How a plan is improved.

    Attributes:
        num_iterations: K; the levels walk down over K iterations, of which K - 1 change the plan.
        learning_rate: of Adam.
        learning_rate_schedule: "constant", or "cosine" to 0 over the iterations.
        beta: β of the data's likelihood.
        beta_min: where β falls to, along a cosine; None keeps it.
        weighting: "logp" subtracts β log p_σ, whose pull grows as 1/σ²; "dist" adds β times the smoothed squared distance, that
            is β σ² of it. β of one is not β of the other.
        bound: of actions to [-1, 1]: "none", "project" after each step, or "tanh" of the variables.
    """

    num_iterations: int = 50
    learning_rate: float = 0.1
    learning_rate_schedule: LearningRate = "constant"
    beta: float = 0.0
    beta_min: float | None = None
    weighting: Weighting = "logp"
    bound: Bound = "none"

    def __post_init__(self) -> None:
        """Raises ValueError for fewer than one iteration."""
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {self.num_iterations}")


class Iteration(NamedTuple):
    """Of iteration k: the noise level's index, and what multiplies -log p."""

    level: Array
    weight: Array


def level_indices(num_levels: int, num_iterations: int) -> Int[np.ndarray, " iterations"]:
    """round(S k/(K + 1) - ½) for k = 0 … K - 1, halves to even: each level for about K/S iterations."""
    k = np.arange(num_iterations)
    return np.clip(np.round(num_levels * k / (num_iterations + 1) - 0.5), 0, max(num_levels - 1, 0)).astype(np.int32)


def betas(options: Annealing) -> Float[np.ndarray, " iterations"]:
    """β of each iteration."""
    end = options.beta if options.beta_min is None else options.beta_min
    share = np.arange(options.num_iterations) / max(options.num_iterations - 1, 1)
    return (options.beta - end) * 0.5 * (1.0 + np.cos(math.pi * share)) + end


def iterations(problem: Problem, options: Annealing) -> Iteration:
    """All K - 1 iterations that change something, stacked."""
    level, weight = level_indices(len(problem.sigmas), options.num_iterations), betas(options)
    if options.weighting == "dist" and problem.sigmas:
        weight = weight * np.asarray(problem.sigmas)[level] ** 2
    # K iterations in all, of which the last changes nothing: one update less, as released.
    return Iteration(jnp.asarray(level[:-1]), jnp.asarray(weight[:-1], jnp.float32))


def adam(options: Annealing) -> optax.GradientTransformation:
    """With the learning rate's schedule."""
    rate: float | optax.Schedule = options.learning_rate
    if options.learning_rate_schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, max(options.num_iterations - 1, 1))
    return optax.adam(rate)


def _descend(
    loss: Callable[[Variables, Array, Array], Array], variables: Variables, problem: Problem, options: Annealing
) -> Variables:
    """Adam on the variables; `loss(variables, level, weight)`."""
    optimizer = adam(options)

    def step(carry: tuple[Variables, optax.OptState], at: Iteration) -> tuple[tuple[Variables, optax.OptState], None]:
        variables, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(variables, *at), opt_state)
        variables: Variables = optax.apply_updates(variables, updates)  # pyright: ignore[reportAssignmentType]
        if options.bound == "project":
            variables = variables | {"actions": jnp.clip(variables["actions"], -1.0, 1.0)}
        return (variables, opt_state), None

    (variables, _), _ = jax.lax.scan(step, (variables, optimizer.init(variables)), iterations(problem, options))
    return variables


def _free(guess: Array, options: Annealing) -> Array:
    """Variables of a guess: tanh's inverse where it bounds."""
    return jnp.arctanh(jnp.clip(guess, -0.999, 0.999)) if options.bound == "tanh" else guess


def _actions(variables: Array, options: Annealing) -> Array:
    return jnp.tanh(variables) if options.bound == "tanh" else variables


def _penalty(problem: Problem, options: Annealing, points: Array, level: Array, weight: Array) -> Array:
    if problem.score is None or (options.beta == 0.0 and not options.beta_min):
        return jnp.zeros(())
    return -weight * log_likelihood(problem.score, points, level)


def shooting(options: Annealing, cost: PlanCost = model_cost) -> Planner:
    """Actions are free and the model says what follows: minimises `cost` - β Σ log p_σ(x_t, u_t).

    With another cost and β = 0 these are the first-order baselines: `with_spread`, `with_distance`.
    """

    def plan(problem: Problem, start: Array, guess: Array, key: Key) -> Plan:
        del key

        def loss(variables: Variables, level: Array, weight: Array) -> Array:
            actions = _actions(variables["actions"], options)
            total, observations = cost(problem, start, actions)
            return total + _penalty(problem, options, pairs(observations, actions), level, weight)

        variables = _descend(loss, {"actions": _free(guess, options)}, problem, options)
        return shown(problem, start, _actions(variables["actions"], options))

    return plan


def first_observations(problem: Problem, start: Array, horizon: int) -> Array:
    """The free observations of the first guess: standing still `[T, n]`, or the way to the goal `[T - 1, n]`.

    As released, the free ones themselves run evenly from the start to the goal: the first is the start again, the last the goal.
    Its noise on them is left out, so that a guess is one of actions alone.
    """
    if problem.goal is None:
        return jnp.broadcast_to(start, (horizon, len(start)))
    share = jnp.linspace(0.0, 1.0, horizon - 1)[:, None]
    return (1.0 - share) * start + share * problem.goal


def _between(problem: Problem, start: Array, inner: Array) -> Array:
    """All observations of a plan: the start, the free ones, the goal where it is given."""
    ends = [] if problem.goal is None else [problem.goal[None]]
    return jnp.concatenate([start[None], inner, *ends])


def _transcribed(
    options: Annealing, defect: Callable[[Problem, Array, Array], Array], points: Callable[[Array, Array], Array]
) -> Planner:
    def plan(problem: Problem, start: Array, guess: Array, key: Key) -> Plan:
        del key
        inner = first_observations(problem, start, len(guess))

        def loss(variables: Variables, level: Array, weight: Array) -> Array:
            actions = _actions(variables["actions"], options)
            observations = _between(problem, start, variables["observations"])
            cost = path_cost(problem, observations, actions) + defect(problem, observations, actions)
            return cost + _penalty(problem, options, points(observations, actions), level, weight)

        variables = _descend(loss, {"actions": _free(guess, options), "observations": inner}, problem, options)
        actions = _actions(variables["actions"], options)
        observations = _between(problem, start, variables["observations"])
        return Plan(actions, observations, path_cost(problem, observations, actions))

    return plan


def transcription(
    options: Annealing, defect_weight: float = 100.0, observation_scale: Float[Array, " observation"] | float = 1.0
) -> Planner:
    """Observations and actions are free; the model holds softly: `defect_weight` Σ_j (f(x, u) - x')_j² / `observation_scale`_j.

    Of the last observation the score says nothing.
    """

    def defect(problem: Problem, observations: Array, actions: Array) -> Array:
        error = jax.vmap(problem.dynamics)(observations[:-1], actions) - observations[1:]
        return defect_weight * jnp.sum(error**2 / observation_scale)

    return _transcribed(options, defect, pairs)


def collocation(options: Annealing) -> Planner:
    """Observations and actions are free and there is no model: the score is of (x, u, x'), and holds data and dynamics."""

    def defect(problem: Problem, observations: Array, actions: Array) -> Array:
        del problem, observations, actions
        return jnp.zeros(())

    def points(observations: Array, actions: Array) -> Array:
        return jnp.concatenate([pairs(observations, actions), observations[1:]], axis=-1)

    return _transcribed(options, defect, points)
