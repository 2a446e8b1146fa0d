"""What several tests need: exact noise predictions, small datasets and training without the trainer's files."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax import Array

from diffrl.algorithm import Algorithm
from diffrl.config import Config, DatasetConfig
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.data.toys import eight_gaussians_exactly
from diffrl.diffusion.schedules import LinearVP, Schedule
from diffrl.registry import REGISTRY
from diffrl.training.chunk import make_chunk, make_prepare
from diffrl.training.devices import make_mesh
from diffrl.training.runs import Runs, make_runs
from diffrl.training.train import init_states
from diffrl.types import Spec, Transition

Predict = Callable[[Array, Array], Array]


def chosen(cases: Sequence[Any], *places: int) -> list[Any]:
    """Parameters of a table: those at these places belong to the fast tests, the others are slow."""

    def slow(case: Any) -> Any:
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

    return [case if place in places else slow(case) for place, case in enumerate(cases)]


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Programs compiled inside are compiled four times faster, and run slower: for tests that compile much and run little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@contextmanager
def unchecked() -> Iterator[None]:
    """Lowering rebuilds the arguments with descriptions in place of arrays, which the run-time type checks do not know."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects an entry for every program that XLA compiles inside."""
    events: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        del duration
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def quick(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with quick compilation."""
    compiled = jax.jit(function, **options)

    def call(*args: Any) -> Any:
        with quick_compilation():
            return compiled(*args)

    return call


def mixture_epsilon(means: Array, std: float, schedule: Schedule = LinearVP()) -> Predict:  # noqa: B008
    """ε*(x_t, t) = -σ_t ∇ log μ_t(x_t) of an equal mixture of N(mean, std² I); `means` is `[modes, dim]`."""
    means = jnp.asarray(means)

    def predict(noised: Array, t: Array) -> Array:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        variance = alpha**2 * std**2 + sigma**2
        difference = noised[:, None, :] - alpha[:, None] * means  # [batch, modes, dim]
        weight = jax.nn.softmax(-0.5 * jnp.sum(difference**2, axis=-1) / variance, axis=-1)
        return sigma * jnp.sum(weight[..., None] * difference, axis=1) / variance

    return predict


def gaussian_epsilon(mean: Any, std: float, schedule: Schedule = LinearVP()) -> Predict:  # noqa: B008
    """ε* of N(mean, std² I); `mean` is `[dim]`."""
    return mixture_epsilon(jnp.asarray(mean, jnp.float32)[None], std, schedule)


EIGHT = eight_gaussians_exactly()


def eight_modes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of the eight centres of each point, and the share of each."""
    nearest = np.argmin(((x[:, None] - EIGHT.means) ** 2).sum(axis=-1), axis=1)
    return nearest, np.bincount(nearest, minlength=8) / len(x)


def discrete_spec(observation_dim: int, num_actions: int) -> Spec:
    """A Spec that changes nothing, of so many discrete actions."""
    bounds = {"action_low": (0.0,) * num_actions, "action_high": (1.0,) * num_actions}
    return dataclasses.replace(Spec.plain(observation_dim, num_actions), num_actions=num_actions, **bounds)


def spec_for(name: str, observation_dim: int, action_dim: int) -> Spec:
    """A Spec that changes nothing, of actions that the method can have: in a box where it can have those."""
    plain = Spec.plain if "box" in REGISTRY[name].actions else discrete_spec
    return plain(observation_dim, action_dim)


def make_dataset(
    observation: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_observation: np.ndarray | None = None,
    terminal: np.ndarray | bool = True,
    timeout: np.ndarray | bool = False,
) -> Dataset:
    """Rows packed as the library packs them, on the first device."""
    n = len(reward)
    columns = [
        observation,
        action,
        observation if next_observation is None else next_observation,
        reward[:, None],
        np.broadcast_to(terminal, n)[:, None],
        np.broadcast_to(timeout, n)[:, None],
    ]
    rows = jnp.asarray(np.concatenate(columns, axis=1), jnp.float32)
    ends = np.broadcast_to(terminal, n) | np.broadcast_to(timeout, n) | (np.arange(n) == n - 1)
    stops = np.flatnonzero(ends)
    episode = np.cumsum(ends) - ends  # number of the episode of each row
    start, stop = (jnp.asarray(bound[episode], jnp.int32) for bound in (np.append(0, stops[:-1] + 1), stops + 1))
    return Dataset(
        rows,
        observation_dim=observation.shape[1],
        action_dim=action.shape[1],
        episode_start=start,
        episode_end=stop,
    )


def runs_of(method: Any, num_seeds: int = 1, first_seed: int = 0, sweep: str = "") -> Runs:
    """The runs the trainer would make of a method's config."""
    return make_runs(Config(algorithm=method, dataset=DatasetConfig(), num_seeds=num_seeds, first_seed=first_seed, sweep=sweep))


def train_stages(algorithm: Algorithm, runs: Runs, dataset: Dataset, states: Any = None) -> Any:
    """All stages of all runs on one device, each stage as one chunk; returns the states `[R, ...]`."""
    mesh = make_mesh(runs.size, jax.devices()[:1])
    states = init_states(algorithm, runs) if states is None else states
    dataset = attach(dataset, algorithm.columns)
    step = 0
    for stage in algorithm.stages:
        columns = make_prepare(stage, mesh)(states, runs.keys, dataset)
        alive = jnp.ones(runs.size, bool)
        states, _, _ = make_chunk(stage, stage.num_updates, mesh)(states, alive, runs.keys, columns, dataset, jnp.int32(step))
        step += stage.num_updates
    return states


def act(algorithm: Algorithm, states: Any, observation: Array, seed: int = 0) -> np.ndarray:
    """Actions `[R, B, A]` of all runs."""

    def one(state: Any) -> Array:
        policy = algorithm.policy(state)
        return algorithm.act(policy, algorithm.init_carry(policy, observation.shape[0]), observation, jax.random.key(seed))[0]

    return np.asarray(jax.jit(jax.vmap(one))(states))


def first_gradient(learner: Any, beta1: float = 0.9) -> Any:
    """The gradient that Adam saw in its first step: its first moment is (1 - β₁) times that."""
    return jax.tree.map(lambda mu: mu / (1.0 - beta1), optax.tree_utils.tree_get(learner.opt_state, "mu"))


def far_apart(a: Any, b: Any) -> bool:
    """Whether two gradients differ by what a test of an update's order could see."""
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) > 1e-3


def random_batch(size: int, observation_dim: int, action_dim: int) -> Transition:
    """Rows of noise, of which every third is terminal and every fourth a timeout."""
    keys = jax.random.split(jax.random.key(2), 4)
    return Transition(
        observation=jax.random.normal(keys[0], (size, observation_dim)),
        action=jax.random.uniform(keys[1], (size, action_dim), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        next_observation=jax.random.normal(keys[3], (size, observation_dim)),
        terminal=jnp.arange(size) % 3 == 0,
        timeout=jnp.arange(size) % 4 == 1,
    )


def with_hparams(state: Any, algorithm: Algorithm) -> Any:
    """A State with the hyper-parameters of another algorithm's."""
    return dataclasses.replace(state, hparams=jax.tree.map(jnp.float32, algorithm.hparams))


def assert_trees_close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Same structure, and every leaf within tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def trees_equal(a: Any, b: Any) -> bool:
    """Bit-equal leaves."""
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
