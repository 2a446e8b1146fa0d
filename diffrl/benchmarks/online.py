"""What a step of training by interaction costs: all runs in one program, against the loop that is usually written.

The baseline is one run whose simulator is stepped on the host, whose buffer is NumPy's, and which makes one compiled call to act
and one to update each step. Its total over runs is the same for any number of them, since they follow one another.
"""

import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.config import Config, ConfigError
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make as environments
from diffrl.envs.protocol import HostEnvironments
from diffrl.registry import make
from diffrl.training.devices import RUN, make_mesh, pad, padded_size, place
from diffrl.training.online.environment import describe, opened, stage_of
from diffrl.training.online.interaction import DeviceLoop, HostLoop, RunState, empty_replay, first_episodes, interact
from diffrl.training.runs import make_runs
from diffrl.training.train import init_states
from diffrl.types import Transition

CHUNK = 100  # iterations per dispatch


class OnlineTime(NamedTuple):
    """Cost of training by interaction.

    Attributes:
        loop: "one program" with the name of its simulator, or "host loop", the baseline.
        runs: trained together.
        steps_per_second, updates_per_second: of all runs.
        ratio: of steps to those of the baseline.
    """

    loop: str
    runs: int
    steps_per_second: float
    updates_per_second: float
    ratio: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.loop,
            str(self.runs),
            f"{self.steps_per_second:,.0f}",
            f"{self.updates_per_second:,.0f}",
            f"{self.ratio:.1f}",
        )


def online(config: Config, run_counts: list[int], seconds: float) -> Iterator[OnlineTime]:
    """The baseline, and one program for each number of runs, timed for about `seconds` each after a first chunk.

    Raises:
        ConfigError: the experiment trains on a dataset.
    """
    if not config.online.env_id:
        raise ConfigError("--online needs an experiment that trains by interaction (online.env_id), such as qsm_dmc")
    baseline = _host_loop(config, seconds)
    yield OnlineTime("host loop", 1, baseline, baseline, 1.0)
    for count in run_counts:
        simulator, steps = _one_program(config, count, seconds)
        updates = steps / config.online.turn * config.online.updates_per_step
        yield OnlineTime(f"one program, {simulator}", count, steps, updates, steps / baseline)


def _one_program(config: Config, count: int, seconds: float) -> tuple[str, float]:
    """Name of the simulator, and environment steps per second of all runs."""
    online = config.online
    config.num_seeds, config.sweep = count, ""
    runs = make_runs(config)
    mesh = make_mesh(runs.size)
    size = padded_size(runs.size, mesh)
    with opened(online, size * online.num_envs) as world:
        envs, spec = world.envs, world.spec
        algorithm = make(config.algorithm, spec, config.action_chunk)
        stage = stage_of(algorithm)
        parts = interact(algorithm, stage, spec, world.card, config, envs.max_episode_steps)
        if isinstance(envs, HostEnvironments):
            loop, env = HostLoop(parts, envs, config, runs, size, mesh), None
        else:
            loop, env = DeviceLoop(parts, envs, config, mesh), envs
        state = init_states(algorithm, runs)
        environments = jax.jit(functools.partial(first_episodes, algorithm, env, spec, online.num_envs))(state, runs.keys)
        replay = jax.vmap(lambda _: empty_replay(stage, spec, config))(jnp.arange(runs.size))
        states = RunState(algorithm=state, environments=environments, replay=replay, alive=jnp.ones(runs.size, bool))
        states, keys = place(pad((states, runs.keys), size), mesh, RUN)
        for done, learning in ((0, False), (CHUNK, True)):  # the first compiles the second's program too
            states, metrics = loop(states, None, keys, done, CHUNK, learning)
        jax.block_until_ready(metrics)
        done, began = 2 * CHUNK, time.perf_counter()
        while time.perf_counter() - began < seconds:
            states, metrics = loop(states, None, keys, done, CHUNK, True)
            jax.block_until_ready(metrics)
            done += CHUNK
        elapsed = time.perf_counter() - began
    return world.backend, count * online.turn * (done - 2 * CHUNK) / elapsed


def _host_loop(config: Config, seconds: float) -> float:
    """Environment steps, and updates, per second of one run."""
    env_spec = env_spec_of(config.online.env_id)
    make_envs = environments.choose("gymnasium", env_spec, None, config.online.action_repeat).host
    assert make_envs is not None
    envs = make_envs(1)
    spec, _ = describe(envs, config.online.env_id, env_spec)
    algorithm = make(config.algorithm, spec, config.action_chunk)
    stage = stage_of(algorithm)
    explore, update = jax.jit(algorithm.explore or algorithm.act), jax.jit(stage.update, donate_argnums=0)
    low, high = np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32)
    capacity, rng = config.online.buffer_size, np.random.default_rng(0)
    observations = np.zeros((2, capacity, spec.observation_dim), np.float32)
    actions, rewards = np.zeros((capacity, spec.action_dim), np.float32), np.zeros(capacity, np.float32)
    terminals = np.zeros(capacity, bool)
    state, key = algorithm.init(jax.random.key(0), algorithm.hparams), jax.random.key(1)
    observation, began, count, first = envs.reset([0]), 0.0, 0, CHUNK
    while count <= first or time.perf_counter() - began < seconds:
        if count == first:  # compiled, and the buffer has something in it
            jax.block_until_ready(state)
            began = time.perf_counter()
        act_key, update_key = jax.random.split(jax.random.fold_in(key, count))
        action = np.asarray(explore(algorithm.policy(state), (), observation, act_key)[0])
        step = envs.step(action)
        at = count % capacity
        observations[:, at] = observation[0], step.observation[0]
        actions[at], rewards[at] = (2.0 * (action - low) / (high - low) - 1.0)[0], step.reward[0]
        terminals[at] = step.terminated[0]
        count += 1
        ended = bool(step.terminated[0]) or count % envs.max_episode_steps == 0
        observation = envs.reset([count]) if ended else step.observation
        index = rng.integers(0, min(count, capacity), stage.batch_size)
        batch = Transition(
            observation=jnp.asarray(observations[0, index]),
            action=jnp.asarray(actions[index]),
            reward=jnp.asarray(rewards[index]),
            next_observation=jnp.asarray(observations[1, index]),
            terminal=jnp.asarray(terminals[index]),
            timeout=jnp.zeros(stage.batch_size, bool),
        )
        state, _ = update(state, batch, update_key)
    jax.block_until_ready(state)
    envs.close()
    return config.online.action_repeat * (count - first) / (time.perf_counter() - began)
