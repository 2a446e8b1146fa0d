"""Where metrics go: JSON lines always; TensorBoard and Weights & Biases on request. One protocol."""

import dataclasses
import math
import secrets
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from diffrl import files, records
from diffrl.errors import UserError
from diffrl.records import Natural

METRICS = Path("metrics", "train.jsonl")


class LogError(UserError, RuntimeError):
    """A writer cannot be opened; the message says what is missing."""


class Entry(NamedTuple):
    """Metrics of one chunk: means over its updates at the step that ended it, per name one value for each of `runs`."""

    step: int
    stage: str
    metrics: dict[str, np.ndarray]
    runs: list[int]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A line of METRICS: one metric of one run, the mean of a chunk that ended at `step`; None where it was not finite."""

    step: Natural
    stage: str
    run: Natural
    seed: Natural
    hparams: dict[str, float]
    name: str
    value: float | None


@runtime_checkable
class Writer(Protocol):
    def write(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """METRICS of a workdir, long format: one line per step, run and name. Holds no clock, so that a resumed run writes
    the very lines the uninterrupted one would have written.

    Attributes:
        notes: what was wrong with lines that an earlier start left.
    """

    def __init__(self, workdir: Path, seeds: list[int], points: list[dict[str, float]], resume_step: int) -> None:
        self.runs = list(zip(seeds, points, strict=True))
        self.notes: list[str] = []
        if (workdir / METRICS).exists():
            _truncate(workdir, resume_step, self.notes)
        self.file = files.extend(workdir / METRICS, workdir)

    def write(self, entry: Entry) -> None:
        for name, values in entry.metrics.items():
            for run, value in zip(entry.runs, values.tolist(), strict=True):
                seed, point = self.runs[run]
                metric = Metric(entry.step, entry.stage, run, seed, point, name, value if math.isfinite(value) else None)
                self.file.write(records.line(metric))
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoardWriter:
    """Event files under `tensorboard/`: one series per run and metric, and the mean over runs."""

    def __init__(self, path: Path, labels: list[str], resume_step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise LogError("tensorboard=true needs tensorboardX: pip install 'diffrl[tensorboard]'") from error
        self.labels = labels
        self.writer = SummaryWriter(str(path), purge_step=resume_step or None)

    def write(self, entry: Entry) -> None:
        for name, values in entry.metrics.items():
            self.writer.add_scalar(f"{entry.stage}/{name}/mean", float(values.mean()), entry.step)
            for run, value in zip(entry.runs, values.tolist(), strict=True):
                self.writer.add_scalar(f"{entry.stage}/{name}/{self.labels[run]}", value, entry.step)

    def close(self) -> None:
        self.writer.close()


class WandbWriter:
    """One W&B run for the whole sweep: per-run series with mean, smallest and largest; a resumed training goes on
    in it, under an id that the workdir keeps."""

    def __init__(self, project: str, workdir: Path, config: dict[str, Any], labels: list[str]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise LogError("wandb_project needs wandb: pip install 'diffrl[wandb]'") from error
        self.labels = labels
        known = workdir / "wandb_id"
        if not known.exists():
            files.write(known, secrets.token_hex(8).encode())
        id = files.slug(records.content(known).decode(errors="replace"))
        self.run = wandb.init(project=project, name=workdir.name, id=id, dir=str(workdir), config=config, resume="allow")

    def write(self, entry: Entry) -> None:
        row: dict[str, float] = {}
        for name, values in entry.metrics.items():
            prefix = f"{entry.stage}/{name}"
            row |= {
                f"{prefix}/mean": float(values.mean()),
                f"{prefix}/min": float(values.min()),
                f"{prefix}/max": float(values.max()),
            }
            row |= {f"{prefix}/{self.labels[run]}": value for run, value in zip(entry.runs, values.tolist(), strict=True)}
        self.run.log(row, step=entry.step)

    def close(self) -> None:
        self.run.finish()


def _truncate(workdir: Path, step: int, notes: list[str]) -> None:
    """Drop lines after `step`, and what a killed process or a bad disk left that is no line."""
    kept = (records.line(metric) for metric in records.lines(workdir / METRICS, Metric, notes) if metric.step <= step)
    files.write(workdir / METRICS, lambda file: file.writelines(kept), workdir)
