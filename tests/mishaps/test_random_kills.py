"""Signals at random moments: start-up, compilation, inside saves, between stages. The end is that of a training left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT, TINY_SRPO, assert_same_checkpoints, collect, environment, run

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def disturb(root: Path, whole: Path, duration: float, seed: int, kills: int) -> None:
    """Trainings that are signalled and started again until `kills` signals have come; each that ends is compared."""
    draw = random.Random(seed)
    count = trial = 0
    while count < kills:
        workdir = root / f"disturbed{seed}-{trial}"
        trial += 1
        while not (workdir / "DONE").exists():
            command = [sys.executable, "launch/train.py", *TINY_SRPO, f"--workdir={workdir}"]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                if count < kills:
                    moment, number = draw.uniform(0.0, duration), draw.choice(SIGNALS)
                    try:
                        process.wait(moment)
                    except subprocess.TimeoutExpired:
                        process.send_signal(number)
                        count += 1
                        print(f"{number.name} after {moment:.1f} of {duration:.1f} s", file=sys.stderr)
                output, _ = process.communicate(timeout=200)
            finally:
                process.kill()
            assert process.returncode in (0, 130, *(-number for number in SIGNALS)), output[-2000:]
        assert_same_checkpoints(workdir, whole)
    print(f"{count} signals in {trial} trainings", file=sys.stderr)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    collect(root)
    return root


@pytest.fixture(scope="module")
def whole(root: Path) -> tuple[Path, float]:
    """A training that nothing disturbed, and how long it takes with its programs compiled before."""
    run(root, "launch/train.py", *TINY_SRPO, f"--workdir={root / 'first'}")
    began = time.monotonic()
    run(root, "launch/train.py", *TINY_SRPO, f"--workdir={root / 'whole'}")
    return root / "whole", time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_signals(root: Path, whole: tuple[Path, float]) -> None:
    disturb(root, *whole, seed=0, kills=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_signals(root: Path, whole: tuple[Path, float]) -> None:
    disturb(root, *whole, seed=1, kills=50)
