"""A trace of one dispatch, which changes nothing."""

import gzip
import json
from pathlib import Path

import pytest
from small_trainings import UPDATES, config_of, source, state_of
from support import trees_equal, unchecked

from diffrl.training.profiling import Profiler
from diffrl.training.train import Outcome, train


def test_of_one_dispatch_there_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is traced, and where there is none that is said."""
    with unchecked():
        train(config_of(updates_per_chunk=UPDATES), tmp_path / "run", source(), profiler=Profiler(tmp_path / "profile"))
    assert "no trace of policy, which was one dispatch" in capsys.readouterr().out
    assert not (tmp_path / "profile").exists()


def test_a_trace_shows_the_chunk_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It opens as JSON and holds what the device executed, with times; states are bit-equal without it."""
    config = config_of()
    with unchecked():
        assert train(config, tmp_path / "traced", source(), profiler=Profiler(tmp_path / "profile")) == Outcome(True, ())
        train(config, tmp_path / "plain", source())
    assert trees_equal(*(state_of(config, tmp_path / name, UPDATES) for name in ("traced", "plain")))
    assert "a trace of 10 updates of policy is in" in capsys.readouterr().out
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "policy.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert sum(event.get("dur", 0.0) for event in events if "Execute" in event.get("name", "")) > 0.0
