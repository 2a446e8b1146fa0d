"""Many methods on many datasets: which results may stand beside each other, and what they say together.

The unit is the run: the mean of its episodes at the last evaluated checkpoint. Datasets are taken as given, so that intervals
resample runs within each dataset (Agarwal et al. 2021, arXiv 2108.13264).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffrl.data.scores import normalized
from diffrl.evaluation import statistics
from diffrl.evaluation.results import Result
from diffrl.reports.tables import ReportError, Series, values_of

Interval = tuple[float, float] | None


class Task(NamedTuple):
    """A dataset in one simulator. Results of two simulators are never put into one cell."""

    dataset: str
    simulator: str


class Suite(NamedTuple):
    """What was evaluated of methods × tasks; cells may be missing.

    Attributes:
        methods: names of series (method, point of a sweep, way of acting), in order of appearance.
        tasks: in order of appearance.
        cells: the series of a task and method.
        left_out: names of ways of acting that were tried on some of the tasks only.
    """

    methods: list[str]
    tasks: list[Task]
    cells: dict[tuple[Task, str], Series]
    left_out: tuple[str, ...] = ()

    def of(self, task: Task) -> list[Series]:
        """All series of a task."""
        return [self.cells[task, method] for method in self.methods if (task, method) in self.cells]

    def scored(self, task: Task) -> bool:
        """Whether the task has reference scores, without which it cannot be averaged with others."""
        return self.of(task)[0].last.reference is not None

    @property
    def shared(self) -> list[Task]:
        """Tasks with scores of all methods: the only ones over which methods may be compared together."""
        return [task for task in self.tasks if self.scored(task) and len(self.of(task)) == len(self.methods)]

    def runs(self, method: str) -> list[Float[np.ndarray, "runs"]]:
        """Scores of the method's runs on each shared task."""
        return [values_of(self.cells[task, method].last) for task in self.shared]


class Estimate(NamedTuple):
    """A statistic over the shared tasks with its stratified 95 % bootstrap interval, None where there is none."""

    value: float
    interval: Interval


def gather(series: list[Series]) -> Suite:
    """One cell for each method and task. Of several evaluations of a workdir the latest counts, then that of most episodes.

    A way of acting other than the one trained with is a method of its own where it was evaluated on every task; tried on some
    only, it is left out.

    Raises:
        ReportError: two workdirs claim one cell, or the cells of a row speak of different data or references.
    """
    cells: dict[tuple[Task, str], Series] = {}
    for one in sorted(series, key=lambda one: (one.last.step, one.last.settings.episodes)):
        key = (Task(*one.setting), one.name)
        before = cells.get(key)
        if before is not None and before.workdir != one.workdir:
            raise ReportError(
                f"{one.name} on {one.card.id} is in {before.workdir} and in {one.workdir}: name only one of them, or give the"
                " directories different names"
            )
        cells[key] = one
    methods = list(dict.fromkeys(one.name for one in series))
    tasks = list(dict.fromkeys(Task(*one.setting) for one in series))
    tried = {one.name for one in series if one.last.settings.act}
    left_out = tuple(name for name in methods if name in tried and any((task, name) not in cells for task in tasks))
    suite = Suite(
        methods=[name for name in methods if name not in left_out],
        tasks=tasks,
        cells={(task, name): one for (task, name), one in cells.items() if name not in left_out},
        left_out=left_out,
    )
    if any(not suite.of(task) for task in tasks):
        raise ReportError("no way of acting was evaluated on every dataset: repeat launch/evaluate.py without --act")
    for task in suite.tasks:
        first, *others = suite.of(task)
        for other in others:
            if other.card.sha256 != first.card.sha256:
                raise ReportError(
                    f"{first.workdir} and {other.workdir} were trained on different data of one name, {task.dataset}"
                )
            if _scale(other.last) != _scale(first.last):
                raise ReportError(
                    f"{first.workdir} and {other.workdir} were scored by different references of {task.dataset}: delete their"
                    " evaluations and evaluate again"
                )
    return suite


def _scale(result: Result) -> tuple | None:
    """The reference without its source in words."""
    reference = result.reference
    return None if reference is None else (reference.min, reference.max, reference.quantity)


def mean(suite: Suite, method: str) -> Estimate:
    """The mean over shared tasks of the runs' mean score."""
    return _estimate(suite.runs(method), statistics.mean_of_groups)


def iqm(suite: Suite, method: str) -> Estimate:
    """The interquartile mean of the runs of all shared tasks."""
    return _estimate(suite.runs(method), statistics.iqm_of_groups)


def improvement(suite: Suite, method: str, other: str) -> Estimate:
    """P(a run of `method` scores above a run of `other` on the same task), averaged over shared tasks."""
    return _estimate([*suite.runs(method), *suite.runs(other)], statistics.improvement_of_groups)


def _estimate(groups: list[np.ndarray], statistic: Callable[..., np.ndarray]) -> Estimate:
    band = statistics.stratified_interval(groups, statistic)
    return Estimate(float(statistic(*groups)), None if band is None else (float(band[0]), float(band[1])))


class Distribution(NamedTuple):
    """Share of runs above each threshold `[T]`, every task counting alike, and its pointwise 95 % interval."""

    share: np.ndarray
    interval: tuple[np.ndarray, np.ndarray] | None


def thresholds(suite: Suite, number: int = 101) -> Float[np.ndarray, "T"]:
    """Evenly spaced scores from the lowest to the highest run on shared tasks."""
    scores = np.concatenate([values for method in suite.methods for values in suite.runs(method)])
    scores = scores[np.isfinite(scores)]
    return np.linspace(scores.min(), scores.max(), number) if len(scores) else np.zeros(1)


def distribution(suite: Suite, method: str, scores: Float[np.ndarray, "T"]) -> Distribution:
    """The run-score distribution of Agarwal et al. (their eq. 3). A run that diverged is above no threshold."""
    above = [(values > scores[:, None]).astype(np.float64) for values in suite.runs(method)]  # [T, runs]
    return Distribution(statistics.mean_of_groups(*above), statistics.stratified_interval(above, statistics.mean_of_groups))


def budget(suite: Suite, method: str) -> Float[np.ndarray, "k"] | None:
    """Expected score of the best of k policies of a registered method, tried online, averaged over shared tasks.

    A policy is a run of any point of a sweep in any way of acting: the choices a practitioner has. Even episodes choose and odd
    ones report, and the reverse; the two curves are averaged. k = 1 is the mean score, and k ends with the fewest policies on
    a task. None where a run has a single episode. There is no interval: resampled with replacement a subset holds copies of
    one policy, which makes the best of k look worse than it is.

    Args:
        suite: with shared tasks.
        method: a registered name, not that of a series.
    """
    curves = []
    for task in suite.shared:
        results = [one.last for one in suite.of(task) if one.method == method]
        if min(result.settings.episodes for result in results) < 2:
            return None
        halves = [_halves(result) for result in results]
        even, odd = (np.concatenate(scores) for scores in zip(*halves, strict=True))
        curves.append((statistics.best_of(even, odd) + statistics.best_of(odd, even)) / 2)
    length = min(len(curve) for curve in curves)
    return np.mean([curve[:length] for curve in curves], axis=0)


def _halves(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Each run's mean score in its even and in its odd episodes, the odd one out dropped."""
    assert result.reference is not None
    values = result.returns
    if result.reference.quantity == "success":
        values = np.where(np.isfinite(values), result.successes, np.nan)
    scores = np.asarray(normalized(values, result.reference))[:, : values.shape[1] // 2 * 2]
    return scores[:, 0::2].mean(axis=1), scores[:, 1::2].mean(axis=1)
