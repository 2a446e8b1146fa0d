"""What goes wrong on machines: full disks, damaged files, two trainers, runs that diverge, clocks. Each ends in one clear line,
loses nothing that was saved, and lets the same command go on."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from programs import ROOT, TINY_BC, TINY_SRPO, assert_same_checkpoints, collect, environment, run, start
from support import chosen, trees_equal

from diffrl import config as configs
from diffrl import records
from diffrl.registry import make
from diffrl.training.checkpoint import CheckpointError, Checkpoints, Progress
from diffrl.training.devices import make_mesh
from diffrl.training.runs import abstract_states, make_runs
from diffrl.types import Spec

TRAIN = ("launch/train.py", *TINY_BC)
SPARE = 20  # kilobytes left on a full disk: less than a checkpoint


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    collect(root)
    return root


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """The workdir of a training that nothing disturbed."""
    run(root, *TRAIN, f"--workdir={root / 'whole'}")
    return root / "whole"


def unfinished(whole: Path, workdir: Path, last: int) -> Path:
    """A copy of a finished training as it was when killed after the checkpoint `last`."""
    shutil.copytree(whole, workdir)
    (workdir / "DONE").unlink()
    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > last:
            shutil.rmtree(path)
    return workdir


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


@pytest.mark.parametrize(("item", "kind"), [("state", "flipped"), ("metadata", "cut"), ("policy", "missing")])
def test_damaged_checkpoint_is_refused_by_name(root: Path, whole: Path, item: str, kind: str) -> None:
    """The programs name the checkpoint and offer the one before."""
    workdir = unfinished(whole, root / f"{kind}-{item}", 58)
    folder = workdir / "checkpoints" / "58" / item
    for path in folder.rglob("d/*") if item == "policy" else [largest_file(folder)]:
        damage(path, kind)
    program = ("launch/evaluate.py", "--step=58", "--episodes=1") if item == "policy" else TRAIN
    result = run(root, *program, f"--workdir={workdir}", code=2)
    assert str(workdir / "checkpoints" / "58") in result.stderr
    assert "goes on from 56" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("item", chosen(["state", "policy"], 0))
def test_whatever_file_is_damaged_nothing_wrong_is_read(root: Path, whole: Path, item: str) -> None:
    """Every file of an item, in three ways: what is restored is what was saved, or it is refused."""
    config, spec = configs.load(whole), records.read(whole / "spec.json", Spec)
    algorithm, runs = make(config.algorithm, spec), make_runs(config)
    abstract = abstract_states(algorithm, runs, runs.size, make_mesh(1))
    abstract = abstract if item == "state" else algorithm.policy(abstract)

    def restore(workdir: Path) -> Any:
        checkpoints = Checkpoints(workdir)
        try:
            return (checkpoints.restore_state if item == "state" else checkpoints.restore_policy)(58, abstract)
        finally:
            checkpoints.close()

    saved = restore(whole)
    refused = 0
    files = [path.relative_to(whole) for path in (whole / "checkpoints" / "58" / item).rglob("*") if path.is_file()]
    for i, name in enumerate(files):
        for kind in ("flipped", "missing", "cut"):
            workdir = unfinished(whole, root / f"{item}-{i}-{kind}", 58)
            damage(workdir / name, kind)
            try:
                assert trees_equal(restore(workdir), saved)
            except CheckpointError as error:
                refused += str(workdir / "checkpoints" / "58") in str(error)
            shutil.rmtree(workdir)
    assert len(files) > 5
    assert refused > len(files) // 2


def test_after_moving_a_damaged_checkpoint_away_training_goes_on(root: Path, whole: Path) -> None:
    workdir = unfinished(whole, root / "mended", 40)
    damage(largest_file(workdir / "checkpoints" / "40" / "state"), "flipped")
    assert "goes on from 32" in run(root, *TRAIN, f"--workdir={workdir}", code=2).stderr
    shutil.move(workdir / "checkpoints" / "40", root / "damaged")
    assert "resuming at update 32" in run(root, *TRAIN, f"--workdir={workdir}").stdout
    assert_same_checkpoints(workdir, whole)


@pytest.mark.parametrize("rows", [(0, 2), (1,), (0, 2**62), (2**62,) * 3])
def test_rows_of_a_checkpoint_are_no_sizes(rows: tuple[int, ...]) -> None:
    """A number in a file is compared before anything of its size is made: with 2^62 that would be all memory."""
    with pytest.raises(ValueError, match="rows leaves out rows"):
        Progress(1, "policy", 0, 1, rows=rows)


def test_reading_beside_a_trainer_that_removes(tmp_path: Path) -> None:
    """Steps that come and go while a reader lists them do not disturb it, and those that stay are always there."""
    writer = Checkpoints(tmp_path, write=True)
    for step in (1, 2):
        writer.save({"w": jnp.ones(3)}, {"w": jnp.ones(3)}, Progress(step, "policy", 0, 1))
    writer.close()
    folder, ended = tmp_path / "checkpoints", threading.Event()

    def come_and_go() -> None:
        for step in itertools.count(3):
            if ended.is_set():
                return
            shutil.copytree(folder / "2", folder / "new")
            (folder / "new").rename(folder / str(step))
            shutil.rmtree(folder / str(step))

    trainer = threading.Thread(target=come_and_go)
    trainer.start()
    try:
        for _ in range(10):
            reader = Checkpoints(tmp_path)
            for _ in range(10):
                reader.reload()
                assert reader.steps()[:2] == [1, 2]
            reader.close()
    finally:
        ended.set()
        trainer.join()


def test_two_trainers_on_one_workdir(root: Path, whole: Path) -> None:
    """The second is refused while the first lives, at work or stopped; a dead one holds nothing."""
    workdir = unfinished(whole, root / "owned", 16)
    first = start(root, *TRAIN, f"--workdir={workdir}")
    first.wait_for(lambda: "resuming" in first.said())
    first.send(signal.SIGSTOP)
    try:
        result = run(root, *TRAIN, f"--workdir={workdir}", code=2)
        assert f"in use by another trainer (process {first.pid} on" in result.stderr
    finally:
        first.send(signal.SIGKILL)
        first.end()
    run(root, *TRAIN, f"--workdir={workdir}")
    assert_same_checkpoints(workdir, whole)


@pytest.mark.slow
def test_a_diverged_run_is_frozen_and_harms_nobody(root: Path) -> None:
    """Exit code 3, the run by name, its neighbours bit-equal to those of a sweep without it, and no score for it."""

    def train(name: str, rates: str, code: int) -> str:
        sweep = ("--config.num_seeds=2", f"--config.sweep=learning_rate={rates}")
        return run(root, "launch/train.py", *TINY_SRPO, *sweep, f"--workdir={root / name}", code=code).stdout

    def neighbours(name: str) -> list[dict]:
        rows = [json.loads(line) for line in (root / name / "metrics" / "train.jsonl").read_text().splitlines()]
        return [row for row in rows if row["run"] < 2]

    train("healthy", "1e-3,2e-3", 0)
    output = train("sick", "1e-3,1e38", 3)
    assert "run 2 (seed 0 {'learning_rate': 1e+38}) diverged before" in output
    assert "2 diverged" in output
    assert "already trained" in train("sick", "1e-3,1e38", 3)
    assert neighbours("healthy") == neighbours("sick")
    assert len(neighbours("sick")) == 100
    assert sorted(Checkpoints(root / "sick").progress(58).diverged) == [2, 3]

    runs = {}
    for name in ("healthy", "sick"):
        run(root, "launch/evaluate.py", f"--workdir={root / name}", "--episodes=2", "--step=last")
        (path,) = (root / name / "evaluations" / "58").glob("*.json")
        runs[name] = json.loads(path.read_text())["runs"]
    assert runs["sick"][:2] == runs["healthy"][:2]
    assert [each["returns"] for each in runs["sick"][2:]] == [[None, None]] * 2
    assert runs["sick"][2]["stopped"].startswith("diverged before")


@cache
def can_mount() -> bool:
    """Whether this machine lets us have a file system of our own."""
    probe = ["unshare", "--mount", "--map-root-user", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs a mount namespace (unshare --mount) to have a disk to fill")


def on_own_disk(root: Path, disk: Path, script: str) -> str:
    """Output of a shell script that sees an empty file system of 400 MB at `disk`, gone afterwards; $TRAIN trains in disk/w."""
    disk.mkdir()
    train = " ".join([sys.executable, *(f"'{word}'" for word in TRAIN), f"--workdir={disk / 'w'}"])
    setup = f"set -e; mount -t tmpfs -o size=400m tmpfs {disk}; TRAIN={json.dumps(train)}; "
    command = ["unshare", "--mount", "--map-root-user", "bash", "-c", setup + script]
    result = subprocess.run(command, cwd=ROOT, env=environment(root), capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def filled(disk: Path, kilobytes: int) -> str:
    """Shell: fill the disk but for a rest."""
    return f"""
        free=$(df --output=avail -k {disk} | tail -1)
        head -c $(( (free - {kilobytes}) * 1024 )) /dev/zero > {disk / "ballast"}
        """


@needs_mount
def test_disk_full_during_a_save(root: Path, whole: Path) -> None:
    """Exit code 2, one line, the checkpoints before whole; with room again the same command ends as if nothing had been."""
    unfinished(whole, root / "almost", 16)
    disk = root / "disk"
    script = f"""
        cp -r {root / "almost"} {disk / "w"}
        {filled(disk, SPARE)}
        code=0; eval "$TRAIN" || code=$?; echo "exit code $code"
        echo "whole:" $(ls {disk / "w" / "checkpoints"} | grep -x "[0-9]*")
        cp -r {disk / "w"} {root / "refilled"}
        """
    output = on_own_disk(root, disk, script)
    assert "exit code 2" in output
    assert "Traceback" not in output
    assert "No space left on device" in output
    assert "whole: 16 8\n" in output
    run(root, *TRAIN, f"--workdir={root / 'refilled'}")
    assert_same_checkpoints(root / "refilled", whole)


@needs_mount
def test_read_only_workdir(root: Path, whole: Path) -> None:
    unfinished(whole, root / "frozen", 16)
    disk = root / "readonly"
    script = f"""
        cp -r {root / "frozen"} {disk / "w"}
        mount -o remount,ro {disk}
        code=0; eval "$TRAIN" || code=$?; echo "exit code $code"
        """
    output = on_own_disk(root, disk, script)
    assert f"error: cannot write to {disk / 'w'}: Read-only file system" in output
    assert "exit code 2" in output


@needs_mount
@pytest.mark.parametrize(
    ("state", "said"),
    [("full", "error: No space left on device: {out}/results"), ("readonly", "error: Read-only file system: {out}")],
)
def test_a_report_that_cannot_be_written(root: Path, whole: Path, state: str, said: str) -> None:
    """One line that names the file; nothing half-written stays, and what was there before is whole."""
    run(root, "launch/evaluate.py", f"--workdir={whole}", "--episodes=1", "--norender")
    disk, words = root / f"report-{state}", " ".join([sys.executable, "launch/report.py", str(whole), "--nodata"])
    script = f"""
        mkdir {disk / "out"}; echo before > {disk / "out" / "results.md"}
        {filled(disk, 0) if state == "full" else f"mount -o remount,ro {disk}"}
        code=0; {words} --out={disk / "out"} || code=$?; echo "exit code $code"
        echo "there:" $(ls -A {disk / "out"}) $(cat {disk / "out" / "results.md"})
        """
    output = on_own_disk(root, disk, script)
    assert said.format(out=disk / "out") in output
    assert "exit code 2\nthere: results.md before\n" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("years", chosen([-10, 10], 0))
def test_clocks_that_disagree(root: Path, whole: Path, years: int) -> None:
    """Files from a host whose clock is wrong: nothing asks a file for its time."""
    workdir = unfinished(whole, root / f"clock{years}", 32)
    when = time.time() + years * 365 * 86400
    for path in workdir.rglob("*"):
        os.utime(path, (when, when))
    run(root, *TRAIN, f"--workdir={workdir}")
    assert_same_checkpoints(workdir, whole)
