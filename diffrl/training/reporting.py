"""What becomes of a chunk's metrics: written, shown, and searched for runs that diverged."""

from pathlib import Path

import jax
import numpy as np

from diffrl.config import Config, algorithm_name, to_json
from diffrl.logging.console import TrainingDisplay
from diffrl.logging.writers import Entry, JsonLinesWriter, TensorBoardWriter, WandbWriter, Writer
from diffrl.training.runs import Runs
from diffrl.types import Metrics


class Reporter:
    """Sends metrics to the writers that a config asks for. A run whose metrics are not finite is named once."""

    def __init__(self, config: Config, workdir: Path, runs: Runs, display: TrainingDisplay, resume_step: int) -> None:
        labels = [
            "_".join([f"seed{seed}", *(f"{name}{value:g}" for name, value in point.items())])
            for seed, point in zip(runs.seeds, runs.points, strict=True)
        ]
        path = workdir / "metrics" / "train.jsonl"
        self.writers: list[Writer] = [JsonLinesWriter(path, runs.seeds, runs.points, resume_step)]
        if config.tensorboard:
            self.writers.append(TensorBoardWriter(workdir / "tensorboard", labels, resume_step))
        if config.wandb_project:
            settings = {"name": algorithm_name(config), **to_json(config)}
            self.writers.append(WandbWriter(config.wandb_project, workdir, settings, labels))
        self.runs, self.display = runs, display
        self.diverged: set[int] = set()

    def __call__(self, step: int, stage: str, device_metrics: Metrics) -> dict[str, np.ndarray]:
        """Returns the metrics on the host, `[R]` per name without padding."""
        size = self.runs.size
        metrics = {name: np.asarray(value)[:size] for name, value in jax.device_get(device_metrics).items()}
        for run in np.flatnonzero(metrics.get("finite", np.ones(size)) < 1.0):
            if run not in self.diverged:
                self.diverged.add(int(run))
                self.display.say(
                    f"run {run} (seed {self.runs.seeds[run]} {self.runs.points[run] or ''}) diverged before update {step:,}: "
                    "its metrics are not finite. The other runs are untouched"
                )
        for writer in self.writers:
            writer.write(Entry(step, stage, metrics))
        return metrics

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def passes(position: int, length: int, every: int) -> bool:
    """Whether a multiple of `every` lies in the last `length` steps."""
    return position // every > (position - length) // every
