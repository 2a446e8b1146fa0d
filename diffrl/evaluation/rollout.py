"""Roll out R runs × E episodes: in one compiled program where the environment is one, else on the host in one batch.

Episode e of a run starts from a seed made of (evaluation seed, the run's training seed, e) only, so the score of a run
does not depend on which other runs share its sweep. Action keys are counted (`fold_in` of the step), never carried.

A factory compiles once; the rollout it returns takes the policies as an argument and serves every checkpoint.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffrl.algorithm import Algorithm
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.types import Key, Policy

Progress = Callable[[int], None]  # called with the number of environment steps (of the whole batch) done since the last call

NUM_WATCHED = 3
_ACT, _RESET = 0, 1  # purposes a run's key is split by


class Rollouts(NamedTuple):
    """What R × E episodes gave (numpy).

    Attributes:
        returns: [R, E] float, undiscounted sum of the environment's reward; NaN where the policy chose an action that is
            not finite (a diverged run).
        lengths: [R, E] int, steps until the episode ended.
        successes: [R, E] bool, whether the goal was reached in any step of the episode.
        observations: [R, K, T+1, O] float32, the first K episodes of each run, NaN after their end (K may be 0).
        watched: of the watched episodes, what it takes to show them: their states, a tree of [R, NUM_WATCHED, T+1, ...], from
            a DeviceEnvironment; the actions applied, [R, NUM_WATCHED, T, ...], from HostEnvironments.
    """

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray
    observations: np.ndarray
    watched: Any


@runtime_checkable
class RolloutFn(Protocol):
    """Rolls out policies (leading axis R on every leaf), one training seed per run, from one evaluation seed.

    `watched` names the NUM_WATCHED episodes of each run that can be shown afterwards.
    """

    def __call__(
        self,
        policies: Policy,
        seeds: list[int],
        evaluation_seed: int,
        progress: Progress | None = None,
        watched: Sequence[int] = (0,) * NUM_WATCHED,
    ) -> Rollouts: ...


class _Tally(NamedTuple):
    """Running sums; a finished episode no longer changes them."""

    alive: Any
    returns: Any
    lengths: Any
    successes: Any


def _count(xp: Any, tally: _Tally, reward: Any, terminated: Any, success: Any, finite: Any) -> _Tally:
    # `where`, not a product: what a finished episode returns may be NaN.
    alive = tally.alive
    reward = xp.where(finite, reward, xp.nan)
    return _Tally(
        alive=alive & ~terminated,
        returns=tally.returns + xp.where(alive, reward, 0.0),
        lengths=tally.lengths + alive,
        successes=tally.successes | (alive & success),
    )


def _run_keys(seeds: Array, evaluation_seed: Array) -> Key:
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(evaluation_seed), seed))(seeds)


def _actions(
    algorithm: Algorithm, policy: Policy, carry: Any, observation: Array, run_key: Key, t: Array
) -> tuple[Array, Array, Any]:
    """Actions [E, ...] of one run at step t, which of them are finite [E], and the carry; the others become zeros."""
    action, carry = algorithm.act(policy, carry, observation, jax.random.fold_in(jax.random.fold_in(run_key, _ACT), t))
    finite = jnp.isfinite(action).reshape(len(action), -1).all(axis=-1)
    return jnp.where(finite.reshape(-1, *[1] * (action.ndim - 1)), action, jnp.zeros_like(action)), finite, carry


def _end_with_nan(observations: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Blank what was seen after the end of each recorded episode: [R, K, T+1, O], lengths [R, K]."""
    steps = np.arange(observations.shape[2])
    return np.where((steps <= lengths[:, :, None])[..., None], observations, np.nan).astype(np.float32)


def device_rollout(algorithm: Algorithm, env: DeviceEnvironment, num_episodes: int, num_recorded: int = 0) -> RolloutFn:
    """A rollout that is one compiled program: vmap over runs, scan over steps, vmap over episodes.

    Args:
        algorithm: `act` takes raw observations and returns actions in the environment's units.
        env: one environment as pure functions.
        num_episodes: E.
        num_recorded: K, how many episodes of each run to keep the observations of (at most E).
    """
    num_recorded = min(num_recorded, num_episodes)

    def one_run(policy: Policy, run_key: Key, watched: Array) -> tuple[_Tally, Array, Any]:
        # Which episodes are watched is an argument: the program that shows an episode is the one that scored it.
        def watch(state: Any) -> Any:
            return jax.tree.map(lambda x: x[watched], state)

        reset_key = jax.random.fold_in(run_key, _RESET)
        reset_keys = jax.vmap(lambda episode: jax.random.fold_in(reset_key, episode))(jnp.arange(num_episodes))
        state, observation = jax.vmap(env.reset)(reset_keys)

        def step(loop: tuple, t: Array) -> tuple[tuple, tuple[Array, Any]]:
            state, observation, carry, tally = loop
            action, finite, carry = _actions(algorithm, policy, carry, observation, run_key, t)
            state, result = jax.vmap(env.step)(state, action)
            tally = _count(jnp, tally, result.reward, result.terminated, result.success, finite)
            return (state, result.observation, carry, tally), (result.observation[:num_recorded], watch(state))

        ones = jnp.ones(num_episodes, bool)
        tally = _Tally(ones, jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32), ~ones)
        loop = (state, observation, algorithm.init_carry(policy, num_episodes), tally)
        (*_, tally), later = jax.lax.scan(step, loop, jnp.arange(env.max_episode_steps))
        first = (observation[:num_recorded], watch(state))
        seen, states = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]).swapaxes(0, 1), first, later)
        return tally, seen, states

    @jax.jit
    def program(policies: Policy, seeds: Array, evaluation_seed: Array, watched: Array) -> tuple[_Tally, Array, Any]:
        return jax.vmap(one_run, in_axes=(0, 0, None))(policies, _run_keys(seeds, evaluation_seed), watched)

    def rollout(
        policies: Policy,
        seeds: list[int],
        evaluation_seed: int,
        progress: Progress | None = None,
        watched: Sequence[int] = (0,) * NUM_WATCHED,
    ) -> Rollouts:
        which = np.asarray(watched, np.int32)
        tally, seen, states = jax.device_get(program(policies, np.asarray(seeds, np.uint32), np.uint32(evaluation_seed), which))
        if progress is not None:
            progress(env.max_episode_steps)
        recorded = _end_with_nan(seen, tally.lengths[:, :num_recorded])
        return Rollouts(tally.returns, tally.lengths, tally.successes, recorded, states)

    return rollout


def episode_seeds(seeds: list[int], evaluation_seed: int, num_episodes: int) -> list[int]:
    """R × E seeds for a host simulator, run by run; each depends on its own training seed and episode only."""
    return [
        int(np.random.SeedSequence([evaluation_seed, seed, episode]).generate_state(1)[0] >> 1)
        for seed in seeds
        for episode in range(num_episodes)
    ]


def host_rollout(algorithm: Algorithm, envs: HostEnvironments, num_episodes: int, num_recorded: int = 0) -> RolloutFn:
    """A rollout that steps R × E host environments as one batch, with one compiled `act` for all of them.

    Stops when every episode has ended. Arguments as for `device_rollout`; `envs.num_envs` must be R × E (ValueError).
    """
    num_recorded = min(num_recorded, num_episodes)

    @jax.jit
    def start(policies: Policy, seeds: Array, evaluation_seed: Array) -> tuple[Key, Any]:
        return _run_keys(seeds, evaluation_seed), jax.vmap(lambda policy: algorithm.init_carry(policy, num_episodes))(policies)

    @jax.jit
    def act(policies: Policy, carry: Any, observation: Array, run_keys: Key, t: Array) -> tuple[Array, Array, Any]:
        def one_run(policy: Policy, carry: Any, observation: Array, run_key: Key) -> tuple[Array, Array, Any]:
            return _actions(algorithm, policy, carry, observation, run_key, t)

        return jax.vmap(one_run)(policies, carry, observation, run_keys)

    def rollout(
        policies: Policy,
        seeds: list[int],
        evaluation_seed: int,
        progress: Progress | None = None,
        watched: Sequence[int] = (0,) * NUM_WATCHED,
    ) -> Rollouts:
        shape = (len(seeds), num_episodes)
        if envs.num_envs != shape[0] * shape[1]:
            raise ValueError(f"{shape[0]} runs × {shape[1]} episodes need as many environments, not {envs.num_envs}")
        run_keys, carry = start(policies, np.asarray(seeds, np.uint32), np.uint32(evaluation_seed))
        observation = envs.reset(episode_seeds(seeds, evaluation_seed, num_episodes)).reshape(*shape, -1)
        seen, applied = [observation[:, :num_recorded].copy()], []
        tally = _Tally(np.ones(shape, bool), np.zeros(shape), np.zeros(shape, np.int32), np.zeros(shape, bool))
        for t in range(envs.max_episode_steps):
            action, finite, carry = act(policies, carry, observation, run_keys, np.uint32(t))
            action = np.asarray(action)
            applied.append(action[:, list(watched)])
            result = envs.step(action.reshape(shape[0] * shape[1], *action.shape[2:]))
            reward, terminated, success = (np.reshape(x, shape) for x in (result.reward, result.terminated, result.success))
            tally = _count(np, tally, reward, terminated, success, np.asarray(finite))
            observation = np.reshape(result.observation, (*shape, -1))
            seen.append(observation[:, :num_recorded].copy())
            if progress is not None:
                progress(1)
            if not tally.alive.any():
                break
        recorded = _end_with_nan(np.stack(seen, axis=2), tally.lengths[:, :num_recorded])
        return Rollouts(tally.returns, tally.lengths, tally.successes, recorded, np.stack(applied, axis=2))

    return rollout
