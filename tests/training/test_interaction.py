"""Iterations in the compiled program: independent runs, windows that cross no episode, and discrete actions."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick_compilation, runs_of, trees_equal, unchecked

from diffrl import records
from diffrl.algorithm import Algorithm
from diffrl.algorithms import bc
from diffrl.config import Config, OnlineConfig
from diffrl.data.replay import load_rows
from diffrl.data.sampling import windows
from diffrl.envs import make as environments
from diffrl.envs.control.hole import HoleIntegrator
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments
from diffrl.envs.protocol import DeviceEnvironment, Step
from diffrl.evaluation.rollout import device_rollout, host_rollout
from diffrl.registry import REGISTRY, make
from diffrl.training import train as trainer
from diffrl.training.devices import RUN, make_mesh, place
from diffrl.training.online.environment import describe, stage_of
from diffrl.training.online.interaction import DeviceLoop, RunState, empty_replay, first_episodes, interact
from diffrl.training.train import init_states
from diffrl.types import Spec

RUNS, LENGTH = 3, 4


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    with quick_compilation(), unchecked():
        yield


def shrunk(name: str) -> Any:
    """A method's config, small: what its numbers mean is told by their names."""
    config = REGISTRY[name].config()
    small = {"hidden_dims": (8,), "hidden_dim": 8, "blocks": 1, "batch_size": 4, "layers": 1, "steps": 2}
    for holder in (config, *(value for value in vars(config).values() if dataclasses.is_dataclass(value))):
        for field in dataclasses.fields(holder):
            for end, value in small.items():
                if field.name.endswith(end):
                    setattr(holder, field.name, value)
    return config


def can_interact(name: str) -> bool:
    try:
        stage_of(make(shrunk(name), Spec.plain(2, 2)))
    except ValueError:  # a ConfigError, or what a method says of actions in a box
        return False
    return True


ONLINE = [name for name in REGISTRY if can_interact(name)]


def begun(algorithm: Algorithm, env: DeviceEnvironment, config: Config) -> tuple[DeviceLoop, RunState, Any]:
    """The loop on one device, its first state, and the keys."""
    mesh, runs = make_mesh(RUNS, jax.devices()[:1]), runs_of(config.algorithm, RUNS)
    spec, card = describe(env, "x", "{}")
    stage = stage_of(algorithm)
    parts = interact(algorithm, stage, spec, card, config, env.max_episode_steps)
    states = init_states(algorithm, runs)
    run_states = RunState(
        algorithm=states,
        environments=first_episodes(algorithm, env, spec, config.online.num_envs, states, runs.keys),
        replay=jax.vmap(lambda _: empty_replay(stage, spec, config))(jnp.arange(RUNS)),
        alive=jnp.ones(RUNS, bool),
    )
    return DeviceLoop(parts, env, config, mesh), place(run_states, mesh, RUN), place(runs.keys, mesh, RUN)


def online(method: Any, **settings: Any) -> Config:
    defaults = {"env_id": "diffrl/HoleIntegrator-v0", "num_env_steps": 120, "warmup_steps": 0, "buffer_size": 40}
    return Config(algorithm=method, online=OnlineConfig(**defaults | settings), num_seeds=RUNS, updates_per_chunk=20)


def test_methods_of_one_stage_can_interact() -> None:
    assert {"qsm", "sac", "td3_bc"} <= set(ONLINE)
    assert not {"srpo", "swg"} & set(ONLINE)


@pytest.mark.parametrize("name", [name if name == "sac" else pytest.param(name, marks=pytest.mark.slow) for name in ONLINE])
def test_a_diverged_run_changes_no_other(name: str) -> None:
    """One run's parameters are not numbers: it stands still, and states, environments and buffers of the others are bit-equal."""
    config = online(shrunk(name), num_envs=2)
    env = HoleIntegrator()
    algorithm = make(config.algorithm, describe(env, "x", "{}")[0])
    loop, states, keys = begun(algorithm, env, config)

    def advanced(states: RunState, start: int) -> RunState:
        copied = jax.tree.map(jnp.copy, states)  # the loop donates them
        return loop(copied, None, keys, start, LENGTH, True)[0]

    before = advanced(states, 0)
    expected = advanced(advanced(before, LENGTH), 2 * LENGTH)
    assert np.asarray(expected.alive).all()
    for poisoned in range(RUNS):

        def poison(x: Any) -> Any:
            return x.at[poisoned].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: B023

        sick = dataclasses.replace(before, algorithm=jax.tree.map(poison, before.algorithm))
        found = advanced(advanced(sick, LENGTH), 2 * LENGTH)
        assert np.flatnonzero(~np.asarray(found.alive)).tolist() == [poisoned]
        others = np.delete(np.arange(RUNS), poisoned)
        assert trees_equal(*(jax.tree.map(lambda x: x[others], tree) for tree in (found, expected)))  # noqa: B023


def test_windows_drawn_while_the_buffer_grows_cross_no_episode() -> None:
    """A stage that draws windows itself, on rings that are overwritten and episodes of 25 steps."""
    config, env = online(shrunk("bc"), num_envs=2, buffer_size=2 * 60), HoleIntegrator()
    made = make(config.algorithm, describe(env, "x", "{}")[0])
    (stage,) = made.stages

    def update(state: Any, batch: Any, key: Any) -> Any:
        after, metrics = stage.update(state, batch, key)
        mask, follows = batch.extras["window_mask"], batch.extras["window_next_observation"][:, :-1]
        gap = jnp.abs(follows - batch.extras["window_observation"][:, 1:]).max(axis=-1)
        ended = (batch.extras["window_timeout"] & mask)[:, :-1] & mask[:, 1:]
        wrong = ((gap > 0) & mask[:, 1:] & mask[:, :-1]) | ended
        return after, metrics | {"wrong": wrong.mean(), "full": mask.all(axis=1).mean(), "cut": 1.0 - mask.mean()}

    drawing = stage._replace(update=update, batch=windows(5), batch_size=32)
    loop, states, keys = begun(made._replace(stages=(drawing,)), env, config)
    seen = []
    for start in range(0, 120, 40):
        states, metrics = loop(states, None, keys, start, 40, True)
        seen.append(jax.device_get(metrics))
    assert all((metrics["wrong"] == 0).all() for metrics in seen)
    assert all((metrics["full"] > 0.5).all() and (metrics["cut"] > 0.01).all() for metrics in seen)


DISCRETE = bc.Config(hidden_dims=(8,), batch_size=8)  # a softmax policy


class Walk(NamedTuple):
    """Left, stay or right on a line; pays 1 for right, ends beyond 3 to either side."""

    max_episode_steps: int = 12
    num_actions: int = 3
    action_low: tuple[float, ...] = (0.0, 0.0, 0.0)
    action_high: tuple[float, ...] = (1.0, 1.0, 1.0)

    def reset(self, key: Any) -> tuple[Any, Any]:
        at = jnp.zeros(())
        return at, jnp.stack([at, jnp.ones(())])

    def step(self, state: Any, action: Any) -> tuple[Any, Step]:
        assert jnp.issubdtype(action.dtype, jnp.integer)
        assert action.shape == ()
        at = state + action - 1
        ended = jnp.abs(at) > 3
        return at, Step(jnp.stack([at, jnp.ones(())]), (action == 2).astype(jnp.float32), ended, jnp.zeros((), bool))


def test_discrete_actions_on_the_device() -> None:
    """Random ones are uniform; rows are one-hot, and each is what the environment did; the rollout takes the same numbers."""
    config, env = online(DISCRETE, num_envs=4, warmup_steps=400, buffer_size=480), Walk()
    spec, _ = describe(env, "x", "{}")
    assert (spec.num_actions, spec.action_dim, spec.observation_dim) == (3, 3, 2)
    algorithm = make(DISCRETE, spec)
    loop, states, keys = begun(algorithm, env, config)
    states, _ = loop(states, None, keys, 0, 100, False)
    states, _ = loop(states, None, keys, 100, 20, True)
    rows = np.asarray(states.replay.rows)  # [R, E, 120, 2 + 3 + 2 + 3]
    action = rows[..., 2:5]
    assert (action.sum(axis=-1) == 1).all()
    assert set(np.unique(action)) == {0.0, 1.0}
    np.testing.assert_allclose(action[:, :, :100].mean(axis=(0, 1, 2)), 1 / 3, atol=0.05)
    np.testing.assert_array_equal(rows[..., 5], rows[..., 0] + action.argmax(axis=-1) - 1)
    np.testing.assert_array_equal(rows[..., 7], action.argmax(axis=-1) == 2)
    policies = jax.vmap(algorithm.policy)(states.algorithm)
    found = device_rollout(algorithm, env, 2)(policies, [0, 1, 2], 0)
    assert np.isfinite(found.returns).all()


@pytest.mark.slow
def test_discrete_actions_on_the_host(tmp_path: Path) -> None:
    """CartPole learns by interaction, is resumed with the same spec, and is evaluated by the host's rollout."""
    config = online(DISCRETE, env_id="CartPole-v1", warmup_steps=40, num_env_steps=60, buffer_size=60)
    assert trainer.train(config, tmp_path).complete
    rows = load_rows(tmp_path / "replay", 60)
    assert rows.shape == (RUNS, 1, 60, 4 + 2 + 4 + 3)
    assert (rows[..., 4:6].sum(axis=-1) == 1).all()
    assert rows[..., -2].sum() > 0  # the pole falls
    spec = records.read(tmp_path / "spec.json", Spec)
    assert spec.num_actions == 2
    algorithm = make(DISCRETE, spec)
    card = json.loads((tmp_path / "dataset.json").read_text())
    envs = environments.choose("auto", card["env_spec"], None).host(4)  # pyright: ignore[reportOptionalCall]
    policies = jax.vmap(algorithm.policy)(init_states(algorithm, runs_of(DISCRETE, 2)))
    assert (host_rollout(algorithm, envs, 2)(policies, [0, 1], 0).returns >= 1).all()
    envs.close()


def test_discrete_actions_may_begin_at_another_number() -> None:
    """What a policy calls 0 is the least number that the environment knows."""
    gymnasium = pytest.importorskip("gymnasium")
    taken = []

    class Shifted(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        action_space = gymnasium.spaces.Discrete(3, start=5)

        def reset(self, **_: Any) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            taken.append(action)
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), 0.0, False, False, {}

    made = gymnasium.wrappers.TimeLimit(Shifted(), 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffrl.envs.gymnasium_backend.make_env", lambda *_: made)
        backend = GymnasiumEnvironments("{}", None, 1, max_episode_steps=9)
    assert backend.num_actions == 3
    backend.reset([0])
    for action in range(3):
        backend.step(np.array([action], np.int32))
    assert taken == [5, 6, 7]
