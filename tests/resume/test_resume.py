"""An interrupted training ends where the uninterrupted one does: same parameters, same metrics, bit for bit on CPU."""

import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from programs import TINY_BC, TINY_SRPO, assert_same_checkpoints, collect, run, start

from diffrl import config as configs
from diffrl import records
from diffrl.registry import make
from diffrl.training.checkpoint import CheckpointError, Checkpoints
from diffrl.training.devices import make_mesh
from diffrl.training.runs import abstract_states, make_runs
from diffrl.types import Spec

TRAIN = ("launch/train.py", *TINY_SRPO)
KILLED = "tests/resume/killed_trainer.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset."""
    root = tmp_path_factory.mktemp("resume")
    collect(root)
    return root


@pytest.fixture(scope="module")
def uninterrupted(root: Path) -> Path:
    """The workdir of a training that nothing disturbed."""
    run(root, *TRAIN, f"--workdir={root / 'uninterrupted'}")
    return root / "uninterrupted"


def final_state(workdir: Path) -> Any:
    """The last checkpoint's whole state."""
    assert (workdir / "DONE").exists()
    config = configs.load(workdir)
    algorithm = make(config.algorithm, records.read(workdir / "spec.json", Spec))
    runs = make_runs(config)
    checkpoints = Checkpoints(workdir)
    abstract = abstract_states(algorithm, runs, runs.size, make_mesh(runs.size))
    return jax.device_get(checkpoints.restore_state(checkpoints.steps()[-1], abstract))


def assert_same_training(a: Path, b: Path) -> None:
    """Bit-equal final states and equal metric files."""
    leaves_a, leaves_b = jax.tree.leaves(final_state(a)), jax.tree.leaves(final_state(b))
    assert len(leaves_a) == len(leaves_b) > 50
    for x, y in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a / "metrics" / "train.jsonl").read_bytes() == (b / "metrics" / "train.jsonl").read_bytes()


def test_saves_at_stage_ends_and_in_between(uninterrupted: Path) -> None:
    """18 + 16 + 24 updates, a checkpoint every 8 at the chunk that reaches it, and one at the end of each stage."""
    checkpoints = Checkpoints(uninterrupted)
    assert checkpoints.steps() == [8, 16, 18, 26, 34, 42, 50, 58]
    assert [checkpoints.progress(step).stage for step in (18, 26, 58)] == ["behavior", "critic", "policy"]


@pytest.mark.parametrize(
    ("moment", "save"),
    [
        ("inside", 2),
        pytest.param("after", 3, marks=pytest.mark.slow),
        pytest.param("before", 3, marks=pytest.mark.slow),
        pytest.param("inside", 3, marks=pytest.mark.slow),
        pytest.param("inside", 6, marks=pytest.mark.slow),
        pytest.param("before", 1, marks=pytest.mark.slow),
    ],
    ids=[
        "inside-a-save",
        "between-stages",
        "before-a-stage-ends",
        "inside-a-stage's-last-save",
        "policy-stage",
        "before-any-save",
    ],
)
def test_killed_and_started_again(root: Path, uninterrupted: Path, moment: str, save: int) -> None:
    """SIGKILL loses at most what came after the last checkpoint, and the next start makes it up exactly."""
    workdir = root / f"{moment}{save}"
    killed = run(root, KILLED, moment, str(save), *TINY_SRPO, f"--workdir={workdir}", code=None)
    assert killed.returncode == -signal.SIGKILL
    assert not (workdir / "DONE").exists()
    run(root, *TRAIN, f"--workdir={workdir}")
    assert_same_training(workdir, uninterrupted)


def test_sigterm_saves_and_exits_0(root: Path) -> None:
    """A scheduler's signal ends the program cleanly with its state saved, wherever it comes."""
    long = ("launch/train.py", *TINY_BC, "--config.algorithm.num_updates=2000", "--config.checkpoint_every=500")
    workdir = root / "sigterm"
    program = start(root, *long, f"--workdir={workdir}")
    program.wait_for((workdir / "metrics" / "train.jsonl").exists)
    program.send(signal.SIGTERM)
    ended = program.end()
    assert ended.returncode == 0, ended.stderr
    if not (workdir / "DONE").exists():
        assert "stopped by SIGTERM" in ended.stdout
        assert "run the same command to go on" in ended.stdout
        run(root, *long, f"--workdir={workdir}")
    run(root, *long, f"--workdir={root / 'long'}")
    assert_same_checkpoints(workdir, root / "long")


@pytest.mark.slow
def test_another_number_of_devices(root: Path, uninterrupted: Path) -> None:
    """Started on one device, finished on two with padding (3 runs): equal to tolerance."""
    workdir = root / "devices"
    run(root, KILLED, "after", "4", *TINY_SRPO, f"--workdir={workdir}", "--cpu_devices=1", code=None)
    run(root, *TRAIN, f"--workdir={workdir}", "--cpu_devices=2")
    for x, y in zip(jax.tree.leaves(final_state(workdir)), jax.tree.leaves(final_state(uninterrupted)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_finished_training_is_left_alone(root: Path, uninterrupted: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in uninterrupted.rglob("*"))
    result = run(root, *TRAIN, f"--workdir={uninterrupted}")
    assert "already trained" in result.stdout
    assert sorted((path, path.stat().st_mtime_ns) for path in uninterrupted.rglob("*")) == before


def test_another_config_is_refused_by_name(root: Path, uninterrupted: Path) -> None:
    result = run(root, *TRAIN, "--config.algorithm.beta=0.7", f"--workdir={uninterrupted}", code=2)
    assert "algorithm.beta: " in result.stderr
    assert "0.7 now" in result.stderr


def test_changed_data_are_refused(root: Path) -> None:
    """A dataset of the same name with other rows is not the dataset the training began with."""
    changed = root / "changed"
    collect(changed)
    run(changed, KILLED, "after", "1", *TINY_BC, f"--workdir={changed / 'run'}", code=None)
    collect(changed, "pointmaze/umaze-fixedgoal-v0", 2000, "--seed=1", "--overwrite")
    result = run(changed, "launch/train.py", *TINY_BC, f"--workdir={changed / 'run'}", code=2)
    assert "sha256" in result.stderr
    assert Checkpoints(changed / "run").steps() == [8]


def test_missing_checkpoint_says_which_there_are(uninterrupted: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are: 8, 16, 18"):
        Checkpoints(uninterrupted).progress(7)
