"""Plans against what comes of them: of tasks with a known cost in open loop, and of any environment in closed loop.

A plan that trusts its models too much promises more than it keeps. The difference is what a likelihood of the data is to close.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffrl import registry
from diffrl.config import algorithm_name
from diffrl.envs import make as environments
from diffrl.envs.control.base import ControlTask
from diffrl.envs.control.registry import from_env_spec
from diffrl.envs.protocol import HostEnvironments
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.evaluation.rollout import episode_seeds
from diffrl.planning.choice import FREE_OBSERVATIONS
from diffrl.planning.problem import Plan, Problem
from diffrl.reports.markdown import table
from diffrl.training.trained import Act, Trained
from diffrl.types import Key, Policy, Spec


class Outcome(NamedTuple):
    """What one way of planning promised and what it kept, `[R]` per run (means over its starts) unless said otherwise.

    Attributes:
        act: the choices, as words.
        promised, kept: costs, without any penalty.
        gap: of an open loop, the largest |plan - truth| over steps and dimensions, in the environment's units; of a closed loop
            the mean |promised - kept|.
        outside: share of the true observations outside the region of the data; NaN where nobody knows it.
        success: share of starts that reached the goal; NaN where there is none.
        seconds: of planning all runs and starts once, compilation excluded.
        plans: how many that were.
        planned, real: observations `[R, S, T + 1, O]` of open loops, in the environment's units; empty for closed ones.
    """

    act: str
    promised: np.ndarray
    kept: np.ndarray
    gap: np.ndarray
    outside: np.ndarray
    success: np.ndarray
    seconds: float
    plans: int
    planned: np.ndarray
    real: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Everything but the paths, which are long."""
        kept = {name: value for name, value in self._asdict().items() if name not in ("planned", "real")}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in kept.items()}


def models_of(trained: Trained, act: Act) -> Any:
    """The method's models with these choices when acting.

    Raises:
        EvaluationError: a method that does not plan, or one whose models are of several actions at a time.
        ConfigError: a choice is unknown or impossible.
    """
    make = trained.method.models
    if make is None:
        planning = ", ".join(name for name, method in registry.REGISTRY.items() if method.models is not None)
        raise EvaluationError(f"{algorithm_name(trained.config)} does not plan; of the methods {planning} does")
    if (chunk := trained.config.action_chunk) > 1:
        raise EvaluationError(f"its models are of {chunk} actions at a time: train with --config.action_chunk=1")
    return make(trained.acting(act).config.algorithm, trained.spec)


def task_of(trained: Trained) -> ControlTask | None:
    """The control task that the data are of; None for other environments."""
    return None if trained.card.env_spec is None else from_env_spec(trained.card.env_spec)


class Units(NamedTuple):
    """The units that models see, turned into those of the environment and back."""

    mean: Array
    std: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, spec: Spec) -> "Units":
        return cls(*map(jnp.asarray, (spec.observation_mean, spec.observation_std, spec.action_low, spec.action_high)))

    def observation(self, seen: Array) -> Array:
        return seen * self.std + self.mean

    def seen(self, observation: Array) -> Array:
        return (observation - self.mean) / self.std

    def action(self, seen: Array) -> Array:
        return self.low + (seen + 1.0) / 2.0 * (self.high - self.low)


def with_cost_of(problem: Problem, task: ControlTask, units: Units) -> Problem:
    """The problem with the task's own cost in place of the learnt reward."""
    return problem._replace(
        cost=lambda x, u: task.cost(units.observation(x), units.action(u)),
        final_cost=lambda x: task.final_cost(units.observation(x)),
    )


def open_loop(trained: Trained, act: Act, *, starts: int = 1, seed: int = 0, to_goal: bool = False) -> Outcome:
    """Plan once from every start with the task's own cost, then do what was planned.

    One compiled program plans all runs and starts.

    Args:
        to_goal: plans end exactly in the task's goal, as planners with free observations can.

    Raises:
        EvaluationError, ConfigError: the data are not of a control task, a choice is impossible, or no plan can end in a goal.
    """
    task = task_of(trained)
    if task is None:
        raise EvaluationError(f"{trained.card.id!r} is no control task, whose cost is known: measure it with --closed_loop")
    models, units = models_of(trained, act), Units.of(trained.spec)
    choice = models.config.act
    if to_goal and (task.goal_observation is None or choice.planner not in FREE_OBSERVATIONS):
        has = "has no single goal" if task.goal_observation is None else f"planner {choice.planner!r} cannot be held to it"
        raise EvaluationError(f"--to_goal: {trained.card.id} {has}; planners that can: {', '.join(FREE_OBSERVATIONS)}")

    def one(policy: Policy, key: Key) -> tuple[Plan, Array, Array, Array, Array]:
        start_key, guess_key, plan_key = jax.random.split(key, 3)
        state, observation = task.reset(start_key)
        guess = choice.guess_mean + choice.guess_scale * jax.random.normal(guess_key, (choice.horizon, task.action_dim))
        problem = with_cost_of(models.problem(policy), task, units)
        if to_goal:
            problem = problem._replace(goal=units.seen(jnp.asarray(task.goal_observation)))
        plan = models.planner(policy)(problem, units.seen(observation), guess, plan_key)
        actions = units.action(plan.actions)
        within = jnp.clip(actions, jnp.asarray(task.action_low), jnp.asarray(task.action_high))

        def follow(state: Any, action: Array) -> tuple[Any, tuple[Array, Array]]:
            state, step = task.step(state, action)
            return state, (step.observation, step.success)

        _, (following, success) = jax.lax.scan(follow, state, within)
        real = jnp.concatenate([observation[None], following])
        cost = jnp.sum(jax.vmap(task.cost)(real[:-1], within)) + task.final_cost(real[-1])
        return plan, real, cost, success[-1], 1.0 - jnp.mean(jax.vmap(task.inside)(real))

    keys = jax.random.split(jax.random.key(seed), starts)
    program = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))
    (plans, real, cost, success, outside), seconds = _timed(program, trained.policies, keys)
    planned = units.observation(plans.observations)
    gap = jnp.max(jnp.abs(planned - real), axis=(2, 3))
    promised, kept, gap, outside, success = (
        np.asarray(jnp.mean(value, axis=1), np.float64) for value in (plans.cost, cost, gap, outside, success)
    )
    return Outcome(
        words(act),
        promised,
        kept,
        gap,
        outside,
        success,
        seconds,
        trained.runs.size * starts,
        np.asarray(planned),
        np.asarray(real),
    )


def _timed(program: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result, and the seconds of the compiled program."""
    compiled = program.lower(*arguments).compile()  # pyright: ignore[reportFunctionMemberAccess]
    began = time.perf_counter()
    result = jax.block_until_ready(compiled(*arguments))
    return result, time.perf_counter() - began


def words(act: Act) -> str:
    return ", ".join(f"{name} {value}" for name, value in act) or "as trained"


class _Stepped:
    """A device environment stepped as host environments are."""

    def __init__(self, env: Any, num_envs: int) -> None:
        self._reset = jax.jit(lambda seeds: jax.vmap(lambda seed: env.reset(jax.random.key(seed)))(seeds))
        self._step = jax.jit(jax.vmap(env.step))
        self.num_envs, self.max_episode_steps = num_envs, env.max_episode_steps
        self.action_low, self.action_high, self.num_actions = env.action_low, env.action_high, env.num_actions
        self._state: Any = None

    def reset(self, seeds: list[int]) -> np.ndarray:
        self._state, observation = self._reset(np.asarray(seeds, np.uint32))
        return np.asarray(observation)

    def reset_some(self, which: np.ndarray, seeds: list[int]) -> np.ndarray:
        fresh, observation = self._reset(np.asarray(seeds, np.uint32))
        index = np.flatnonzero(which)
        self._state = jax.tree.map(lambda old, new: old.at[index].set(new), self._state, fresh)
        return np.asarray(observation)

    def step(self, action: np.ndarray) -> Any:
        self._state, step = self._step(self._state, action)
        return step

    def close(self) -> None: ...


def closed_loop(trained: Trained, act: Act, *, starts: int = 8, steps: int = 50, seed: int = 0, backend: str = "auto") -> Outcome:
    """Act for `steps` steps, planning anew at each, and compare the return that every plan promised with the one that came.

    Of the plan at step t the promise is over the next T steps, and what came are the rewards of those T steps, in which other
    plans acted. Steps whose T following ones are not all there (an episode ended) are left out.

    Raises:
        EvaluationError, ConfigError: the dataset names no environment, a choice is impossible, or all episodes end before the
            horizon.
    """
    if trained.card.env_spec is None:
        raise EvaluationError(f"{trained.card.id!r} names no environment to act in")
    algorithm = trained.acting(act).algorithm
    horizon = models_of(trained, act).config.act.horizon
    runs, shape = trained.runs, (trained.runs.size, starts)
    found = environments.choose(backend, trained.card.env_spec, trained.card.observation_keys, trained.card.action_repeat)
    count = runs.size * starts
    envs: HostEnvironments = _Stepped(found.device, count) if found.host is None else found.host(count)
    steps = min(steps + horizon, envs.max_episode_steps)

    @jax.jit
    def choose(policies: Policy, carry: Any, observation: Array, t: Array) -> tuple[Array, Any]:
        keys = jax.vmap(lambda run: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), run), t))(jnp.arange(runs.size))
        return jax.vmap(algorithm.act)(policies, carry, observation, keys)

    carry = jax.vmap(lambda policy: algorithm.init_carry(policy, starts))(trained.policies)
    observation = envs.reset(episode_seeds(list(runs.seeds), seed, starts)).reshape(*shape, -1)
    alive, rewards, promises, durations = np.ones(shape, bool), [], [], []
    for t in range(steps):
        began = time.perf_counter()
        action, carry = jax.block_until_ready(choose(trained.policies, carry, observation, np.uint32(t)))
        durations.append(time.perf_counter() - began)
        promises.append(np.where(alive, carry["expected_return"], np.nan))
        step = envs.step(np.asarray(action).reshape(shape[0] * shape[1], -1))
        rewards.append(np.where(alive, np.reshape(step.reward, shape), np.nan))
        alive &= ~np.reshape(step.terminated, shape)
        observation = np.reshape(step.observation, (*shape, -1))
        if not alive.any():
            break
    envs.close()
    card = trained.card
    came = np.stack(rewards)
    if len(came) < horizon:
        raise EvaluationError(f"every episode ended within {len(came)} steps, before a plan of {horizon} could be compared")
    windows = np.lib.stride_tricks.sliding_window_view(came, horizon, axis=0).sum(axis=-1)
    promised = (np.stack(promises)[: len(windows)] - horizon * card.reward_shift) / card.reward_scale
    promised = np.where(np.isnan(windows), np.nan, promised)

    def per_run(values: np.ndarray) -> np.ndarray:
        """Mean over what could be compared, `[R]`; NaN for a run where nothing could."""
        there = ~np.isnan(values)
        count = there.sum(axis=(0, 2))
        return np.where(count, np.where(there, values, 0.0).sum(axis=(0, 2)), np.nan) / np.maximum(count, 1)

    gap = per_run(np.abs(promised - windows))
    nothing = np.full(shape[0], np.nan)
    return Outcome(
        words(act),
        -per_run(promised),
        -per_run(windows),
        gap,
        nothing,
        nothing,
        float(np.median(durations[1:] or durations)),
        shape[0] * shape[1],
        np.empty(0),
        np.empty(0),
    )


def to_markdown(outcomes: list[Outcome]) -> str:
    """A row per way of planning: mean ± standard error over runs."""

    def cell(values: np.ndarray, digits: int = 3) -> str:
        if np.isnan(values).all():
            return ""
        error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}g}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits + 1}g}{error}"

    rows = []
    for one in outcomes:
        shares = ["" if np.isnan(v).all() else f"{abs(100 * np.mean(v)):.0f} %" for v in (one.outside, one.success)]
        numbers = [cell(one.promised), cell(one.kept), cell(one.gap), *shares]
        rows.append([one.act, *numbers, f"{1e3 * one.seconds / one.plans:.3g}", str(one.plans)])
    return table(["acting", "promised cost", "true cost", "gap", "outside", "success", "ms per plan", "plans"], rows)
