"""The evaluator beside the trainer: killed and started again, checkpoints that disappear, a workdir it may not write to."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import ROOT, TINY_BC, TINY_SRPO, collect, environment, run

from diffrl.evaluation import results

# Eight checkpoints in the last stage.
TRAIN = ("launch/train.py", *TINY_SRPO, "--config.num_seeds=2", "--config.algorithm.policy_updates=64")
EVALUATE = ("launch/evaluate.py", "--episodes=2")
LAST_STAGE = list(range(42, 99, 8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset."""
    root = tmp_path_factory.mktemp("evaluator")
    collect(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    """A finished training, evaluated in peace."""
    run(root, *TRAIN, f"--workdir={root / 'undisturbed'}")
    run(root, *EVALUATE, f"--workdir={root / 'undisturbed'}")
    return root / "undisturbed"


@pytest.fixture(scope="module")
def evaluated(root: Path) -> Path:
    """A training that is over in a moment, evaluated."""
    run(root, "launch/train.py", *TINY_BC, "--config.checkpoint_every=32", f"--workdir={root / 'evaluated'}")
    run(root, *EVALUATE, f"--workdir={root / 'evaluated'}")
    return root / "evaluated"


def start(root: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def found(workdir: Path) -> dict[int, list[str]]:
    """Result files by step; what an interrupted write leaves has a hidden name."""
    return {
        int(folder.name): sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        for folder in workdir.glob("evaluations/*")
    }


def contents(workdir: Path, step: int) -> tuple[Any, np.ndarray]:
    """What a result says, and its trajectories."""
    (path,) = (workdir / "evaluations" / str(step)).glob("*.json")
    result = results.load(path)
    recorded = results.trajectories(workdir, result)
    assert recorded is not None
    return json.loads(path.read_text()), recorded


def kill_and_restart(root: Path, undisturbed: Path, workdir: Path, kills: int, seed: int) -> None:
    """Kills at random moments of the evaluator's life: while it starts, and around the writing of a result."""
    rng = np.random.default_rng(seed)
    trainer = start(root, *TRAIN, f"--workdir={workdir}")
    killed = 0
    try:
        while killed < kills:
            evaluator = start(root, *EVALUATE, "--watch", f"--workdir={workdir}")
            before, deadline = found(workdir), time.monotonic() + 60.0
            if killed % 3 == 0:
                time.sleep(rng.uniform(0.0, 6.0))
            else:
                while found(workdir) == before and evaluator.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 0.4))
            evaluator.send_signal(signal.SIGKILL)
            evaluator.communicate()
            killed += 1
            if len(found(workdir)) == len(LAST_STAGE) and (workdir / "DONE").exists():
                shutil.rmtree(workdir / "evaluations" / str(rng.choice(LAST_STAGE)))  # or the rest would have nothing to do
        evaluator = start(root, *EVALUATE, "--watch", f"--workdir={workdir}")
        output, _ = evaluator.communicate(timeout=200)
        assert evaluator.returncode == 0, output
        assert trainer.wait(timeout=200) == 0
    finally:
        for process in (trainer, evaluator):
            process.kill()
            process.communicate()
    assert found(workdir) == found(undisturbed) == {step: found(undisturbed)[42] for step in LAST_STAGE}
    assert len(found(workdir)[42]) == 2
    for step in LAST_STAGE:
        said, recorded = contents(workdir, step)
        expected, trajectories = contents(undisturbed, step)
        assert said == expected
        np.testing.assert_array_equal(recorded, trajectories)


@pytest.mark.slow
def test_killed_beside_the_trainer(root: Path, undisturbed: Path) -> None:
    """Every checkpoint of the last stage has one whole result, the one it has without any disturbance."""
    kill_and_restart(root, undisturbed, root / "killed", kills=4, seed=0)


@pytest.mark.slow
def test_killed_often_beside_the_trainer(root: Path, undisturbed: Path) -> None:
    kill_and_restart(root, undisturbed, root / "killed_often", kills=25, seed=1)


@pytest.mark.slow
def test_retention_removes_what_is_to_be_evaluated(root: Path, undisturbed: Path) -> None:
    """Beside a trainer that keeps one checkpoint: what was evaluated is right, and the last is among it."""
    workdir = root / "forgetful"
    evaluator = start(root, *EVALUATE, "--watch", f"--workdir={workdir}")
    try:
        run(root, *TRAIN, "--config.max_to_keep=1", f"--workdir={workdir}")
        output, _ = evaluator.communicate(timeout=200)
    finally:
        evaluator.kill()
        evaluator.communicate()
    assert evaluator.returncode == 0, output
    assert "Traceback" not in output
    whole = {step for step, files in found(workdir).items() if files}
    assert LAST_STAGE[-1] in whole <= set(LAST_STAGE)
    for step in whole:
        assert contents(workdir, step)[0] == contents(undisturbed, step)[0]


POWERLESS = "tests/mishaps/powerless.py"


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_workdir_that_cannot_be_written_to(root: Path, evaluated: Path, tmp_path: Path) -> None:
    """Said in one line before any episode; where all is evaluated already, reading is enough."""
    workdir = tmp_path / "read_only"
    shutil.copytree(evaluated, workdir)
    folders = [workdir, workdir / "evaluations", *workdir.glob("evaluations/*")]
    for folder in folders:
        folder.chmod(0o500)
    try:
        read = run(root, POWERLESS, *EVALUATE, f"--workdir={workdir}")
        assert read.stdout.count("exists, skipped") == 2
        refused = run(root, POWERLESS, *EVALUATE, "--seed=1", f"--workdir={workdir}", code=2)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: cannot write results to {workdir}/evaluations/32")
    assert "mean" not in refused.stdout


def test_something_else_in_the_place_of_results(root: Path, evaluated: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "occupied"
    shutil.copytree(evaluated, workdir, ignore=shutil.ignore_patterns("evaluations"))
    (workdir / "evaluations").write_text("not a folder")
    refused = run(root, *EVALUATE, f"--workdir={workdir}", code=2)
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: cannot write results to {workdir}/evaluations/32: Not a directory")
