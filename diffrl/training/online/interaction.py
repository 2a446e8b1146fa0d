"""Iterations of training by interaction, for environments on the device and for simulators on the host.

An iteration is one step of each of a run's environments, the storing of its transitions, and the updates that go with it.
Randomness is counted by iteration: results depend neither on how iterations are cut into chunks nor on which runs share the
program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import Config
from diffrl.data.dataset import Card, Dataset
from diffrl.data.replay import Replay
from diffrl.data.sampling import uniform
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments, Step
from diffrl.training.chunk import advance
from diffrl.training.devices import RUN, SHARED, place
from diffrl.training.loop import ENDED, RETURNS, Programs
from diffrl.training.runs import ONLINE, Runs
from diffrl.types import Key, Metrics, Spec, State, Transition

_RUNS = "runs"  # the mapped axis


@flax.struct.dataclass
class Environments:
    """Where the environments of a run are, `[E, ...]`: what a checkpoint holds beside the State.

    Attributes:
        simulator: its states where it is one on the device, else empty.
        observation: the last, in the environment's own units.
        carry: what the policy remembers.
        time: steps of the episode so far.
        episode_return: of the environment's own reward, so far.
    """

    simulator: Any
    observation: Array
    carry: Any
    time: Array
    episode_return: Array


@flax.struct.dataclass
class RunState:
    """All that changes in a run; `alive` until it diverges."""

    algorithm: State
    environments: Environments
    replay: Replay
    alive: Array


class Interaction(NamedTuple):
    """The parts of an iteration, as functions of one run: what both kinds of environments share.

    Attributes:
        act: (run, key, whether at random) -> (run, actions in the environment's units `[E, A]`, or `[E]` if they are discrete).
        record: (run, actions, Step, simulator's states, start, count) -> (run, metrics). Stores the transitions, and puts new
            episodes in the place of those that ended: `start` maps which did `[E]` to (simulator's states, observations) of new
            ones, of all environments.
        learn: (run, data, key, count) -> (run, metrics); `data` are the rows that come before the buffer's, or None.
    """

    act: Callable[..., tuple[RunState, Array]]
    record: Callable[..., tuple[RunState, Metrics]]
    learn: Callable[..., tuple[RunState, Metrics]]


def empty_replay(stage: Stage, spec: Spec, config: Config) -> Replay:
    """The buffer of a run. It keeps account of episodes where the stage draws its batches itself."""
    envs, sizes = config.online.num_envs, (spec.observation_dim, spec.action_dim)
    return Replay.empty(envs, config.online.buffer_size // envs, *sizes, episodes=stage.batch is not None)


def first_episodes(
    algorithm: Algorithm, env: DeviceEnvironment | None, spec: Spec, num_envs: int, states: State, keys: Array
) -> Environments:
    """Environments of all runs `[R, ...]` at the start of their first episodes; of a host's simulator, blanks to be filled.

    Args:
        states, keys: of all runs, `[R, ...]`.
    """

    def one(state: State, key: Key) -> Environments:
        carry = algorithm.init_carry(algorithm.policy(state), num_envs)
        if env is None:
            simulator, observation = (), jnp.zeros((num_envs, spec.observation_dim))
        else:
            start_key = jax.random.fold_in(jax.random.fold_in(key, ONLINE), ONLINE)
            simulator, observation = jax.vmap(env.reset)(jax.random.split(start_key, num_envs))
        return Environments(simulator, observation, carry, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs))

    return jax.vmap(one)(states, keys)


def interact(
    algorithm: Algorithm, stage: Stage, spec: Spec, card: Card, config: Config, max_episode_steps: int, first_update: int = 0
) -> Interaction:
    """The parts of an iteration for this method.

    Args:
        spec, card: of the units that training sees: what is stored is changed as the rows of a dataset are.
        first_update: updates before the interaction, on data.
    """
    online = config.online
    warmup = online.warmup_steps // online.turn
    explore = algorithm.explore or algorithm.act
    mean, std = jnp.asarray(spec.observation_mean), jnp.asarray(spec.observation_std)
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)

    def act(run: RunState, key: Key, at_random: bool) -> tuple[RunState, Array]:
        envs = run.environments
        if at_random and spec.num_actions:
            return run, jax.random.randint(key, envs.time.shape, 0, spec.num_actions)
        if at_random:
            return run, low + jax.random.uniform(key, (len(envs.time), spec.action_dim)) * (high - low)
        action, carry = explore(algorithm.policy(run.algorithm), envs.carry, envs.observation, key)
        return dataclasses.replace(run, environments=dataclasses.replace(envs, carry=carry)), action

    def as_trained(action: Array) -> Array:
        return jax.nn.one_hot(action, spec.num_actions) if spec.num_actions else 2.0 * (action - low) / (high - low) - 1.0

    def record(
        run: RunState, action: Array, result: Step, simulator: Any, start: Callable[[Array], tuple[Any, Array]], count: Array
    ) -> tuple[RunState, Metrics]:
        envs = run.environments
        terminal = jnp.asarray(result.terminated & ~jnp.asarray(result.truncated), bool)
        timeout = ((envs.time + 1 >= max_episode_steps) | result.terminated) & ~terminal
        ended = terminal | timeout
        transition = Transition(
            observation=(envs.observation - mean) / std,
            action=as_trained(action),
            reward=result.reward * card.reward_scale + card.reward_shift,
            next_observation=(result.observation - mean) / std,
            terminal=terminal,
            timeout=timeout,
        )

        def restarted(new: Array, old: Array) -> Array:
            return jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        fresh_simulator, fresh_observation = start(ended)
        fresh_carry = algorithm.init_carry(algorithm.policy(run.algorithm), len(envs.time))
        total = envs.episode_return + result.reward
        after = Environments(
            simulator=jax.tree.map(restarted, fresh_simulator, simulator),
            observation=restarted(fresh_observation, result.observation),
            carry=jax.tree.map(restarted, fresh_carry, envs.carry),
            time=jnp.where(ended, 0, envs.time + 1),
            episode_return=jnp.where(ended, 0.0, total),
        )
        run = dataclasses.replace(run, environments=after, replay=run.replay.insert(transition, count))
        return run, {RETURNS: jnp.sum(jnp.where(ended, total, 0.0)), ENDED: jnp.sum(ended).astype(jnp.float32)}

    def learn(run: RunState, data: Dataset | None, key: Key, count: Array) -> tuple[RunState, Metrics]:
        rows = run.replay.dataset(count, algorithm.columns, algorithm.lookahead or 1, data, online.offline_share)

        def body(carry: tuple[State, Array], given: tuple[Key, Array]) -> tuple[tuple[State, Array], Metrics]:
            (state, alive), (key, step) = carry, given
            batch_key, update_key = jax.random.split(key)
            batch = (stage.batch or uniform)(rows, batch_key, stage.batch_size)
            state, alive, metrics = advance(stage, state, alive, batch, update_key, step, config.log_norms)
            return (state, alive), metrics

        # As in a chunk over data, updates are counted by the loop: one number for all runs.
        number = (count - 1 - warmup) * online.updates_per_step + jnp.arange(online.updates_per_step, dtype=jnp.int32)
        steps = first_update + number
        keys = jax.random.split(key, online.updates_per_step)
        if online.updates_per_step == 1:
            (state, alive), metrics = body((run.algorithm, run.alive), (keys[0], steps[0]))
        else:
            (state, alive), stacked = jax.lax.scan(body, (run.algorithm, run.alive), (keys, steps))
            metrics = jax.tree.map(jnp.mean, stacked)
        return dataclasses.replace(run, algorithm=state, alive=alive), metrics

    return Interaction(act, record, learn)


def _summary(totals: Metrics, length: Array) -> Metrics:
    """Means from sums, but for those that stay sums (`loop.means`)."""
    return {name: value if name.startswith("_") else value / length for name, value in totals.items()}


def _keys(key: Key, iteration: Array) -> Array:
    """Keys of an iteration: for acting, for new episodes, for learning."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, ONLINE), iteration), 3)


class DeviceLoop:
    """Chunks of iterations as one program: jit (shard_map (vmap over runs (scan over iterations)))."""

    def __init__(self, interaction: Interaction, env: DeviceEnvironment, config: Config, mesh: Mesh) -> None:
        self.interaction, self.env, self.num_envs, self.mesh = interaction, env, config.online.num_envs, mesh
        self.programs = Programs()

    def __call__(
        self, runs: RunState, data: Dataset | None, keys: Array, start: int, length: int, learning: bool
    ) -> tuple[RunState, Metrics]:
        """All runs, `length` iterations further."""
        first = place(np.int32(start), self.mesh, SHARED)
        return self.programs((length, learning), self._chunk, runs, data, keys, first)

    def flops(self, runs: RunState, data: Dataset | None, keys: Array, start: int, length: int, learning: bool) -> float:
        """Arithmetic of an iteration of all runs on a device, by the program of so many."""
        first = place(np.int32(start), self.mesh, SHARED)
        return self.programs.flops((length, learning), self._chunk, runs, data, keys, first)

    def _chunk(self, length: int, learning: bool) -> Any:
        act, record, learn = self.interaction

        def chunk(run: RunState, data: Dataset | None, key: Key, first: Array) -> tuple[RunState, Metrics]:
            def body(run: RunState, iteration: Array) -> tuple[RunState, Metrics]:
                act_key, start_key, learn_key = _keys(key, iteration)
                run, action = act(run, act_key, not learning)
                simulator, result = jax.vmap(self.env.step)(run.environments.simulator, action)

                def start(ended: Array) -> tuple[Any, Array]:
                    # A start may cost hundreds of steps of physics: none is made while no run needs one. The sum over runs makes
                    # the truth one for all, so that `vmap` leaves the branch a branch.
                    needed = jax.lax.psum(jnp.any(ended).astype(jnp.int32), _RUNS) > 0
                    keys = jax.random.split(start_key, self.num_envs)
                    return jax.lax.cond(needed, lambda: jax.vmap(self.env.reset)(keys), lambda: (simulator, result.observation))

                run, metrics = record(run, action, result, simulator, start, iteration)
                if learning:
                    run, learnt = learn(run, data, learn_key, iteration + 1)
                    metrics |= learnt
                return run, metrics

            run, metrics = jax.lax.scan(body, run, first + jnp.arange(length, dtype=jnp.int32))
            return run, _summary(jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics), jnp.float32(length))

        runs = jax.vmap(chunk, in_axes=(0, None, 0, None), axis_name=_RUNS)
        # Unchecked: MJX's loops begin with constants where they go on with what differs between devices.
        specs = (RUN, SHARED, RUN, SHARED)
        mapped = jax.shard_map(runs, mesh=self.mesh, in_specs=specs, out_specs=RUN, check_vma=False)
        return jax.jit(mapped, donate_argnums=0)


class HostLoop:
    """Iterations one by one: a simulator steps on the host, and one compiled call does all else and chooses the next actions."""

    def __init__(
        self, interaction: Interaction, envs: HostEnvironments, config: Config, runs: Runs, size: int, mesh: Mesh
    ) -> None:
        self.interaction, self.envs, self.mesh = interaction, envs, mesh
        self.warmup = config.online.warmup_steps // config.online.turn
        self.shape = (size, config.online.num_envs)
        self.seeds = [*runs.seeds, *runs.seeds[-1:] * (size - runs.size)]
        self.time = np.zeros(self.shape, np.int64)
        self.action: Array | None = None
        self.programs = Programs()
        self.summary = jax.jit(jax.vmap(_summary, in_axes=(0, None)))
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def __call__(
        self, runs: RunState, data: Dataset | None, keys: Array, start: int, length: int, learning: bool
    ) -> tuple[RunState, Metrics]:
        """All runs, `length` iterations further."""
        if self.action is None:
            observation = self.envs.reset(self._episode_seeds(np.ones(self.shape, bool), start)).reshape(*self.shape, -1)
            runs, self.action = self._begin(runs, keys, start, observation)
        totals = None
        for iteration in range(start, start + length):
            action = jax.device_get(self.action)
            step = self.envs.step(action.reshape(-1, *action.shape[2:]))
            step = step._replace(truncated=np.broadcast_to(step.truncated, np.shape(step.terminated)))
            result = jax.tree.map(lambda x: np.reshape(x, (*self.shape, *np.shape(x)[1:])), step)
            self.time += 1
            ended = result.terminated | (self.time >= self.envs.max_episode_steps)
            observation = np.array(result.observation)
            if ended.any():
                observation[ended] = self.envs.reset_some(ended.ravel(), self._episode_seeds(ended, iteration + 1))
                self.time[ended] = 0
            sent = place((result, observation), self.mesh, RUN)
            given = (runs, data, keys, self._count(iteration), self.action, *sent)
            key = (learning, iteration + 1 < self.warmup)
            runs, self.action, metrics = self.programs(key, self._iteration, *given)
            totals = metrics if totals is None else self.add(totals, metrics)
        return runs, self.summary(totals, place(np.float32(length), self.mesh, SHARED))

    def _count(self, iteration: int) -> Array:
        return place(np.int32(iteration), self.mesh, SHARED)

    def _episode_seeds(self, which: np.ndarray, iteration: int) -> list[int]:
        """Of the episodes that begin at an iteration: each depends on its run's seed and its environment alone."""
        return [
            int(np.random.SeedSequence([self.seeds[run], env, iteration]).generate_state(1)[0] >> 1)
            for run, env in np.argwhere(which)
        ]

    def _begin(self, runs: RunState, keys: Array, start: int, observation: np.ndarray) -> tuple[RunState, Array]:
        """First actions in new episodes of all environments."""
        given = (runs, keys, self._count(start), place(observation, self.mesh, RUN))
        return self.programs((start < self.warmup,), self._first_actions, *given)

    def _first_actions(self, at_random: bool) -> Any:
        def begin(run: RunState, key: Key, iteration: Array, observation: Array) -> tuple[RunState, Array]:
            run = dataclasses.replace(run, environments=dataclasses.replace(run.environments, observation=observation))
            return self.interaction.act(run, _keys(key, iteration)[0], at_random)

        return self._mapped(begin, (0, 0, None, 0), (RUN, RUN, SHARED, RUN))

    def _iteration(self, learning: bool, next_at_random: bool) -> Any:
        act, record, learn = self.interaction

        def advance(
            run: RunState, data: Dataset | None, key: Key, iteration: Array, action: Array, result: Step, observation: Array
        ) -> tuple[RunState, Array, Metrics]:
            run, metrics = record(run, action, result, (), lambda ended: ((), observation), iteration)
            if learning:
                run, learnt = learn(run, data, _keys(key, iteration)[2], iteration + 1)
                metrics |= learnt
            run, action = act(run, _keys(key, iteration + 1)[0], next_at_random)
            return run, action, metrics

        axes, specs = (0, None, 0, None, 0, 0, 0), (RUN, SHARED, RUN, SHARED, RUN, RUN, RUN)
        return self._mapped(advance, axes, specs)

    def _mapped(self, function: Callable[..., Any], axes: tuple, specs: tuple) -> Any:
        mapped = jax.shard_map(jax.vmap(function, in_axes=axes), mesh=self.mesh, in_specs=specs, out_specs=RUN)
        return jax.jit(mapped, donate_argnums=0)
