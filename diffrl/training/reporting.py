"""Metrics of a chunk go to files and services, and tell which runs diverged."""

from pathlib import Path

import numpy as np

from diffrl import files
from diffrl.config import Config, algorithm_name, to_json
from diffrl.logging.console import TrainingDisplay
from diffrl.logging.writers import Entry, JsonLinesWriter, TensorBoardWriter, WandbWriter, Writer
from diffrl.training.devices import is_primary
from diffrl.training.runs import Runs


class Reporter:
    """Sends metrics to the writers that a config asks for, and keeps count of runs that diverged.

    Attributes:
        diverged: the update (online: step) before which each run's metrics stopped being finite, by run.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        runs: Runs,
        display: TrainingDisplay,
        resume_step: int,
        diverged: dict[int, int] | None = None,
    ) -> None:
        labels = [
            "_".join([f"seed{seed}", *(f"{name}{value:g}" for name, value in point.items())])
            for seed, point in zip(runs.seeds, runs.points, strict=True)
        ]
        self.writers: list[Writer] = []
        if is_primary():
            lines = JsonLinesWriter(workdir, runs.seeds, runs.points, resume_step)
            self.writers.append(lines)
            for note in lines.notes:
                display.say(note)
            if config.tensorboard:
                folder = files.inside(workdir / "tensorboard", workdir)
                self.writers.append(TensorBoardWriter(folder, labels, resume_step))
            if config.wandb_project:
                settings = {"name": algorithm_name(config), **to_json(config)}
                self.writers.append(WandbWriter(config.wandb_project, workdir, settings, labels))
        self.runs, self.display = runs, display
        self.diverged: dict[int, int] = dict(diverged or {})

    def __call__(self, step: int, stage: str, metrics: dict[str, np.ndarray], standing: list[int] | None = None) -> None:
        """Write a chunk's metrics.

        Args:
            step: updates done.
            stage: its name.
            metrics: on the host, one value per run of `standing`.
            standing: the runs that were trained; None for all.
        """
        standing = list(range(self.runs.size)) if standing is None else standing
        for i in np.flatnonzero(metrics.get("finite", np.ones(len(standing))) < 1.0):
            run = standing[i]
            if run not in self.diverged:
                self.diverged[run] = step
                self.display.say(
                    f"run {run} (seed {self.runs.seeds[run]} {self.runs.points[run] or ''}) diverged before {step:,}: "
                    "its metrics are not finite. It stays as it was before that; the other runs are untouched"
                )
        for writer in self.writers:
            writer.write(Entry(step, stage, metrics, standing))

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def passes(position: int, length: int, every: int) -> bool:
    """Whether a multiple of `every` lies in the last `length` steps."""
    return position // every > (position - length) // every
