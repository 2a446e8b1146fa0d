"""A trace of one dispatch, which changes nothing."""

import gzip
import json
from pathlib import Path

from small_trainings import UPDATES, config_of, source, state_of
from support import trees_equal, unchecked

from diffrl.training.profiling import Profiler
from diffrl.training.train import Outcome, train


def test_a_trace_shows_the_chunk_and_changes_nothing(tmp_path: Path) -> None:
    """It opens as JSON and holds what the device executed, with times; states are bit-equal without it."""
    config = config_of()
    with unchecked():
        assert train(config, tmp_path / "traced", source(), profiler=Profiler(tmp_path / "profile")) == Outcome(True, ())
        train(config, tmp_path / "plain", source())
    assert trees_equal(*(state_of(config, tmp_path / name, UPDATES) for name in ("traced", "plain")))
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "policy.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert sum(event.get("dur", 0.0) for event in events if "Execute" in event.get("name", "")) > 0.0
