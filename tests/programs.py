"""Running the programs as a user does: in a process of their own."""

import atexit
import functools
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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

# One network and one stage: for what does not depend on the method. Checkpoints at 8, 16, … 56 and 58.
TINY_BC = (
    "--config=experiments/bc_pointmaze.py:umaze",
    "--config.num_seeds=3",
    "--config.updates_per_chunk=4",
    "--config.checkpoint_every=8",
    "--config.algorithm.hidden_dims=(8,)",
    "--config.algorithm.num_updates=58",
    "--config.algorithm.batch_size=8",
)

# By interaction: 160 steps of the environment, after 60 of random actions.
TINY_QSM = (
    "--config=experiments/qsm_dmc.py:small/cartpole-swingup",
    "--config.num_seeds=3",
    "--config.updates_per_chunk=20",
    "--config.checkpoint_every=40",
    "--config.algorithm.hidden_dims=(8,)",
    "--config.algorithm.critic_hidden_dims=(8,)",
    "--config.algorithm.batch_size=8",
    "--config.algorithm.num_diffusion_steps=2",
    "--config.online.num_env_steps=160",
    "--config.online.warmup_steps=60",
    "--config.online.buffer_size=100",
)
HOLE_INTEGRATOR = ("--config.online.env_id=diffrl/HoleIntegrator-v0", "--config.online.backend=jax")


def environment(root: Path) -> dict[str, str]:
    """Datasets under `root`; compiled programs in the cache of all tests."""
    return {
        **os.environ,
        "MINARI_DATASETS_PATH": str(root / "datasets"),
        "COLUMNS": "160",
    }


# Programs are forked from a process that has imported what all of them import (four seconds each), and has started nothing yet.
IMPORTED = (
    *(
        "diffrl.cli",
        "diffrl.registry",
        "diffrl.algorithms.srpo",
        "diffrl.algorithms.bc",
        "diffrl.training.train",
        "diffrl.evaluation.evaluate",
        "diffrl.collection.recipes",
    ),
    *("diffrl.reports.tables", "diffrl.reports.plots", "gymnasium", "h5py"),
)
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*IMPORTED])


class Program:
    """A program that runs, forked; what it says goes to files."""

    def __init__(self, command: tuple[str, ...], env: dict[str, str]) -> None:
        self.command = command
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = _forks.Process(target=_become, args=(command, env, *self._outputs))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def said(self) -> str:
        """Its output so far."""
        return self._outputs[0].read_text() if self._outputs[0].exists() else ""

    def wait_for(self, happened: Callable[[], bool], timeout: float = 120.0) -> None:
        """Until something has happened or the program has ended."""
        deadline = time.monotonic() + timeout
        while not happened() and self._process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def end(self, timeout: float = 200.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and end it where that does not come."""
        self._process.join(timeout)
        late = self._process.is_alive()
        self._process.kill()
        self._process.join()
        stdout, stderr = (path.read_text() for path in self._outputs)
        self._folder.cleanup()
        if late:
            raise subprocess.TimeoutExpired(self.command, timeout, stdout, stderr)
        assert self._process.exitcode is not None
        return subprocess.CompletedProcess(self.command, self._process.exitcode, stdout, stderr)


def start(root: Path, *command: str, offline: bool = False) -> Program:
    """`python command…` from the repository's root."""
    # Nobody listens on the discard port of this machine: a network that is not there.
    env = environment(root) | ({"HF_ENDPOINT": "http://127.0.0.1:9"} if offline else {})
    (root / "datasets").mkdir(parents=True, exist_ok=True)
    return Program(command, env)


def run(
    root: Path, *command: str, code: int | None = 0, timeout: float = 200.0, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python command…` from the repository's root and check its exit code (None: any)."""
    result = start(root, *command, offline=offline).end(timeout)
    if code is not None:
        assert result.returncode == code, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


def _become(command: tuple[str, ...], env: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Turn this process into the program; one that is no file is run by an interpreter of its own."""
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    if not command[0].endswith(".py"):
        os.execv(sys.executable, [sys.executable, *command])
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
