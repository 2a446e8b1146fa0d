"""Schedulers repeat their signals: what is being saved after the first must not be lost to the second."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT, TINY_SRPO, collect, environment

from diffrl.training.checkpoint import Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_does_not_stop_the_save(tmp_path: Path, number: signal.Signals) -> None:
    collect(tmp_path)
    workdir = tmp_path / "run"
    # Long enough not to be at its end yet; nothing but the signal makes a checkpoint of its last stage.
    long = ("--config.algorithm.policy_updates=1000000", "--config.checkpoint_every=1000000", f"--workdir={workdir}")
    with subprocess.Popen(
        [sys.executable, "launch/train.py", *TINY_SRPO, *long],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            metrics = workdir / "metrics" / "train.jsonl"
            while not (metrics.exists() and '"policy"' in metrics.read_text()) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(number)
            time.sleep(0.01)
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert f"stopped by {number.name}" in output
    assert Checkpoints(workdir).steps()[-1] > 18 + 16
