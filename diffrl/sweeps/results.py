"""The results of a sweep's trainings, put together: parts of a group merged, evaluations that cannot be compared left out."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffrl import records
from diffrl.data.dataset import Card
from diffrl.evaluation.evaluate import parse_act
from diffrl.evaluation.results import Result
from diffrl.evaluation.statistics import Summary, summarise
from diffrl.reports import tables
from diffrl.reports.tables import ReportError, Series
from diffrl.sweeps import record
from diffrl.sweeps.record import SavedGroup
from diffrl.training.runs import in_words
from diffrl.training.workdir import TIMINGS, Timing


class Cell(NamedTuple):
    """One hyper-parameter point of a group, acting in one way.

    Attributes:
        group: label.
        settings: of the group, as text.
        card: the data.
        result: of all its runs, from however many parts, by seed.
        workdirs: of the parts.
    """

    group: str
    settings: dict[str, str]
    card: Card
    result: Result
    workdirs: tuple[Path, ...]

    @property
    def stopped(self) -> list[str]:
        """Why each run was not trained to the end; "" where it was."""
        return list(self.result.stopped)

    @property
    def point(self) -> dict[str, float]:
        return self.result.hparams[0]

    @property
    def values(self) -> Float[np.ndarray, "runs"]:
        """Normalised scores where there is a reference, else returns."""
        return tables.values_of(self.result)

    @property
    def summary(self) -> Summary:
        return summarise(self.values)

    @property
    def words(self) -> str:
        """The point and the way of acting."""
        choices = [f"{name}={value}" for name, value in self.result.settings.act]
        return ", ".join(filter(None, [in_words(self.point), *choices])) or "-"


class StageTime(NamedTuple):
    """Seconds that a stage of a group took, of all parts and starts together."""

    group: str
    stage: str
    runs: int
    distinct_runs: int
    seconds: float
    compile_seconds: float
    saved_seconds: float


class SweepResults(NamedTuple):
    """Everything a report says.

    Attributes:
        cells: group by group.
        times: group by group.
        notes: what a reader must know beside the numbers.
    """

    cells: list[Cell]
    times: list[StageTime]
    notes: list[str]

    @property
    def groups(self) -> dict[str, list[Cell]]:
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.group, []).append(cell)
        return found


def read(sweep: Path) -> SweepResults:
    """Results of a sweep's directory; of several evaluations of a training that which most trainings have, then of most episodes.

    Raises:
        ConfigError: it holds no sweep.
        ReportError: nothing of it was evaluated.
    """
    saved = record.load(sweep)
    groups, acts = saved.groups, parse_act(tuple(saved.act))
    labels = [label for group in groups for label in group.trainings]
    evaluated = [label for label in labels if any((sweep / label).glob("evaluations/*/*.json"))]
    if not evaluated:
        raise ReportError(f"nothing of {sweep} has been evaluated; repeat its launch/sweep.py, or run launch/evaluate.py")
    series = tables.read([sweep / label for label in evaluated])
    kept, notes = _one_protocol(series)
    if missing := [label for label in labels if label not in evaluated]:
        notes.append(f"not evaluated: {', '.join(missing)}")
    cells = []
    for group in groups:
        workdirs = [sweep / label for label in group.trainings]
        merged: dict[tuple, list[Series]] = {}
        for one in kept:
            if one.workdir in workdirs:
                key = (tuple(one.last.hparams[0].items()), one.last.settings.act)
                merged.setdefault(key, []).append(one)
        points = list(dict.fromkeys(point for point, _ in merged))
        order = sorted(merged, key=lambda key: (points.index(key[0]), acts.index(key[1]) if key[1] in acts else len(acts)))
        cells += [_cell(group, merged[key]) for key in order]
    notes += dict.fromkeys(
        f"{one.workdir.relative_to(sweep)}: {note}" for one in kept for note in one.notes if "diverged" not in note
    )
    times = [time for group in groups for time in _times(sweep, group, notes)]
    return SweepResults(cells, times, notes)


def _one_protocol(series: list[Series]) -> tuple[list[Series], list[str]]:
    """Series of one simulator, number of episodes and evaluation seed: only these may stand in one table."""

    def protocol(one: Series) -> tuple[str, int, int]:
        settings = one.last.settings
        return settings.backend, settings.episodes, settings.seed

    workdirs: dict[tuple[str, int, int], set[Path]] = {}
    for one in series:
        workdirs.setdefault(protocol(one), set()).add(one.workdir)
    chosen = max(workdirs, key=lambda key: (len(workdirs[key]), key[1]))
    others = [
        f"{episodes} episodes in {backend} with seed {seed}"
        for backend, episodes, seed in workdirs
        if (backend, episodes, seed) != chosen
    ]
    notes = [f"other evaluations are left out: {', '.join(others)}"] if others else []
    return [one for one in series if protocol(one) == chosen], notes


def _cell(group: SavedGroup, parts: list[Series]) -> Cell:
    """The runs of one point, of all parts, by seed."""
    found = [one.last for one in parts]
    seeds = [seed for result in found for seed in result.seeds]
    stopped = [why for result in found for why in result.stopped or [""] * len(result.seeds)]
    order = np.argsort(seeds, kind="stable")
    merged = dataclasses.replace(
        found[0],
        seeds=[seeds[run] for run in order],
        hparams=[found[0].hparams[0]] * len(seeds),
        stopped=tuple(stopped[run] for run in order),
        **{
            name: np.concatenate([getattr(result, name) for result in found])[order]
            for name in ("returns", "lengths", "successes")
        },
    )
    return Cell(group.label, group.settings, parts[0].card, merged, tuple(one.workdir for one in parts))


def _times(sweep: Path, group: SavedGroup, notes: list[str]) -> list[StageTime]:
    stages: dict[str, list[tuple[str, Timing]]] = {}
    for label in group.trainings:
        path = sweep / label / TIMINGS
        for timing in records.lines(path, Timing, notes) if path.exists() else ():
            stages.setdefault(timing.stage, []).append((label, timing))
    found = []
    for stage, entries in stages.items():
        # A training has a line for each start, and for each time that runs were dropped; its runs count once.
        runs: dict[str, int] = {}
        distinct: dict[str, int] = {}
        for label, one in entries:
            runs[label] = max(runs.get(label, 0), one.runs)
            distinct[label] = max(distinct.get(label, 0), one.distinct_runs)
        found.append(
            StageTime(
                group.label,
                stage,
                sum(runs.values()),
                sum(distinct.values()),
                sum(one.seconds for _, one in entries),
                sum(one.compile_seconds for _, one in entries),
                sum(one.seconds * (one.runs / one.distinct_runs - 1) for _, one in entries),
            )
        )
    return found
