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
from diffrl.data.replay import Replay
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.training.chunk import freeze
from diffrl.training.devices import RUN, SHARED, place
from diffrl.training.runs import INIT, ONLINE, Runs
from diffrl.types import Key, Metrics, Spec, State, Transition

_RUNS = "runs"  # the mapped axis


@flax.struct.dataclass
class Life:
    """Where the environments of a run are, `[E, ...]`: what a checkpoint holds beside the State.

    `env` is the simulator's state where it is one on the device, else empty. `time` counts the steps of an episode.
    """

    env: Any
    observation: Array
    carry: Any
    time: Array
    episode_return: Array


@flax.struct.dataclass
class RunState:
    """All that changes in a run; `alive` until it diverges."""

    algorithm: State
    life: Life
    replay: Replay
    alive: Array


class Interaction(NamedTuple):
    """The parts of an iteration, as functions of one run: what both kinds of environments share.

    Attributes:
        act: (run, key, whether at random) -> (run, actions `[E, A]` in the environment's units).
        record: (run, actions, Step, environment state, begin, count) -> (run, metrics); stores the transitions and begins new
            episodes where old ones ended. `begin` maps which did `[E]` to (environment states, observations) of new ones.
        learn: (run, key, count) -> (run, metrics).
    """

    act: Callable[..., tuple[RunState, Array]]
    record: Callable[..., tuple[RunState, Metrics]]
    learn: Callable[..., tuple[RunState, Metrics]]


def init_all(algorithm: Algorithm, env: DeviceEnvironment | None, spec: Spec, runs: Runs, num_envs: int) -> tuple[State, Life]:
    """Fresh State and Life of all runs."""

    def one(key: Key, hparams: Any) -> tuple[State, Life]:
        state = algorithm.init(jax.random.fold_in(key, INIT), hparams)
        carry = algorithm.init_carry(algorithm.policy(state), num_envs)
        if env is None:
            env_state, observation = (), jnp.zeros((num_envs, spec.observation_dim))
        else:
            begin_key = jax.random.fold_in(jax.random.fold_in(key, ONLINE), ONLINE)
            env_state, observation = jax.vmap(env.reset)(jax.random.split(begin_key, num_envs))
        return state, Life(env_state, observation, carry, jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs))

    return jax.jit(jax.vmap(one))(runs.keys, runs.hparams)


def interact(algorithm: Algorithm, stage: Stage, spec: Spec, config: Config, max_episode_steps: int) -> Interaction:
    """The parts of an iteration for this method."""
    online = config.online
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)
    warmup = online.warmup_steps // online.num_envs
    explore = algorithm.explore or algorithm.act

    def act(run: RunState, key: Key, at_random: bool) -> tuple[RunState, Array]:
        life = run.life
        if at_random:
            return run, low + jax.random.uniform(key, (len(life.time), spec.action_dim)) * (high - low)
        action, carry = explore(algorithm.policy(run.algorithm), life.carry, life.observation, key)
        return dataclasses.replace(run, life=dataclasses.replace(life, carry=carry)), action

    def record(
        run: RunState, action: Array, result: Any, env_state: Any, begin: Callable[[Array], tuple[Any, Array]], count: Array
    ) -> tuple[RunState, Metrics]:
        life = run.life
        terminal = jnp.asarray(result.terminated & ~jnp.asarray(result.truncated), bool)
        timeout = ((life.time + 1 >= max_episode_steps) | result.terminated) & ~terminal
        ended = terminal | timeout
        transition = Transition(
            observation=life.observation,
            action=2.0 * (action - low) / (high - low) - 1.0,
            reward=result.reward,
            next_observation=result.observation,
            terminal=terminal,
            timeout=timeout,
        )
        fresh_carry = algorithm.init_carry(algorithm.policy(run.algorithm), len(life.time))

        def renew(new: Array, old: Array) -> Array:
            return jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        begun_env, begun_observation = begin(ended)
        total = life.episode_return + result.reward
        after = Life(
            env=jax.tree.map(renew, begun_env, env_state),
            observation=renew(begun_observation, result.observation),
            carry=jax.tree.map(renew, fresh_carry, life.carry),
            time=jnp.where(ended, 0, life.time + 1),
            episode_return=jnp.where(ended, 0.0, total),
        )
        run = dataclasses.replace(run, life=after, replay=run.replay.insert(transition, count))
        return run, {"_returns": jnp.sum(jnp.where(ended, total, 0.0)), "_ended": jnp.sum(ended).astype(jnp.float32)}

    def learn(run: RunState, key: Key, count: Array) -> tuple[RunState, Metrics]:
        def body(carry: tuple[State, Array], given: tuple[Key, Array]) -> tuple[tuple[State, Array], Metrics]:
            (state, alive), (key, step) = carry, given
            batch_key, update_key = jax.random.split(key)
            batch = run.replay.draw(batch_key, count, stage.batch_size, algorithm.columns, algorithm.lookahead or 1)
            counted = dataclasses.replace(state, step=step)
            after, metrics = stage.update(counted, batch, update_key)
            after, alive, finite = freeze(after, counted, alive, metrics)
            return (dataclasses.replace(after, step=state.step + 1), alive), metrics | {"finite": finite}

        # As in a chunk over data, updates are counted by the loop: one number for all runs.
        steps = (count - 1 - warmup) * online.updates_per_step + jnp.arange(online.updates_per_step, dtype=jnp.int32)
        keys = jax.random.split(key, online.updates_per_step)
        if online.updates_per_step == 1:
            (state, alive), metrics = body((run.algorithm, run.alive), (keys[0], steps[0]))
        else:
            (state, alive), stacked = jax.lax.scan(body, (run.algorithm, run.alive), (keys, steps))
            metrics = jax.tree.map(jnp.mean, stacked)
        return dataclasses.replace(run, algorithm=state, alive=alive), metrics

    return Interaction(act, record, learn)


def _summary(totals: Metrics, length: int) -> Metrics:
    """Means of a chunk from its sums; the return is of the episodes that ended in it, NaN where none did."""
    metrics = {name: value / length for name, value in totals.items() if not name.startswith("_")}
    ended = totals["_ended"]
    metrics["episode_return"] = jnp.where(ended > 0, totals["_returns"] / jnp.maximum(ended, 1.0), jnp.nan)
    return metrics


def _keys(key: Key, iteration: Array) -> Array:
    """Keys of an iteration: for acting, for new episodes, for learning."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, ONLINE), iteration), 3)


class DeviceLoop:
    """Chunks of iterations as one program: jit (shard_map (vmap over runs (scan over iterations)))."""

    def __init__(self, interaction: Interaction, env: DeviceEnvironment, config: Config, mesh: Mesh) -> None:
        self.interaction, self.env, self.num_envs, self.mesh = interaction, env, config.online.num_envs, mesh
        self.programs: dict[tuple[int, bool], Any] = {}

    def __call__(self, runs: RunState, keys: Array, start: int, length: int, learning: bool) -> tuple[RunState, Metrics]:
        """All runs, `length` iterations further."""
        first = place(np.int32(start), self.mesh, SHARED)
        if (length, learning) not in self.programs:
            self.programs[length, learning] = self._chunk(length, learning).lower(runs, keys, first).compile()
        return self.programs[length, learning](runs, keys, first)

    def _chunk(self, length: int, learning: bool) -> Any:
        act, record, learn = self.interaction

        def chunk(run: RunState, key: Key, start: Array) -> tuple[RunState, Metrics]:
            def body(run: RunState, iteration: Array) -> tuple[RunState, Metrics]:
                act_key, begin_key, learn_key = _keys(key, iteration)
                run, action = act(run, act_key, not learning)
                env_state, result = jax.vmap(self.env.step)(run.life.env, action)

                def begin(ended: Array) -> tuple[Any, Array]:
                    # A start may cost hundreds of steps of physics: none is made while no run needs one. The sum over runs makes
                    # the truth one for all, so that `vmap` leaves the branch a branch.
                    needed = jax.lax.psum(jnp.any(ended).astype(jnp.int32), _RUNS) > 0
                    starts = jax.random.split(begin_key, self.num_envs)
                    return jax.lax.cond(needed, lambda: jax.vmap(self.env.reset)(starts), lambda: (env_state, result.observation))

                run, metrics = record(run, action, result, env_state, begin, iteration)
                if learning:
                    run, learnt = learn(run, learn_key, iteration + 1)
                    metrics |= learnt
                return run, metrics

            run, metrics = jax.lax.scan(body, run, start + jnp.arange(length, dtype=jnp.int32))
            return run, _summary(jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics), length)

        runs = jax.vmap(chunk, in_axes=(0, 0, None), axis_name=_RUNS)
        # Unchecked: MJX's loops begin with constants where they go on with what differs between devices.
        mapped = jax.shard_map(runs, mesh=self.mesh, in_specs=(RUN, RUN, SHARED), out_specs=RUN, check_vma=False)
        return jax.jit(mapped, donate_argnums=0)


class HostLoop:
    """Iterations one by one: a simulator steps on the host, and one compiled call does all else and chooses the next actions."""

    def __init__(
        self, interaction: Interaction, envs: HostEnvironments, config: Config, runs: Runs, size: int, mesh: Mesh
    ) -> None:
        self.interaction, self.envs, self.mesh = interaction, envs, mesh
        self.warmup = config.online.warmup_steps // config.online.num_envs
        self.shape = (size, config.online.num_envs)
        self.seeds = [*runs.seeds, *runs.seeds[-1:] * (size - runs.size)]
        self.time = np.zeros(self.shape, np.int64)
        self.action: Array | None = None
        self.programs: dict[tuple[bool, bool], Any] = {}
        self.summary = jax.jit(jax.vmap(_summary, in_axes=(0, None)))
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def __call__(self, runs: RunState, keys: Array, start: int, length: int, learning: bool) -> tuple[RunState, Metrics]:
        """All runs, `length` iterations further."""
        if self.action is None:
            observation = self.envs.reset(self._episode_seeds(np.ones(self.shape, bool), start)).reshape(*self.shape, -1)
            begun = place(jnp.asarray(observation), self.mesh, RUN)
            runs, self.action = self._begin(start < self.warmup)(runs, keys, self._count(start), begun)
        totals = None
        for iteration in range(start, start + length):
            step = self.envs.step(np.asarray(self.action).reshape(self.shape[0] * self.shape[1], -1))
            step = step._replace(truncated=np.broadcast_to(step.truncated, np.shape(step.terminated)))
            result = jax.tree.map(lambda x: np.reshape(x, (*self.shape, *np.shape(x)[1:])), step)
            self.time += 1
            ended = result.terminated | (self.time >= self.envs.max_episode_steps)
            begun = np.array(result.observation)
            if ended.any():
                begun[ended] = self.envs.reset_some(ended.ravel(), self._episode_seeds(ended, iteration + 1))
                self.time[ended] = 0
            sent = place(jax.tree.map(jnp.asarray, (result, begun)), self.mesh, RUN)
            program = self._program(learning, iteration + 1 < self.warmup)
            runs, self.action, metrics = program(runs, keys, self._count(iteration), self.action, *sent)
            totals = metrics if totals is None else self.add(totals, metrics)
        return runs, self.summary(totals, length)

    def _count(self, iteration: int) -> Array:
        return place(np.int32(iteration), self.mesh, SHARED)

    def _episode_seeds(self, which: np.ndarray, iteration: int) -> list[int]:
        """Of the episodes that begin at an iteration: each depends on its run's seed and its environment alone."""
        return [
            int(np.random.SeedSequence([self.seeds[run], env, iteration]).generate_state(1)[0] >> 1)
            for run, env in np.argwhere(which)
        ]

    def _begin(self, at_random: bool) -> Any:
        def begin(run: RunState, key: Key, iteration: Array, observation: Array) -> tuple[RunState, Array]:
            life = dataclasses.replace(run.life, observation=observation)
            nothing = jnp.zeros_like(life.time)
            life = dataclasses.replace(life, time=nothing, episode_return=nothing.astype(jnp.float32))
            return self.interaction.act(dataclasses.replace(run, life=life), _keys(key, iteration)[0], at_random)

        return self._mapped(begin, (0, 0, None, 0), (RUN, RUN, SHARED, RUN))

    def _program(self, learning: bool, next_at_random: bool) -> Any:
        if (learning, next_at_random) not in self.programs:
            act, record, learn = self.interaction

            def advance(
                run: RunState, key: Key, iteration: Array, action: Array, result: Any, begun: Array
            ) -> tuple[RunState, Array, Metrics]:
                run, metrics = record(run, action, result, (), lambda ended: ((), begun), iteration)
                if learning:
                    run, learnt = learn(run, _keys(key, iteration)[2], iteration + 1)
                    metrics |= learnt
                run, action = act(run, _keys(key, iteration + 1)[0], next_at_random)
                return run, action, metrics

            axes, specs = (0, 0, None, 0, 0, 0), (RUN, RUN, SHARED, RUN, RUN, RUN)
            self.programs[learning, next_at_random] = self._mapped(advance, axes, specs)
        return self.programs[learning, next_at_random]

    def _mapped(self, function: Callable[..., Any], axes: tuple, specs: tuple) -> Any:
        mapped = jax.shard_map(jax.vmap(function, in_axes=axes), mesh=self.mesh, in_specs=specs, out_specs=RUN)
        return jax.jit(mapped, donate_argnums=0)
