"""Signals at random moments: start-up, compilation, inside saves, between stages. The end is that of a program left alone."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from programs import HOLE_INTEGRATOR, ROOT, TINY_BC, TINY_QSM, TINY_SRPO, assert_same_checkpoints, collect, environment, run

from diffrl.data import minari

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Case(NamedTuple):
    """A program.

    Attributes:
        command: (folder of the case, name of what it makes) -> words.
        compare: (folder, name, name of what a program left alone made) asserts that they are the same.
    """

    command: Callable[[Path, str], tuple[str, ...]]
    compare: Callable[[Path, str, str], None]


def same_checkpoints(root: Path, made: str, whole: str) -> None:
    assert_same_checkpoints(root / made, root / whole)


def same_rows(root: Path, made: str, whole: str) -> None:
    """And nothing of what was half done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root / "datasets"))
        rows, expected = (minari.load(f"kills/{name}-v0").transitions for name in (made, whole))
    for name in ("observation", "action", "reward", "next_observation", "terminal"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))
    assert list((root / "datasets" / "kills").glob(".*")) == []


def same_bytes(root: Path, made: str, whole: str) -> None:
    """Pictures and times apart."""
    names = [
        {str(path.relative_to(root / each)) for path in (root / each).rglob("*") if path.is_file()} for each in (made, whole)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith((".csv", ".npz", "arrays.json", "results.md")):
            assert (root / made / name).read_bytes() == (root / whole / name).read_bytes(), name


def same_sweep(root: Path, made: str, whole: str) -> None:
    for path in (root / whole).glob("*/DONE"):
        group = path.parent.name
        assert_same_checkpoints(root / made / group, root / whole / group)
    assert (root / made / "report" / "sweep.csv").read_bytes() == (root / whole / "report" / "sweep.csv").read_bytes()


CASES = {
    "training": Case(lambda root, name: ("launch/train.py", *TINY_SRPO, f"--workdir={root / name}"), same_checkpoints),
    "online": Case(
        lambda root, name: ("launch/train.py", *TINY_QSM, *HOLE_INTEGRATOR, f"--workdir={root / name}"), same_checkpoints
    ),
    "collection": Case(
        lambda root, name: (
            *("launch/collect.py", "--recipe=pointmaze/umaze-fixedgoal-v0", "--rows=30000", "--workers=2"),
            f"--id=kills/{name}-v0",
        ),
        same_rows,
    ),
    "sweep": Case(
        lambda root, name: (
            *("launch/sweep.py", *TINY_BC, "--config.checkpoint_every=24", "--episodes=2"),
            *("--sweep=learning_rate=0.1,0.2", "--sweep=hidden_dims=(8,),(16,)", f"--out={root / name}"),
        ),
        same_sweep,
    ),
    "report": Case(lambda root, name: ("launch/report.py", str(root / "cloned"), f"--out={root / name}"), same_bytes),
    "export": Case(
        lambda root, name: ("launch/export.py", f"--workdir={root / 'cloned'}", "--format=npz", f"--out={root / name}"),
        same_bytes,
    ),
}


def disturb(case: Case, root: Path, seed: int, kills: int) -> None:
    """Programs that are signalled and started again until `kills` signals have come; what each makes is compared."""
    run(root, *case.command(root, "first"))
    began = time.monotonic()
    run(root, *case.command(root, "whole"))  # its programs compiled before
    duration = time.monotonic() - began
    draw, count, trial = random.Random(seed), 0, 0
    while count < kills:
        made, trial, signalled = f"disturbed{trial}", trial + 1, True
        while signalled:
            process = subprocess.Popen(
                [sys.executable, *case.command(root, made)],
                cwd=ROOT,
                env=environment(root),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                moment, number, signalled = draw.uniform(0.0, duration), draw.choice(SIGNALS), False
                try:
                    process.wait(moment if count < kills else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
                    count, signalled = count + 1, True
                    print(f"{number.name} after {moment:.1f} of {duration:.1f} s", file=sys.stderr)
                output, _ = process.communicate(timeout=200)
            finally:
                process.kill()
            assert process.returncode in ((0, 130, *(-number for number in SIGNALS)) if signalled else (0,)), output[-2000:]
        case.compare(root, made, "whole")
    print(f"{count} signals in {trial} programs", file=sys.stderr)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    collect(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_signals(root: Path) -> None:
    disturb(CASES["training"], root, seed=0, kills=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_many_signals(name: str, root: Path) -> None:
    """Fifty in trainings, ten in every other program."""
    if name in ("report", "export"):
        run(root, "launch/train.py", *TINY_BC, f"--workdir={root / 'cloned'}")
        run(root, "launch/evaluate.py", f"--workdir={root / 'cloned'}", "--episodes=2")
    disturb(CASES[name], root, seed=1, kills=50 if name == "training" else 10)
