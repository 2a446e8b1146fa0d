"""What a person sees while training: one live line on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

LOSS = "/loss"  # how the names of losses end; of several the first in the alphabet is shown


class TrainingDisplay:
    """Progress of one stage after another. `advance` may be called as often as a chunk ends; it never waits.

    Rates are measured from the end of the stage's first chunk, so that compilation is not in them.
    """

    def __init__(self, num_runs: int, console: Console | None = None, plain_every: float = 10.0, silent: bool = False) -> None:
        self.num_runs = num_runs
        self.console = console or Console(quiet=silent)
        self.plain_every = plain_every
        self._progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True, min_width=8)),
            BarColumn(bar_width=8),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} · {task.fields[note]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TrainingDisplay":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def start(self, stage: str, done: int, total: int, unit: str = "updates") -> None:
        """A stage begins, or is resumed, at update (or another `unit`) `done` of `total`."""
        self._unit = unit
        self._stage, self._done, self._total = stage, done, total
        self._marks: list[tuple[float, int]] = []
        self._last_plain = time.monotonic()
        self._task = self._progress.add_task(stage, total=total, completed=done, note="compiling")

    def advance(self, done: int, metrics: dict[str, np.ndarray]) -> None:
        """`done` updates of the stage are finished; metrics are those of the last chunk, `[R]` per name."""
        now = time.monotonic()
        self._done = done
        self._marks = [*self._marks[:1], (now, done)] if self._marks else [(now, done)]
        losses = sorted(name for name in metrics if name.endswith(LOSS))[:1]
        shown = [spread(name, metrics[name]) for name in ("episode_return", *losses) if name in metrics]
        note = " · ".join([self._rates(), *shown])
        if self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        if not self.console.is_terminal and (now - self._last_plain >= self.plain_every or done == self._total):
            self._last_plain = now
            self.say(f"{self._stage}: {done:,}/{self._total:,} {self._unit} · {note}")

    def _rates(self) -> str:
        (t0, d0), (t1, d1) = self._marks[0], self._marks[-1]
        if d1 <= d0 or t1 <= t0:
            return "running"
        rate = (d1 - d0) / (t1 - t0)
        eta = (self._total - d1) / rate
        return f"{rate:,.0f}/s, {rate * self.num_runs:,.0f}/s over {self.num_runs} runs · {duration(eta)} left"


def duration(seconds: float) -> str:
    """4s, 3m05s, 2h04m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def spread(name: str, values: np.ndarray) -> str:
    """Mean over runs, with the smallest and largest where there are several."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return f"{name} not finite" if name.endswith(LOSS) else f"{name} none yet"
    text = f"{name} {finite.mean():.3g}"
    return text if len(finite) == 1 else f"{text} [{finite.min():.3g}, {finite.max():.3g}]"
