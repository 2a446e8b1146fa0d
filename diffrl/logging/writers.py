"""Where metrics go: JSON lines always; TensorBoard and Weights & Biases on request. One protocol."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class LogError(RuntimeError):
    """A writer cannot be opened; the message says what is missing."""


class Entry(NamedTuple):
    """Metrics of one chunk: means over its updates at the step that ended it, per name one value for each of `runs`."""

    step: int
    stage: str
    metrics: dict[str, np.ndarray]
    runs: list[int]


@runtime_checkable
class Writer(Protocol):
    def write(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


class JsonLinesWriter:
    """`metrics/train.jsonl`, long format: one line per step, run and name. Holds no clock, so that a resumed run writes
    the very lines the uninterrupted one would have written. A value that is not finite is written as null.
    """

    def __init__(self, path: Path, seeds: list[int], points: list[dict[str, float]], resume_step: int) -> None:
        self.runs = [
            {"run": run, "seed": seed, "hparams": point} for run, (seed, point) in enumerate(zip(seeds, points, strict=True))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(path, resume_step)
        self.file = path.open("a")

    def write(self, entry: Entry) -> None:
        for name, values in entry.metrics.items():
            for run, value in zip(entry.runs, values.tolist(), strict=True):
                row = {
                    "step": entry.step,
                    "stage": entry.stage,
                    **self.runs[run],
                    "name": name,
                    "value": value if math.isfinite(value) else None,
                }
                self.file.write(json.dumps(row) + "\n")
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
    """One W&B run for the whole sweep: per-run series with mean, smallest and largest; resumes under the workdir's name."""

    def __init__(self, project: str, workdir: Path, config: dict[str, Any], labels: list[str]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise LogError("wandb_project needs wandb: pip install 'diffrl[wandb]'") from error
        self.labels = labels
        self.run = wandb.init(
            project=project, name=workdir.name, id=workdir.name, dir=str(workdir), config=config, resume="allow"
        )

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


def _truncate(path: Path, step: int) -> None:
    """Drop lines after `step`, and a last line that a killed process left half written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
