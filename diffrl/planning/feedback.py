"""Feedback policies optimised through a model and held to the data by its score (Suh et al. 2023, their policy optimiser).

Gradients of first order go through policy and model; those of zeroth order ask the model for costs alone, the penalty's aside.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from diffrl.planning.gradient import Annealing, Iteration, adam, iterations
from diffrl.planning.problem import Plan, Planner, Problem, log_likelihood, pairs, path_cost, shown
from diffrl.types import Key, Params

PolicyFn = Callable[[Params, Array, Array], Array]  # (parameters, observation [n], step ()) -> action [m]
Starts = Callable[[Key], Array]  # -> observations to start from [B, n]


@dataclasses.dataclass(frozen=True)
class Options(Annealing):
    """How a policy is optimised: as a plan is, and

    Attributes:
        noise: deviation of the Gaussian noise added to the policy's actions.
        order: "first", or "zeroth" for the score-function gradient with the cost without noise as baseline. The gradient of the
            data's likelihood is always of first order.
        max_gradient_norm: per step of the horizon, of one step's whole gradient: the mean over the starts, of cost and
            likelihood together, over all parameters. The released code's place for the norm differs (by 3 % of a step of
            zeroth order); this one keeps the ratio of the two parts.
    """

    noise: float = 0.0
    order: str = "first"
    max_gradient_norm: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown order, or one that needs noise and has none."""
        super().__post_init__()
        if self.order not in ("first", "zeroth"):
            raise ValueError(f"order must be 'first' or 'zeroth', got {self.order!r}")
        if self.order == "zeroth" and self.noise <= 0.0:
            raise ValueError("a gradient of zeroth order needs noise above 0")


def open_loop(params: Float[Array, "horizon action"], observation: Array, step: Int[Array, ""]) -> Float[Array, " action"]:
    """u_t, whatever is observed."""
    del observation
    return params[step]


def affine(params: dict[str, Array], observation: Float[Array, " observation"], step: Int[Array, ""]) -> Float[Array, " action"]:
    """K_t x + μ_t with "gain" `[T, m, n]` and "offset" `[T, m]`."""
    return params["gain"][step] @ observation + params["offset"][step]


def optimize(
    problem: Problem,
    policy: PolicyFn,
    params: Params,
    starts: Starts,
    horizon: int,
    key: Key,
    options: Options,
) -> tuple[Params, Float[Array, " iterations"]]:
    """The policy's parameters after Adam, and the mean cost at each iteration, without the penalty.

    Args:
        starts: draws a batch of observations; a new one each iteration.
        options: with a `bound`, actions are clipped to [-1, 1] before the noise is added.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(options.max_gradient_norm * horizon), adam(options))
    limit = jnp.inf if options.bound == "none" else 1.0

    def path(params: Params, start: Array, noise: Array) -> tuple[Array, Array]:
        """Observations `[T + 1, n]` and actions `[T, m]` under the policy and the noise `[T, m]`."""

        def step(observation: Array, at: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            index, disturbance = at
            action = jnp.clip(policy(params, observation, index), -limit, limit) + disturbance
            following = problem.dynamics(observation, action)
            return following, (following, action)

        _, (following, actions) = jax.lax.scan(step, start, (jnp.arange(horizon), noise))
        return jnp.concatenate([start[None], following]), actions

    def one(params: Params, start: Array, noise: Array, at: Iteration) -> tuple[Array, Array]:
        """(loss, cost) of one start."""
        observations, actions = path(params, start, noise)
        cost = path_cost(problem, observations, actions)
        loss = cost
        if options.order == "zeroth":
            calm = path_cost(problem, *path(params, start, jnp.zeros_like(noise)))
            advantage = jax.lax.stop_gradient(cost - calm) / options.noise**2
            seen = jax.lax.stop_gradient(observations[:-1])
            chosen = jax.vmap(lambda x, t: policy(params, x, t))(seen, jnp.arange(horizon))
            loss = advantage * jnp.sum(chosen * noise)
        if problem.score is not None and options.beta:
            loss = loss - at.weight * log_likelihood(problem.score, pairs(observations, actions), at.level)
        return loss, cost

    def step(carry: tuple[Params, Any], counted: tuple[Array, Iteration]) -> tuple[tuple[Params, Any], Array]:
        (params, opt_state), (index, at) = carry, counted
        start_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
        begin = starts(start_key)
        width = jax.eval_shape(policy, params, begin[0], index).shape[-1]
        noise = options.noise * jax.random.normal(noise_key, (len(begin), horizon, width))

        def loss_fn(params: Params) -> tuple[Array, Array]:
            loss, cost = jax.vmap(one, in_axes=(None, 0, 0, None))(params, begin, noise, at)
            return jnp.mean(loss), jnp.mean(cost)

        gradient, cost = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), cost

    walk = iterations(problem, options)
    (params, _), costs = jax.lax.scan(step, (params, optimizer.init(params)), (jnp.arange(len(walk.level)), walk))
    return params, costs


def feedback(options: Options, num_samples: int = 1) -> Planner:
    """An affine policy around the guess, optimised from one start under `num_samples` draws of the noise; its plan has none."""

    def plan(problem: Problem, start: Array, guess: Array, key: Key) -> Plan:
        params = {"gain": jnp.zeros((*guess.shape, len(start))), "offset": guess}
        begin = jnp.broadcast_to(start, (num_samples, len(start)))
        params, _ = optimize(problem, affine, params, lambda key: begin, len(guess), key, options)
        limit = jnp.inf if options.bound == "none" else 1.0

        def step(observation: Array, index: Array) -> tuple[Array, Array]:
            action = jnp.clip(affine(params, observation, index), -limit, limit)
            return problem.dynamics(observation, action), action

        return shown(problem, start, jax.lax.scan(step, start, jnp.arange(len(guess)))[1])

    return plan
