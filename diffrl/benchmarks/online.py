"""What a step of training by interaction costs: all runs in one program, against the loop that is usually written.

The baseline is one run whose simulator is stepped on the host, whose buffer is NumPy's, and which makes one compiled call to act
and one to update each step. Its total over runs is the same for any number of them, since they follow one another.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.config import Config, ConfigError
from diffrl.data.env_id import env_spec_of
from diffrl.data.replay import Replay
from diffrl.envs import make as environments
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments
from diffrl.envs.protocol import HostEnvironments
from diffrl.registry import make
from diffrl.training.devices import RUN, make_mesh, pad, padded_size, place
from diffrl.training.online.interaction import DeviceLoop, HostLoop, RunState, init_all, interact
from diffrl.training.online.train import describe, stage_of
from diffrl.training.runs import make_runs
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
        updates = steps / config.online.num_envs * config.online.updates_per_step
        yield OnlineTime(f"one program, {simulator}", count, steps, updates, steps / baseline)


def _one_program(config: Config, count: int, seconds: float) -> tuple[str, float]:
    """Name of the simulator, and environment steps per second of all runs."""
    online = config.online
    config.num_seeds, config.sweep = count, ""
    runs, env_spec = make_runs(config), env_spec_of(online.env_id)
    mesh = make_mesh(runs.size)
    size = padded_size(runs.size, mesh)
    backend = environments.choose(online.backend, env_spec, None)
    envs = backend.device if backend.host is None else backend.host(size * online.num_envs)
    assert envs is not None
    spec, _ = describe(envs, online.env_id, env_spec)
    algorithm = make(config.algorithm, spec, config.action_chunk)
    parts = interact(algorithm, stage_of(algorithm), spec, config, envs.max_episode_steps)
    state, life = init_all(algorithm, backend.device if backend.host is None else None, spec, runs, online.num_envs)
    empty = Replay.empty(online.num_envs, online.buffer_size // online.num_envs, spec.observation_dim, spec.action_dim)
    replay = jax.vmap(lambda _: empty)(jnp.arange(runs.size))
    states = place(pad(RunState(algorithm=state, life=life, replay=replay, alive=jnp.ones(runs.size, bool)), size), mesh, RUN)
    keys = place(pad(runs.keys, size), mesh, RUN)
    loop = (
        HostLoop(parts, envs, config, runs, size, mesh)
        if isinstance(envs, HostEnvironments)
        else DeviceLoop(parts, envs, config, mesh)
    )
    for done, learning in ((0, False), (CHUNK, True)):  # the first compiles the second's program too
        states, metrics = loop(states, keys, done, CHUNK, learning)
    jax.block_until_ready(metrics)
    done, began = 2 * CHUNK, time.perf_counter()
    while time.perf_counter() - began < seconds:
        states, metrics = loop(states, keys, done, CHUNK, True)
        jax.block_until_ready(metrics)
        done += CHUNK
    elapsed = time.perf_counter() - began
    if isinstance(envs, HostEnvironments):
        envs.close()
    return backend.name, count * online.num_envs * (done - 2 * CHUNK) / elapsed


def _host_loop(config: Config, seconds: float) -> float:
    """Environment steps, and updates, per second of one run."""
    env_spec = env_spec_of(config.online.env_id)
    envs = GymnasiumEnvironments(env_spec, None, 1)
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
    return (count - first) / (time.perf_counter() - began)
