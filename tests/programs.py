"""Running the programs as a user does: in a process of their own."""

import atexit
import functools
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from diffrl.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]

# Small enough that a whole training is seconds, large enough that every stage has several chunks and checkpoints.
TINY_SRPO = (
    "--config=experiments/srpo_pointmaze.py:umaze",
    "--config.num_seeds=3",
    "--config.updates_per_chunk=4",
    "--config.checkpoint_every=8",
    "--config.algorithm.behavior_hidden_dim=8",
    "--config.algorithm.behavior_blocks=1",
    "--config.algorithm.critic_hidden_dims=(8,)",
    "--config.algorithm.policy_hidden_dims=(8,)",
    "--config.algorithm.behavior_updates=18",
    "--config.algorithm.critic_updates=16",
    "--config.algorithm.policy_updates=24",
    "--config.algorithm.behavior_batch_size=8",
    "--config.algorithm.critic_batch_size=8",
    "--config.algorithm.policy_batch_size=8",
)


def environment(root: Path) -> dict[str, str]:
    """Datasets under `root`; compiled programs in the cache of all tests."""
    return {
        **os.environ,
        "MINARI_DATASETS_PATH": str(root / "datasets"),
        "COLUMNS": "160",
    }


# Programs are forked from a process that has imported what all of them import (four seconds each), and has started nothing yet.
IMPORTED = (
    *("diffrl.cli", "diffrl.registry", "diffrl.training.train", "diffrl.evaluation.evaluate", "diffrl.collection.recipes"),
    *("diffrl.reports.tables", "diffrl.reports.plots", "gymnasium", "h5py"),
)
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*IMPORTED])


def run(
    root: Path, *command: str, code: int | None = 0, timeout: float = 200.0, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python command…` from the repository's root and check its exit code (None: any)."""
    # Nobody listens on the discard port of this machine: a network that is not there.
    env = environment(root) | ({"HF_ENDPOINT": "http://127.0.0.1:9"} if offline else {})
    (root / "datasets").mkdir(parents=True, exist_ok=True)
    if command[0].endswith(".py"):
        result = _run_forked(command, env, timeout)
    else:
        result = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    if code is not None:
        assert result.returncode == code, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


def _run_forked(command: tuple[str, ...], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _forks.Process(target=_become, args=(command, env, *outputs))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        stdout, stderr = (path.read_text() for path in outputs)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _become(command: tuple[str, ...], env: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Turn this process into the program."""
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    sys.argv, sys.path[0] = list(command), str(ROOT / Path(command[0]).parent)
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def collect(root: Path, recipe: str = "pointmaze/umaze-fixedgoal-v0", rows: int = 2000, *more: str) -> None:
    """A small dataset from the real simulator; one that another test has collected is copied."""
    command = ("launch/collect.py", f"--recipe={recipe}", f"--rows={rows}", "--workers=1")
    if more:
        run(root, *command, *more)
    else:
        shutil.copytree(_collected(*command), root / "datasets", dirs_exist_ok=True)


@functools.cache
def _collected(*command: str) -> Path:
    root = Path(tempfile.mkdtemp(dir=os.environ["XDG_CACHE_HOME"]))
    run(root, *command)
    return root / "datasets"


def checksums(workdir: Path) -> dict[int, object]:
    """Of every checkpoint what was noted of its arrays: equal if and only if they are, bit for bit."""
    checkpoints = Checkpoints(workdir)
    return {step: checkpoints.progress(step).checksums for step in checkpoints.steps()}


def assert_same_checkpoints(a: Path, b: Path) -> None:
    """Every checkpoint of b is in a, bit for bit, and the metric files are equal. A signal may have left a more of them."""
    found, expected = checksums(a), checksums(b)
    assert {step: found.get(step) for step in expected} == expected
    assert (a / "metrics/train.jsonl").read_bytes() == (b / "metrics/train.jsonl").read_bytes()
