"""Environment steps per second of every simulator, with a policy that chooses every action, as an evaluation has."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffrl import records
from diffrl.envs import env_spec, make
from diffrl.envs.gymnasium_backend import BackendError, make_env
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.envs.quiet import quiet_imports

HIDDEN_DIM = 256
STEPS_PER_EPISODE = 100  # then all start again, so that what is timed is motion


class EnvTime(NamedTuple):
    """Steps per second of all environments together, policy included."""

    task: str
    backend: str
    envs: int
    steps_per_second: float

    def cells(self) -> tuple[str, ...]:
        return self.task, self.backend, str(self.envs), f"{self.steps_per_second:,.0f}"


def environments(specs: dict[str, str], counts: list[int], seconds: float, mjx: bool) -> Iterator[EnvTime]:
    """Time each task on each simulator that has it, for each number of environments.

    Episodes do not end early: tasks that end when a robot falls are told not to.

    Args:
        specs: name and `lasting_spec` of each task.
        counts: numbers of environments.
        seconds: timed per line.
        mjx: also MJX, which compiles for 10 to 40 s per line on a CPU.

    Raises:
        BackendError: a task cannot be made.
    """
    for task, spec in specs.items():
        action_dim = _action_dim(spec)
        for name in make.BACKENDS[1:]:
            if name == "mjx" and not mjx:
                continue
            try:
                backend = make.choose(name, spec, None)
            except BackendError:
                continue  # it has no such task
            for count in counts:
                if backend.device is not None:
                    rate = _device_rate(backend.device, count, action_dim, seconds)
                else:
                    assert backend.host is not None
                    envs = backend.host(count)
                    rate = _host_rate(envs, action_dim, seconds)
                    envs.close()
                yield EnvTime(task, name, count, rate)


def lasting_spec(task: str) -> str:
    """The EnvSpec of a task that gymnasium or gymnasium-robotics registers, without the end that falling brings.

    Raises:
        BackendError: it is not registered, or gymnasium is missing.
    """
    try:
        import gymnasium

        with quiet_imports():
            if task.startswith("PointMaze"):
                import gymnasium_robotics

                gymnasium.register_envs(gymnasium_robotics)
        spec = env_spec.read(gymnasium.spec(task).to_json())
    except ImportError as error:
        raise BackendError(f"{task} needs {error.name}: pip install 'diffrl[envs]', or measure none with --tasks=") from error
    except gymnasium.error.Error as error:
        raise BackendError(f"--tasks: {error}") from error
    if task.startswith(("Hopper", "Walker2d")):
        spec["kwargs"]["terminate_when_unhealthy"] = False
    return records.foreign_text(spec)


def _action_dim(spec: str) -> int:
    env = make_env(spec)
    env.close()
    return int(np.prod(env.action_space.shape))


def _policy(observation_dim: int, action_dim: int) -> Callable[[Array], Array]:
    """A fixed MLP of two hidden layers."""
    sizes = (observation_dim, HIDDEN_DIM, HIDDEN_DIM, action_dim)
    rng = np.random.default_rng(0)
    layers = [jnp.asarray(rng.normal(size=(n, m)) / np.sqrt(n), jnp.float32) for n, m in itertools.pairwise(sizes)]

    def act(x: Array) -> Array:
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer)
        return jnp.tanh(x @ layers[-1])

    return act


def _host_rate(envs: HostEnvironments, action_dim: int, seconds: float) -> float:
    seeds = list(range(envs.num_envs))
    observation = envs.reset(seeds)
    act = jax.jit(_policy(observation.shape[1], action_dim))
    envs.step(np.asarray(act(observation)))
    elapsed, steps = 0.0, 0
    while elapsed < seconds:
        observation = envs.reset(seeds)
        began = time.perf_counter()
        for _ in range(STEPS_PER_EPISODE):
            observation = envs.step(np.asarray(act(observation))).observation
            steps += envs.num_envs
            if elapsed + time.perf_counter() - began > seconds:
                break
        elapsed += time.perf_counter() - began
    return steps / elapsed


def _device_rate(env: DeviceEnvironment, count: int, action_dim: int, seconds: float) -> float:
    state, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))
    act = _policy(observation.shape[1], action_dim)

    @jax.jit
    def roll(state: Any, observation: Array, steps: Array) -> Any:
        def step(_: Array, loop: tuple[Any, Array]) -> tuple[Any, Array]:
            state, result = jax.vmap(env.step)(loop[0], act(loop[1]))
            return state, result.observation

        return jax.lax.fori_loop(0, steps, step, (state, observation))

    jax.block_until_ready(roll(state, observation, jnp.asarray(1)))  # the number of steps is traced: this compiles for all
    steps, elapsed = 1, 0.0
    while elapsed < seconds / 2 and steps < STEPS_PER_EPISODE:
        steps = min(2 * steps, STEPS_PER_EPISODE)
        began = time.perf_counter()
        jax.block_until_ready(roll(state, observation, jnp.asarray(steps)))
        elapsed = time.perf_counter() - began
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        jax.block_until_ready(roll(state, observation, jnp.asarray(steps)))
        done += steps * count
    return done / (time.perf_counter() - began)
