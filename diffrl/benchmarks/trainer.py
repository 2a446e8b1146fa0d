"""What the trainer costs around its chunks: the start of a process, and the host's work per chunk."""

import copy
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffrl import records
from diffrl.benchmarks.scaling import resize
from diffrl.benchmarks.stages import Problem
from diffrl.config import Config, DatasetConfig, to_json
from diffrl.logging.writers import METRICS
from diffrl.training.workdir import TIMINGS, Timing

CHUNKS = 500  # timed, of one update each
TRAIN = """
import pathlib, sys
from diffrl import config
from diffrl.training import devices
folder = pathlib.Path(sys.argv[1])
devices.configure(cache_dir=folder / "cache")
from diffrl.training.train import train
train(config.load(folder), folder / sys.argv[2])
"""


class StartTime(NamedTuple):
    """Seconds of a new process, from its start: a training of one chunk per stage, at the method's full size."""

    method: str
    programs: str  # where compiled programs came from
    first_chunk_seconds: float  # until the first stage's first chunk is reported
    seconds: float  # until the process has ended, all stages compiled, run and saved

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return self.method, self.programs, f"{self.first_chunk_seconds:.1f}", f"{self.seconds:.1f}"


class HostTime(NamedTuple):
    """Seconds per chunk that the trainer spends where the device has next to nothing to do."""

    runs: int
    seconds_per_chunk: float

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return str(self.runs), f"{1e3 * self.seconds_per_chunk:.2f}"


def starts(name: str, config: Config, problem: Problem) -> list[StartTime]:
    """A first start, which compiles everything, and a second one, which finds it in the persistent cache."""
    config = copy.deepcopy(config)
    resize(config.algorithm, "updates", 2)
    with tempfile.TemporaryDirectory() as folder:
        config = _on_file(config, problem, Path(folder), updates_per_chunk=2)
        records.write(Path(folder) / "config.json", to_json(config))
        return [StartTime(name, programs, *_start(Path(folder), programs)) for programs in ("compiled", "cached")]


def _start(folder: Path, workdir: str) -> tuple[float, float]:
    metrics = folder / workdir / METRICS
    began, first = time.perf_counter(), None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", TRAIN, str(folder), workdir], stdout=log, stderr=log)
    while process.poll() is None:
        if first is None and metrics.exists() and metrics.stat().st_size:
            first = time.perf_counter() - began
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    return seconds if first is None else first, seconds


def host_overhead(config: Config, counts: list[int]) -> list[HostTime]:
    """Time the host's work per chunk, by a training whose updates cost next to nothing: all networks one unit wide."""
    from diffrl.training.train import train

    found = []
    for count in counts:
        small = copy.deepcopy(config)
        resize(small.algorithm, "width", 1)
        resize(small.algorithm, "batch", 1)
        resize(small.algorithm, "updates", CHUNKS)
        with tempfile.TemporaryDirectory() as folder:
            small = _on_file(small, Problem(1, 1, 10), Path(folder), num_seeds=count, updates_per_chunk=1)
            train(small, Path(folder) / "run")
            timing = next(records.lines(Path(folder) / "run" / TIMINGS, Timing, []))
        found.append(HostTime(count, timing.seconds / CHUNKS))
    return found


def _on_file(config: Config, problem: Problem, folder: Path, **changes: int) -> Config:
    """The config with a file of the problem's random rows for a dataset."""
    rows = problem.dataset()[:]
    fields = ("observation", "action", "reward", "next_observation", "terminal", "timeout")
    np.savez(folder / "rows.npz", allow_pickle=False, **{name: np.asarray(getattr(rows, name)) for name in fields})
    return dataclasses.replace(config, dataset=DatasetConfig(id=str(folder / "rows.npz")), **changes)  # pyright: ignore
