"""Pictures of a suite: scores over datasets, their distributions, and evaluation budgets."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from diffrl.reports import suite as suites
from diffrl.reports.style import STYLE, save
from diffrl.reports.suite import Estimate, Suite

GRID = "#e5e7eb"


def draw(suite: Suite, colour: dict[str, str], out: Path) -> list[Path]:
    """All pictures of a suite, none where methods share no dataset with scores.

    Args:
        suite: as from `suite.gather`.
        colour: of each series name.
        out: directory; files are named suite-….png.
    """
    if not suite.shared:
        return []
    pictures: dict[str, Callable[[Figure], None]] = {
        "scores": lambda figure: _scores(figure, suite, colour),
        "distributions": lambda figure: _distributions(figure.subplots(), suite, colour),
    }
    budgets = _budgets(suite, colour)
    if budgets:
        pictures["budgets"] = lambda figure: _budget_curves(figure.subplots(), budgets)
    paths = []
    for name, picture in pictures.items():
        with matplotlib.rc_context(STYLE):
            height = 1.3 + 0.32 * len(suite.methods) if name == "scores" else 4.2
            figure = Figure(figsize=(9.5, height), layout="constrained")
            picture(figure)
            what = f"{len(suite.shared)} datasets" if len(suite.shared) > 1 else suite.shared[0].dataset
            figure.suptitle(f"{_TITLES[name]}, {what}", fontsize=10, x=0.01, ha="left")
            paths.append(out / f"suite-{name}.png")
            save(figure, paths[-1])
    return paths


_TITLES = {
    "scores": "Normalised score, 95 % stratified bootstrap intervals",
    "distributions": "Share of runs that score above τ, pointwise 95 % intervals",
    "budgets": "Expected score of the best of k policies tried online",
}


def _scores(figure: Figure, suite: Suite, colour: dict[str, str]) -> None:
    statistics: dict[str, Callable[[Suite, str], Estimate]] = {"mean": suites.mean, "IQM": suites.iqm}
    for axes, (name, statistic) in zip(figure.subplots(1, 2, sharey=True), statistics.items(), strict=True):
        for row, method in enumerate(suite.methods):
            value, interval = statistic(suite, method)
            if interval is not None:
                axes.barh(row, interval[1] - interval[0], left=interval[0], height=0.55, color=colour[method], alpha=0.4)
            axes.plot([value, value], [row - 0.28, row + 0.28], color=colour[method], linewidth=2.5)
        axes.use_sticky_edges = False
        axes.set_yticks(range(len(suite.methods)), suite.methods)
        axes.set_ylim(len(suite.methods) - 0.5, -0.5)
        axes.set_xlabel(name)
        axes.grid(axis="x", color=GRID, linewidth=0.8)


def _distributions(axes: Axes, suite: Suite, colour: dict[str, str]) -> None:
    scores = suites.thresholds(suite)
    for method in suite.methods:
        share, band = suites.distribution(suite, method, scores)
        axes.step(scores, share, color=colour[method], linewidth=2, label=method, where="post")
        if band is not None:
            axes.fill_between(scores, *band, color=colour[method], alpha=0.15, linewidth=0, step="post")
    axes.set_xlabel("normalised score τ")
    axes.set_ylabel("runs above τ")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _finish(axes)


def _budgets(suite: Suite, colour: dict[str, str]) -> list[tuple[str, str, np.ndarray]]:
    """(registered method, colour of its first series, curve) where there is a curve."""
    first = {suite.cells[suite.shared[0], name].method: name for name in reversed(suite.methods)}
    methods = dict.fromkeys(suite.cells[suite.shared[0], name].method for name in suite.methods)
    curves = [(method, colour[first[method]], suites.budget(suite, method)) for method in methods]
    return [(method, shade, curve) for method, shade, curve in curves if curve is not None]


def _budget_curves(axes: Axes, budgets: list[tuple[str, str, np.ndarray]]) -> None:
    for method, shade, curve in budgets:
        axes.plot(np.arange(1, len(curve) + 1), curve, color=shade, linewidth=2, marker="o", markersize=4, label=method)
    axes.set_xlabel("policies tried (k); seeds and points of a sweep, half of the episodes choose and half are reported")
    axes.set_ylabel("expected normalised score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
