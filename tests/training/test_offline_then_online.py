"""A dataset and an environment in one config: units, batches, exact resumption across the switch, and what is refused."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from programs import checksums
from support import quick_compilation, unchecked

from diffrl.algorithms import bc, srpo
from diffrl.config import Config, ConfigError, DatasetConfig, OnlineConfig, validate
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import Source
from diffrl.data.replay import load_rows
from diffrl.training import train as trainer
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.reporting import Reporter

HOLE, PENDULUM = "diffrl/HoleIntegrator-v0", "Pendulum-v1"
SIZES = {HOLE: (2, 2, 0.1), PENDULUM: (3, 1, 2.0)}  # observations, actions, largest action
UPDATES, STEPS, ROWS = 30, 60, 200


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    with quick_compilation(), unchecked():
        yield


def source(env_id: str, widen: float = 1.0) -> Source:
    """Rows of any kind: observations far from 0 and large rewards, so that units show."""
    (observations, actions, most), rng = SIZES[env_id], np.random.default_rng(0)
    return from_arrays(
        observation=5.0 + 3.0 * rng.normal(size=(ROWS, observations)),
        action=rng.uniform(-most, most, size=(ROWS, actions)),
        reward=100.0 * rng.normal(size=ROWS),
        terminal=np.arange(ROWS) % 20 == 19,
        action_low=[-widen * most] * actions,
        action_high=[widen * most] * actions,
    )


def config(env_id: str = HOLE, **online: Any) -> Config:
    return Config(
        algorithm=bc.Config(hidden_dims=(8,), num_updates=UPDATES, batch_size=8),
        dataset=DatasetConfig(standardize_observations=True, reward_scale="return_range", reward_shift=-1.0),
        online=OnlineConfig(**{"env_id": env_id, "num_env_steps": STEPS, "warmup_steps": 0, "buffer_size": 40} | online),
        num_seeds=2,
        updates_per_chunk=10,
        checkpoint_every=20,
    )


def train(workdir: Path, env_id: str = HOLE, **online: Any) -> trainer.Outcome:
    return trainer.train(config(env_id, **online), workdir, source(env_id))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("both") / "run"
    assert train(workdir) == trainer.Outcome(True)
    return workdir


def test_one_workdir_counts_through(uninterrupted: Path) -> None:
    """Updates on data, then steps; a checkpoint at the switch; the policy of every checkpoint can be evaluated."""
    checkpoints = Checkpoints(uninterrupted)
    assert checkpoints.steps() == [20, 30, 50, 70, 90]
    named = [checkpoints.progress(step) for step in checkpoints.steps()]
    assert [progress.stage for progress in named] == ["policy"] * 2 + ["online"] * 3
    assert all(progress.stage_index == progress.num_stages - 1 for progress in named)
    assert json.loads((uninterrupted / "DONE").read_text()) == {"step": 90, "diverged": [], "online_steps": STEPS}
    lines = [json.loads(line) for line in (uninterrupted / "metrics" / "train.jsonl").read_text().splitlines()]
    assert sorted({line["step"] for line in lines if line["name"] == "policy/loss"}) == list(range(10, 91, 10))
    assert {line["stage"] for line in lines if line["name"] == "episode_return"} == {"online"}
    timings = [json.loads(line) for line in (uninterrupted / "metrics" / "timings.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["start"], line["end"]) for line in timings] == [("policy", 0, 30), ("online", 30, 90)]


def test_transitions_are_stored_in_the_units_of_the_data(uninterrupted: Path) -> None:
    """Undone, they are the environment's: it starts where it starts, goes where its actions lead, and is paid its costs."""
    spec, card = (json.loads((uninterrupted / f"{name}.json").read_text()) for name in ("spec", "dataset"))
    assert spec["observation_mean"] != [0.0, 0.0]
    assert card["rows"] == ROWS
    assert card["env_spec"] is not None
    rows = load_rows(uninterrupted / "replay", STEPS)
    mean, std = np.array(spec["observation_mean"]), np.array(spec["observation_std"])
    observation, action, following = mean + rows[..., :2] * std, 0.1 * rows[..., 2:4], mean + rows[..., 4:6] * std
    np.testing.assert_allclose(observation[:, :, [0, 25, 50]], np.broadcast_to([0.8, 0.2], (2, 1, 3, 2)), atol=1e-5)
    np.testing.assert_allclose(following, observation + action, atol=1e-5)
    reward = (rows[..., 6] - card["reward_shift"]) / card["reward_scale"]
    ended = rows[..., -1] > 0.5
    np.testing.assert_allclose(reward[~ended], -(action[~ended] ** 2).sum(axis=-1), atol=1e-3)


class KilledError(Exception):
    """Ends a training without a chance to save."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, kind: str) -> None:
    """When the metrics of this step are reported: a scheduler's signal, or the end of the process as far as the trainer knows."""
    original = Reporter.__call__

    def report(self: Reporter, step: int, *args: Any) -> None:
        original(self, step, *args)
        if step == at and kind == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif step == at:
            raise KilledError

    monkeypatch.setattr(Reporter, "__call__", report)


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        (30, "signal"),
        (50, "kill"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(10, "signal"), (30, "kill"), (40, "kill"), (70, "signal")]),
    ],
)
def test_resumes_exactly(tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, at: int, kind: str) -> None:
    """On data, at the switch, and in the environment: states, metrics and transitions are bit-equal."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, at, kind)
        try:
            assert not train(workdir).complete
        except KilledError:
            assert kind == "kill"
    assert not (workdir / "DONE").exists()
    assert train(workdir).complete
    expected, found = checksums(uninterrupted), checksums(workdir)
    assert {step: found.get(step) for step in expected} == expected
    assert (workdir / "metrics/train.jsonl").read_bytes() == (uninterrupted / "metrics/train.jsonl").read_bytes()
    np.testing.assert_array_equal(load_rows(workdir / "replay", STEPS), load_rows(uninterrupted / "replay", STEPS))


@pytest.mark.slow
def test_a_host_simulator_is_resumed_with_new_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the switch, and again in the environment; where an episode was given up a timeout stands between two of them."""
    for at in (30, 60):
        with monkeypatch.context() as patch:
            interrupt(patch, at, "signal")
            assert not train(tmp_path, PENDULUM).complete
    assert train(tmp_path, PENDULUM).complete
    rows, given_up = load_rows(tmp_path / "replay", STEPS), Checkpoints(tmp_path).steps()
    timeout = np.flatnonzero(rows[0, 0, :, -1]).tolist()
    assert len(timeout) == 1
    assert timeout[0] + 1 + UPDATES in given_up
    goes_on = np.arange(STEPS - 1) != timeout[0]
    np.testing.assert_array_equal(rows[:, 0, 1:, :3][:, goes_on], rows[:, 0, :-1, 4:7][:, goes_on])
    assert (rows[:, 0, timeout[0] + 1, :3] != rows[:, 0, timeout[0], 4:7]).any()


@pytest.mark.parametrize(("share", "recent"), [(None, 40 / 240), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_batches_hold_data_and_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None, recent: float
) -> None:
    """200 rows of data beside up to 40 of the buffer: by their sizes, or the share that was asked for."""
    made = trainer.make

    def watching(*args: Any) -> Any:
        algorithm = made(*args)
        (stage,) = algorithm.stages

        def update(state: Any, batch: Any, key: jax.Array) -> Any:
            after, metrics = stage.update(state, batch, key)
            # Of the data the next observation has nothing to do with the action.
            gap = batch.next_observation - batch.observation
            return after, metrics | {"recent": (abs(gap) < 0.05).all(axis=-1).mean()}

        return algorithm._replace(stages=(stage._replace(update=update, batch_size=400),))

    monkeypatch.setattr(trainer, "make", watching)
    train(tmp_path, offline_share=share)
    lines = [json.loads(line) for line in (tmp_path / "metrics" / "train.jsonl").read_text().splitlines()]
    last = [line["value"] for line in lines if line["name"] == "recent" and line["step"] == 90]
    assert len(last) == 2
    assert all(abs(value - recent) < 0.05 for value in last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_id": PENDULUM}, "have 3 numbers, those of the dataset 2"),
        ({"env_id": "CartPole-v1"}, "have 4 numbers, those of the dataset 2"),
        ({"env_id": "dataset"}, "the data name no environment"),
        ({"buffer_size": 1, "num_envs": 2}, "buffer_size"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer.train(config(**change), tmp_path / "run", source(HOLE))
    assert not (tmp_path / "run").exists()


def test_other_bounds_and_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lie in"):
        trainer.train(config(), tmp_path / "run", source(HOLE, widen=2.0))
    with pytest.raises(ConfigError, match="by interaction"):
        trainer.train(dataclasses.replace(config(), algorithm=srpo.Config()), tmp_path / "run", source(HOLE))
    with pytest.raises(ConfigError, match="is empty: name one"):
        validate(config(env_id="dataset"))
    with pytest.raises(ConfigError, match="warmup_steps"):
        validate(config())
