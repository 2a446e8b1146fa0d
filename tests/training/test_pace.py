"""How much is dispatched at a time, and that results do not know of it."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from small_trainings import config_of, source, state_of
from support import quick_compilation, trees_equal, unchecked

from diffrl import records
from diffrl.logging.console import TrainingDisplay
from diffrl.logging.writers import METRICS, Metric
from diffrl.training import pace
from diffrl.training.checkpoint import Checkpoints, Progress
from diffrl.training.cohort import make_cohort
from diffrl.training.devices import make_mesh
from diffrl.training.loop import Loop, Population, Programs, Segment, means
from diffrl.training.offline import OfflinePhase
from diffrl.training.pace import Pace
from diffrl.training.preemption import Preemption
from diffrl.training.train import train
from diffrl.types import Metrics


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with quick_compilation(), unchecked():
        yield


def expecting(per_chunk: int, flops: float) -> int:
    one = Pace(per_chunk)
    one.expect(flops)
    return one.turns


def test_the_arithmetic_of_a_turn_says_how_many() -> None:
    assert expecting(1000, 0.0) == 1000
    assert expecting(1000, 1e6) == 1000
    assert expecting(1000, pace.FLOPS["cpu"]) == 2  # a second each
    assert expecting(1000, 0.01 * pace.FLOPS["cpu"]) == 250
    assert expecting(7, 1e15) == 7  # of one turn would be another program
    assert expecting(2**31 - 1, 1e15) == 2**31 - 1  # a prime, found at once
    assert expecting(2_000_000_000, 0.01 * pace.FLOPS["cpu"]) == 250
    assert Pace(1000, any_length=True).turns == 1


def test_what_takes_too_long_is_cut_and_never_grows_but_where_that_costs_nothing() -> None:
    one = Pace(1000)
    one.measured(1000, 1.9 * pace.SECONDS)
    assert one.turns == 1000
    one.measured(1000, 40.0)
    assert one.turns == 50
    one.measured(50, 0.01)
    assert one.turns == 50
    free = Pace(1000, any_length=True)
    free.measured(2, 0.01)
    assert free.turns == 500


class Blocking:
    """A phase that works while it dispatches, as a host that steps a simulator: a tenth of a second a turn."""

    programs, population = Programs(), Population(make_cohort([0, 1], set()), jnp.zeros(2), None)

    def __init__(self) -> None:
        self.now, self.dispatched = 0.0, list[int]()

    def pace(self, step: int, per_chunk: int, most: int) -> Pace:
        return Pace(per_chunk, any_length=True)

    def advance(self, step: int, turns: int) -> Metrics:
        self.now += 0.099 * turns
        self.dispatched.append(turns)
        return {"policy/loss": np.zeros(2)}  # pyright: ignore[reportReturnType]

    def save(self, progress: Progress) -> None:
        pass


def test_a_host_that_steps_a_simulator_dispatches_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than is meant, and soon just that: a signal is answered within two of them."""
    phase, config = Blocking(), config_of(updates_per_chunk=1_000, checkpoint_every=1_000)
    monkeypatch.setattr("diffrl.training.loop.time", SimpleNamespace(monotonic=lambda: phase.now))
    report = cast(Any, mock.Mock(diverged={}))
    loop = Loop(config, 1, make_mesh(1), TrainingDisplay(2, silent=True), report, tmp_path, Preemption(), {})
    assert loop.run(Segment("online", 0, 0, 3_000, 0, 3_000, online=True), cast(Any, phase), 0) == 3_000
    assert max(phase.dispatched) == 25
    assert phase.dispatched.count(25) > 110


def test_metrics_of_pieces_are_those_of_the_chunk() -> None:
    pieces = [(1, {"loss": np.array([3.0]), "_returns": np.array([4.0]), "_ended": np.array([1.0])})]
    assert means(pieces).keys() == {"loss", "episode_return"}
    pieces.append((3, {"loss": np.array([7.0]), "_returns": np.array([8.0]), "_ended": np.array([2.0])}))
    found = means(pieces)
    assert (found["loss"].item(), found["episode_return"].item()) == (6.0, 4.0)
    for count in range(2, 60):  # a share of one less a rounding would be a diverged run
        ones = [(125 + i % 3, {"finite": np.ones(2, np.float32)}) for i in range(count)]
        assert (means(ones)["finite"] == 1.0).all()
    nothing = means([(2, {"_returns": np.array([0.0]), "_ended": np.array([0.0])})])
    assert np.isnan(nothing["episode_return"]).all()


def test_a_training_in_pieces_is_the_same_and_is_stopped_within_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(updates_per_chunk=12, checkpoint_every=12)
    assert train(config, tmp_path / "whole", source=source()).complete
    monkeypatch.setattr(pace, "FLOPS", {"cpu": 1.0})  # so slow that pieces are of two updates
    dispatched, advance = [], OfflinePhase.advance

    def count(phase: OfflinePhase, step: int, turns: int) -> Metrics:
        dispatched.append(turns)
        if len(dispatched) == 3:
            signal.raise_signal(signal.SIGTERM)
        return advance(phase, step, turns)

    monkeypatch.setattr(OfflinePhase, "advance", count)
    assert not train(config, tmp_path / "pieces", source=source()).complete
    assert Checkpoints(tmp_path / "pieces").steps() == [6]
    assert train(config, tmp_path / "pieces", source=source()).complete
    assert set(dispatched) == {2}
    last = Checkpoints(tmp_path / "whole").steps()[-1]
    assert trees_equal(state_of(config, tmp_path / "pieces", last), state_of(config, tmp_path / "whole", last))

    def metrics(name: str) -> dict[tuple, float | None]:
        lines = records.lines(tmp_path / name / METRICS, Metric, [])
        return {(line.step, line.run, line.name): line.value for line in lines}

    whole, pieces = metrics("whole"), metrics("pieces")
    assert {step for step, _, _ in pieces} - {step for step, _, _ in whole} == {6}
    for key, value in whole.items():
        if key[0] > 12:
            np.testing.assert_allclose(pieces[key], value, rtol=1e-5)
