"""A window and a goal method, known to nobody but this test, and a discrete one, through trainer and evaluator as they are."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import assert_same_checkpoints
from rich.console import Console
from small_methods import METHODS
from support import act, quick_compilation, runs_of, train_stages, unchecked
from workdirs import env_spec

from diffrl import registry
from diffrl.algorithms import bc
from diffrl.config import Config
from diffrl.data.arrays import from_arrays
from diffrl.data.build import build
from diffrl.data.dataset import Source
from diffrl.envs.env_spec import read
from diffrl.envs.make import Backend
from diffrl.envs.protocol import Step
from diffrl.evaluation import evaluate
from diffrl.training.train import train
from diffrl.types import Spec

EPISODES, LENGTH = 40, 12
PARTS = (("observation", 4), ("desired_goal", 2))


class Task(NamedTuple):
    """Data, and an environment in which what they show is worth about `best` in return."""

    source: Source
    env: Any
    best: float = LENGTH


class Echo:
    """Wants the sign of what was seen two steps ago, and at first nothing: a policy without memory is right half of the time."""

    max_episode_steps = LENGTH
    action_low, action_high = (-1.0, -1.0), (1.0, 1.0)

    def reset(self, key):
        seen = jax.random.normal(key, (LENGTH + 1, 6))
        return (seen, jnp.int32(0)), seen[0]

    def step(self, state, action):
        seen, t = state
        right = jnp.where(t < 2, jnp.all(jnp.abs(action) < 0.5), jnp.all(action * seen[t - 2, :2] > 0))
        return (seen, t + 1), Step(seen[t + 1], right.astype(jnp.float32), t < 0, right)


class Reach:
    """A point that a goal asks to come near it; the reward is 1 from then on. One direction in five leads there by chance."""

    max_episode_steps = LENGTH
    action_low, action_high = (-1.0, -1.0), (1.0, 1.0)

    def reset(self, key):
        angle = jax.random.uniform(key, maxval=2 * jnp.pi)
        state = jnp.concatenate([jnp.zeros(4), 0.4 * jnp.array([jnp.cos(angle), jnp.sin(angle)])])
        return (state, jnp.bool_(False)), state

    def step(self, state, action):
        seen = state[0].at[:2].add(0.1 * action)
        there = state[1] | (jnp.linalg.norm(seen[:2] - seen[4:]) < 0.25)
        return (seen, there), Step(seen, there.astype(jnp.float32), seen[0] > 1e6, there)


class Choose:
    """Wants action 1 where the first number is positive, else 0."""

    max_episode_steps = LENGTH
    action_low, action_high = (0.0, 0.0), (1.0, 1.0)

    def reset(self, key):
        seen = jax.random.normal(key, (LENGTH + 1, 4))
        return (seen, jnp.int32(0)), seen[0]

    def step(self, state, action):
        assert action.dtype == jnp.int32
        assert action.shape == ()
        seen, t = state
        right = action == (seen[t, 0] > 0)
        return (seen, t + 1), Step(seen[t + 1], right.astype(jnp.float32), t < 0, right)


def source(observation: np.ndarray, action: np.ndarray, spec: str, parts: tuple[tuple[str, int], ...] = ()) -> Source:
    """Episodes `[E, T + 1, O]` with actions `[E, T, A]`, or discrete ones `[E, T]`."""
    first, following = (part.reshape(-1, observation.shape[-1]) for part in (observation[:, :-1], observation[:, 1:]))
    timeout = np.arange(len(first)) % LENGTH == LENGTH - 1
    found = from_arrays(
        observation=first,
        action=action.reshape(len(first), *action.shape[2:]),
        reward=np.zeros(len(first)),
        next_observation=following,
        terminal=np.zeros(len(first)),
        timeout=timeout,
        id="tests/small",
    )
    return found._replace(env_spec=spec, observation_parts=parts)


def echoes() -> Task:
    seen = np.random.default_rng(0).normal(size=(EPISODES, LENGTH + 1, 6))
    action = 0.9 * np.sign(np.concatenate([np.zeros((EPISODES, 2, 2)), seen[:, : LENGTH - 2, :2]], axis=1))
    return Task(source(seen, action, env_spec(LENGTH), PARTS), Echo())


def lines() -> Task:
    """Straight lines from the middle, each with a goal that is nowhere near it."""
    angle = np.random.default_rng(0).uniform(0.0, 2 * np.pi, (EPISODES, 1, 1))
    action = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) * np.ones((1, LENGTH, 1)) * 0.9
    position = np.concatenate([np.zeros((EPISODES, 1, 2)), 0.1 * np.cumsum(action, axis=1)], axis=1)
    observation = np.concatenate([position, 0.0 * position, -position[:, -1:] + 0.0 * position], axis=-1)
    return Task(source(observation, action, env_spec(LENGTH), PARTS), Reach(), LENGTH - 1)


def choices() -> Task:
    seen = np.random.default_rng(0).normal(size=(EPISODES, LENGTH + 1, 4))
    action = (seen[:, :-1, 0] > 0).astype(int)
    spec = {**read(env_spec(LENGTH)), "id": "CartPole-v1", "entry_point": "gymnasium.envs.classic_control.cartpole:CartPoleEnv"}
    return Task(source(seen, action, json.dumps(spec | {"kwargs": {}})), Choose())


TASKS = {"window": echoes, "goal": lines, "discrete": choices}
each = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """For these tests alone."""
    with pytest.MonkeyPatch.context() as patch, quick_compilation(), unchecked():
        for name, method in METHODS.items():
            patch.setitem(registry.REGISTRY, name, method)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(config, workdir) of a method, trained to the end: a run with a rate that learns, and one whose rate is too large."""
    done: dict[str, tuple[Config, Path]] = {}

    def of(name: str) -> tuple[Config, Path]:
        if name not in done:
            config = Config(
                METHODS[name].config(),
                num_seeds=1,
                sweep="learning_rate=0.01,1e37",
                updates_per_chunk=50,
                checkpoint_every=100,
            )
            config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, id="tests/small"))
            workdir = tmp_path_factory.mktemp(name) / "run"
            outcome = train(config, workdir, source=TASKS[name]().source)
            assert outcome.complete
            assert outcome.diverged == (1,)
            done[name] = config, workdir
        return done[name]

    return of


@each
def test_a_stopped_training_goes_on_bit_for_bit(trained: Any, name: str, tmp_path: Path) -> None:
    config, whole = trained(name)
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "DONE").unlink()
    for step in (200, 300):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert train(config, workdir, source=TASKS[name]().source).diverged == (1,)
    assert_same_checkpoints(workdir, whole)


@each
def test_the_evaluator_sees_what_the_data_show(trained: Any, name: str, monkeypatch: Any) -> None:
    """The run that learnt earns most of what there is; the one that diverged has no score."""
    _, workdir = trained(name)
    task = TASKS[name]()
    backend = Backend("jax", "made for a test", device=task.env)
    monkeypatch.setattr(evaluate.environments, "choose", lambda *_: backend)
    options = evaluate.Options(episodes=32, step="last")
    (result,) = evaluate.evaluate_workdir(workdir, options, Console(quiet=True))
    assert result.mean_returns[0] > 0.75 * task.best
    assert np.isnan(result.mean_returns[1])


def test_without_a_memory_the_window_task_is_not_solved() -> None:
    """What was seen two steps ago cannot be told from what is seen: a clone without memory has no sign to give."""
    task = echoes()
    config = bc.Config(learning_rate=0.01, hidden_dims=(32,), num_updates=300, batch_size=64)
    dataset, spec, _ = build(task.source, Config(config).dataset)

    algorithm = bc.make(config, spec)
    states = train_stages(algorithm, runs_of(config), jax.tree.map(jnp.asarray, dataset))
    seen = jnp.asarray(dataset[:].observation)
    right = np.sign(act(algorithm, states, seen)[0]) == np.sign(dataset[:].action)
    assert right[np.asarray(dataset[:].action) != 0].mean() < 0.75


@each
def test_a_method_is_asked_only_for_actions_it_knows(name: str) -> None:
    """A box or discrete ones: of each kind one line, which names a method that could."""
    method = METHODS[name]
    box = dataclasses.replace(Spec.plain(6, 2), observation_parts=PARTS)
    discrete = dataclasses.replace(box, num_actions=2)
    wrong = box if method.actions == ("discrete",) else discrete
    with pytest.raises(ValueError, match=rf"^{name} cannot have \w+ actions; methods that can: .*\w$") as refused:
        registry.make(method.config(), wrong)
    assert "\n" not in str(refused.value)
    registry.make(method.config(), discrete if wrong is box else box)


@pytest.mark.parametrize("name", list(registry.REGISTRY))
def test_registered_methods_refuse_discrete_actions_by_name(name: str) -> None:
    spec = dataclasses.replace(Spec.plain(3, 4), num_actions=4)
    method = registry.REGISTRY[name]
    if "discrete" in method.actions:
        registry.make(method.config(), spec)
        return
    with pytest.raises(ValueError, match=f"^{name} cannot have discrete actions"):
        registry.make(method.config(), spec)


def test_discrete_actions_leave_as_an_index_and_are_not_rescaled() -> None:
    """From standardised observations, int32 `[B]`; asked to draw, a policy does so in proportion to its softmax."""
    spec = dataclasses.replace(
        Spec.plain(1, 3),
        observation_mean=(5.0,),
        observation_std=(2.0,),
        action_low=(0.0,) * 3,
        action_high=(1.0,) * 3,
        num_actions=3,
    )
    config = METHODS["discrete"].config(hidden_dims=())
    algorithm = registry.make(config, spec)
    policy = {"Linear_0": {"kernel": jnp.array([[2.0, -1.0, 0.0]]), "bias": jnp.zeros(3)}}
    observation = jnp.array([[1.0], [9.0], [5.1]])  # -2, 2 and 0.05 in what the network sees
    chosen, carry = algorithm.act(policy, (), observation, jax.random.key(0))
    assert carry == ()
    assert chosen.dtype == jnp.int32
    np.testing.assert_array_equal(chosen, [1, 0, 0])
    many = jnp.full((20_000, 1), 6.0)
    config.act.deterministic = False
    drawn, _ = registry.make(config, spec).act(policy, (), many, jax.random.key(1))
    np.testing.assert_allclose(np.bincount(drawn) / len(many), jax.nn.softmax(jnp.array([1.0, -0.5, 0.0])), atol=0.02)


def test_parts_are_found_by_name() -> None:
    spec = dataclasses.replace(Spec.plain(6, 2), observation_parts=PARTS)
    assert (spec.part("observation"), spec.part("desired_goal")) == (slice(0, 4), slice(4, 6))
    with pytest.raises(ValueError, match="it has observation, desired_goal"):
        spec.part("goal")
    with pytest.raises(ValueError, match="none with a name"):
        Spec.plain(6, 2).part("goal")
