"""Published numbers and ours in one table, from files in the repository: `docs/results/`.

`targets.json` says what is to be met and by which command. `NAME.json` is what came out: every run's scores at the checkpoints
that were evaluated, kept from workdirs, so that the page can be made again without training.
"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diffrl import escape, files, records
from diffrl.evaluation.statistics import interval
from diffrl.records import Finite, Natural, Width
from diffrl.reports import markdown
from diffrl.reports.style import DATA, STYLE, save
from diffrl.reports.tables import ReportError, Series, read
from diffrl.training.workdir import LOST, TIMINGS, Timing, Versions

TARGETS = "targets.json"
PAGE, PICTURE = "reproduction.md", "reproduction.png"
OURS = "#3366cc"
WIDTH = 118  # of a line of the page

Unit = Literal["normalised score", "success in %", "episode return"]


@dataclasses.dataclass(frozen=True)
class Level:
    """A value from elsewhere.

    Attributes:
        value: mean over seeds, in the target's unit.
        spread: standard deviation over seeds; None where none is given.
        seeds, episodes: how many, and episodes of each; 0 where that is not said.
        updates: after which it was taken; online, steps of the environment.
        source: where it stands.
    """

    value: Finite
    spread: Finite | None
    seeds: Natural
    episodes: Natural
    updates: Width
    source: str


@dataclasses.dataclass(frozen=True)
class Target:
    """A row that is planned.

    Attributes:
        name: of its file of results.
        method, dataset: as a reader calls them.
        unit: of all its values.
        updates: of ours; online, steps of the environment.
        config: experiment file and its argument, with any further flags behind it.
        collect: arguments of launch/collect.py that make the data; "" for a method that learns by interaction.
        hours: on two cores without a GPU, as planned.
        published: the value to meet; None where there is none.
        official: that of the authors' code on the same data at the same budget; None where it was not run.
        note: what a reader must know beside the numbers.
    """

    name: str
    method: str
    dataset: str
    unit: Unit
    updates: Width
    config: str
    collect: str
    hours: Finite
    published: Level | None = None
    official: Level | None = None
    note: str = ""

    @property
    def level(self) -> Level | None:
        """What ours is held against: the authors' code on the same data before a table of another draw."""
        return self.official or self.published


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one workdir gave.

    Attributes:
        dataset: its id, and the fingerprint of its rows; "" for interaction.
        simulator: that it was evaluated in.
        seeds: of its runs.
        episodes: of each evaluation of a run.
        curve: (updates, each run's value) of the checkpoints evaluated; None for a run that diverged.
        minutes: of training, without compilation.
        device, packages: what it ran on.
    """

    dataset: tuple[str, str]
    simulator: str
    seeds: list[Natural]
    episodes: Width
    curve: list[tuple[Natural, list[Finite | None]]]
    minutes: Finite
    device: str
    packages: dict[str, str | None]

    @property
    def last(self) -> tuple[int, np.ndarray]:
        """Updates, and values `[R]`, NaN for a diverged run."""
        updates, values = self.curve[-1]
        return updates, np.array(values, np.float64)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A row's file: what each of its workdirs gave."""

    trials: list[Trial]

    def __post_init__(self) -> None:
        if not self.trials or not all(trial.curve for trial in self.trials):
            raise ValueError("trials or a curve is empty")


@dataclasses.dataclass(frozen=True)
class Targets:
    """The planned rows, most telling per hour first."""

    rows: list[Target]


def curve_of(series: Series, unit: Unit) -> list[tuple[int, list[float | None]]]:
    """The curve of a series in a target's unit.

    Raises:
        ReportError: scores are wanted of data without reference returns.
    """
    curve = []
    for result in series.results:
        values = {"episode return": result.mean_returns, "success in %": 100.0 * result.success_rates}.get(
            unit, result.mean_scores
        )
        if values is None:
            raise ReportError(f"{series.workdir}: the data have no reference returns, and the row counts {unit}s")
        finite = np.isfinite(result.mean_returns)
        curve.append((result.step, [float(value) if fine else None for value, fine in zip(values, finite, strict=True)]))
    return curve


def keep(name: str, workdirs: list[Path], folder: Path) -> Path:
    """Write what evaluated workdirs gave for a row to `folder`.

    Raises:
        ReportError: no such row, a workdir is none or was not evaluated, or it was evaluated in several ways.
    """
    target = {one.name: one for one in targets(folder)}.get(name)
    if target is None:
        raise ReportError(f"--keep={name}: no such row; {folder / TARGETS} has {', '.join(one.name for one in targets(folder))}")
    trials = []
    for series in read(workdirs):
        workdir, faults = series.workdir, []
        if any(trial.seeds == series.last.seeds and trial.dataset[1] == series.card.sha256 for trial in trials):
            raise ReportError(f"{workdir}: these runs are named twice, or were evaluated in several ways: keep one")
        timings = list(records.lines(workdir / TIMINGS, Timing, faults))
        versions = records.read(workdir / "versions.json", Versions, LOST)
        trials.append(
            Trial(
                dataset=(series.card.id.rsplit("/", 1)[-1], series.card.sha256),
                simulator=series.last.settings.simulator,
                seeds=series.last.seeds,
                episodes=series.last.settings.episodes,
                curve=curve_of(series, target.unit),
                minutes=round(sum(timing.seconds for timing in timings) / 60.0, 1),
                device=versions.device,
                packages={package: versions.packages.get(package) for package in ("diffrl", "jax", "flax", "optax")},
            )
        )
    path = folder / f"{files.slug(name)}.json"
    records.write(path, Outcome(trials))
    return path


def targets(folder: Path) -> list[Target]:
    """The planned rows of a folder, as ordered there: most telling per hour first.

    Raises:
        RecordError: the file is missing or does not fit.
    """
    return records.read(folder / TARGETS, Targets).rows


def found(target: Target, folder: Path) -> list[Trial]:
    """What there is of a row, nothing where none of it was run.

    Raises:
        RecordError: the file does not fit.
    """
    path = folder / f"{files.slug(target.name)}.json"
    return records.read(path, Outcome).trials if path.exists() else []


def pooled(trials: list[Trial]) -> tuple[int, np.ndarray]:
    """Updates, and the values of all runs at the last checkpoint that every trial has."""
    shared = set.intersection(*({updates for updates, _ in trial.curve} for trial in trials))
    if not shared:
        raise ReportError("the workdirs of a row have no evaluated checkpoint in common: evaluate the same one")
    last = max(shared)
    values = [value for trial in trials for updates, each in trial.curve if updates == last for value in each]
    return last, np.array(values, np.float64)


def verdict(target: Target, updates: int, values: np.ndarray) -> str:
    """How ours stands to the level it is held against.

    "within" where the means differ by less than twice the standard deviation of their difference over seeds, both spreads
    counted as they are given. A level of one seed is a draw like ours and has our spread; another that is not known counts as
    none.
    """
    level = target.level
    if level is None:
        return "nothing to compare with"
    if updates < level.updates:
        return f"not comparable: {updates / level.updates:.0%} of the updates"
    if not np.isfinite(values).all():
        return "a run diverged"
    difference = float(values.mean()) - level.value
    own = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    spread = float(np.hypot(own, level.spread or (own if level.seeds == 1 else 0.0)))
    where = "within" if abs(difference) <= 2.0 * spread else "above" if difference > 0 else "below"
    alone = " (one run)" if len(values) == 1 else ""
    return f"{where}{alone}: {difference:+.1f}" + (f", {abs(difference) / spread:.1f} deviations" if spread else "")


def to_markdown(folder: Path, picture: bool) -> str:
    """The page: what was run beside what was published, then what is planned, by hours."""
    planned, done = [], []
    for target in targets(folder):
        (done if found(target, folder) else planned).append(target)
    parts = [_INTRODUCTION, _done(done, folder)]
    if picture:
        parts.append(f"![Published values and ours]({PICTURE})\n")
    parts.append("## Commands and sources\n\n`W` is a workdir of your own.\n")
    parts += [_commands(target, found(target, folder)) for target in done]
    parts.append("## Planned\n\nHours are those of two cores without a GPU; most telling per hour first.\n")
    header = ["method", "dataset", "published", "updates", "hours", "config", "note"]
    rows = [
        [one.method, one.dataset, _shown(one.level), f"{one.updates:,}", f"{one.hours:g}", one.config, one.note]
        for one in planned
    ]
    parts.append(markdown.table(header, rows, left=2))
    return "\n".join(part for part in parts if part)


def draw(folder: Path, path: Path) -> Path | None:
    """Ours, a dot per run, beside the level ± 2 deviations, a panel per unit; None where no row has both."""
    rows = [(one, found(one, folder)) for one in targets(folder)]
    rows = [(one, one.level, pooled(trials)[1]) for one, trials in rows if trials and one.level is not None]
    if not rows:
        return None
    units = {unit: [row for row in rows if row[0].unit == unit] for unit in dict.fromkeys(row[0].unit for row in rows)}
    heights = [len(group) for group in units.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.9 * len(units) + 0.45 * len(rows)), layout="constrained")
        panels = figure.subplots(len(units), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, (unit, group) in zip(panels, units.items(), strict=True):
            for y, (_, level, values) in enumerate(reversed(group)):
                bar = {"fmt": "s", "color": DATA, "capsize": 3, "markersize": 5}
                axes.errorbar(level.value, y + 0.15, xerr=2.0 * (level.spread or 0.0), **bar)
                axes.plot(values, np.full(len(values), y - 0.15), "o", color=OURS, alpha=0.7, markersize=4)
                axes.plot([values.mean()] * 2, [y - 0.35, y + 0.05], color=OURS)
            axes.set_yticks(range(len(group)), [f"{one.method}, {one.dataset}" for one, _, _ in reversed(group)])
            axes.set_ylim(-0.6, len(group) - 0.4)
            axes.set_xlabel(unit)
            axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
        panels[0].plot([], [], "s", color=DATA, label="held against, ± 2 deviations")
        panels[0].plot([], [], "o", color=OURS, label="ours, each run and their mean")
        figure.legend(loc="outside upper right", ncols=2)
        save(figure, path)
    return path


def write(folder: Path, out: Path) -> list[Path]:
    """Write page and picture to `out`.

    Raises:
        RecordError, ReportError: a file of `folder` does not fit.
    """
    picture = draw(folder, out / PICTURE)
    files.write(out / PAGE, to_markdown(folder, picture is not None).encode())
    return [out / PAGE, *([] if picture is None else [picture])]


_INTRODUCTION = """# Published numbers and ours

Made by `launch/report.py --reproduction` from [results/](results): every row can be run again by its commands, and the
page without training. A row counts the last checkpoint; *published* is mean ± standard deviation over seeds, *ours*
the mean over runs with the 95 % bootstrap interval. "Within" is a difference of less than twice the standard deviation
that both spreads make together; a single seed is taken to spread as ours do, another spread that is not known counts
as none. The data of generated benchmarks are another draw of the same script than the published file.
"""


def _done(done: list[Target], folder: Path) -> str:
    header = ["method", "dataset", "unit", "published", "authors' code, same data", "ours"]
    header += ["runs × episodes", "updates", "minutes", "verdict"]
    rows = []
    for target in done:
        trials = found(target, folder)
        updates, values = pooled(trials)
        band = interval(values)
        ours = f"{values.mean():.1f}" + (f" [{band[0]:.1f}, {band[1]:.1f}]" if band else "")
        counts = f"{len(values)} × {trials[0].episodes}"
        minutes = f"{sum(trial.minutes for trial in trials):.0f}"
        levels = [_shown(target.published), _shown(target.official)]
        told = [counts, f"{updates:,}", minutes, verdict(target, updates, values)]
        rows.append([target.method, target.dataset, target.unit, *levels, ours, *told])
    return markdown.table(header, rows, left=3)


def _shown(level: Level | None) -> str:
    if level is None:
        return "–"
    spread = "" if level.spread is None else f" ± {level.spread:g}"
    return f"{level.value:g}{spread}" + (f" ({level.seeds} seeds)" if level.seeds > 1 else " (one seed)" if level.seeds else "")


def _commands(target: Target, trials: list[Trial]) -> str:
    """What makes a row again, line by line, and where its numbers are from."""
    lines = [f"python launch/collect.py {target.collect}"] if target.collect else []
    lines += [
        f"python launch/train.py --config=experiments/{target.config} --workdir=W",
        f"python launch/evaluate.py --workdir=W --episodes={trials[0].episodes}",
        f"python launch/report.py --keep={target.name} W",
    ]
    sources = "; ".join(dict.fromkeys(level.source for level in (target.published, target.official) if level is not None))
    named = dict.fromkeys(trial.dataset for trial in trials)
    data = "; ".join(f"{name} (sha256 {digest[:8]}…)" if digest else name for name, digest in named)
    devices = ", ".join(dict.fromkeys(trial.device for trial in trials))
    said = f"Source: {sources or 'none'}. Data: {data}; {devices}. {target.note}".strip()
    told = textwrap.fill(escape.markdown(said), WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{markdown.heading(f'{target.method}, {target.dataset}', 3)}\n```\n{chr(10).join(lines)}\n```\n\n{told}\n"
