"""Writers and the console."""

import io
import json
from pathlib import Path

import numpy as np
from rich.console import Console

from diffrl.logging.console import TrainingDisplay, duration, spread
from diffrl.logging.writers import METRICS, Entry, JsonLinesWriter, TensorBoardWriter


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_are_long_format(tmp_path: Path) -> None:
    """One line per run and name; what is not finite becomes null, which JSON has."""
    path = tmp_path / METRICS
    writer = JsonLinesWriter(tmp_path, [3, 4], [{}, {"beta": 0.5}], resume_step=0)
    writer.write(Entry(10, "policy", {"policy/loss": np.array([1.5, np.nan])}, [0, 1]))
    writer.close()
    assert rows(path) == [
        {"step": 10, "stage": "policy", "run": 0, "seed": 3, "hparams": {}, "name": "policy/loss", "value": 1.5},
        {"step": 10, "stage": "policy", "run": 1, "seed": 4, "hparams": {"beta": 0.5}, "name": "policy/loss", "value": None},
    ]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """Lines beyond the restored step go, and so does a line that was half written."""
    path = tmp_path / METRICS
    writer = JsonLinesWriter(tmp_path, [0], [{}], resume_step=0)
    for step in (10, 20, 30):
        writer.write(Entry(step, "s", {"policy/loss": np.array([float(step)])}, [0]))
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 40, "sta')
    JsonLinesWriter(tmp_path, [0], [{}], resume_step=20).close()
    assert [row["step"] for row in rows(path)] == [10, 20]


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path, ["seed0", "seed1"], resume_step=0)
    writer.write(Entry(10, "policy", {"policy/loss": np.array([1.0, 2.0])}, [0, 1]))
    writer.close()
    (event,) = tmp_path.glob("events*")
    content = event.read_bytes()
    assert b"policy/policy/loss/mean" in content
    assert b"policy/policy/loss/seed1" in content


def test_plain_output_names_stage_rate_and_spread() -> None:
    """Where there is no terminal a line says it all, and ends are always said."""
    out = io.StringIO()
    display = TrainingDisplay(2, Console(file=out, width=200), plain_every=0.0)
    with display:
        display.start("critic", 0, 300)
        for done in (100, 200, 300):
            display.advance(done, {"critic/loss": np.array([1.0, 3.0]), "value/loss": np.array([2.0, 2.0])})
    lines = out.getvalue().splitlines()
    assert lines[-1].startswith("critic: 300/300 updates")
    assert "over 2 runs" in lines[-1]
    assert "critic/loss 2 [1, 3]" in lines[-1]
    assert "value/loss" not in lines[-1]  # the first in the alphabet stands for all


def test_durations_and_spreads() -> None:
    assert [duration(s) for s in (4.0, 185.0, 7440.0)] == ["4s", "3m05s", "2h04m"]
    assert spread("critic/loss", np.array([np.nan, 2.0])) == "critic/loss 2"
    assert spread("critic/loss", np.array([np.nan])) == "critic/loss not finite"
