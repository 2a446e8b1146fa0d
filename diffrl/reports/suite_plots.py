"""Pictures of a suite: scores over datasets, their distributions, and evaluation budgets."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from diffrl.reports import suite as suites
from diffrl.reports.charts import Chart, Curve
from diffrl.reports.style import STYLE, save
from diffrl.reports.suite import Estimate, Suite

GRID = "#e5e7eb"


def charts(suite: Suite, colour: dict[str, str]) -> dict[str, Chart]:
    """Score distributions, and evaluation budgets where there are some, by the file name of their picture.

    Args:
        suite: as from `suite.gather`.
        colour: of each series name.
    """
    if not suite.shared:
        return {}
    found = {_file("distributions"): _distributions(suite, colour)}
    budgets = _budgets(suite, colour)
    return found | ({_file("budgets"): budgets} if budgets.curves else {})


def draw(suite: Suite, colour: dict[str, str], curves: dict[str, Chart], out: Path) -> list[Path]:
    """All pictures of a suite, none where methods share no dataset with scores.

    Args:
        suite, colour: as in `charts`.
        curves: from there.
        out: directory; files are named suite-….png.
    """
    if not suite.shared:
        return []
    paths = []
    for name in (_file("scores"), *curves):
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9.5, 4.2 if name in curves else 1.3 + 0.32 * len(suite.methods)), layout="constrained")
            if name in curves:
                _draw_curves(figure.subplots(), curves[name])
            else:
                _scores(figure, suite, colour)
            title = curves[name].title if name in curves else _title("scores", suite)
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
            paths.append(out / name)
            save(figure, paths[-1])
    return paths


def _file(name: str) -> str:
    return f"suite-{name}.png"


def _title(name: str, suite: Suite) -> str:
    what = f"{len(suite.shared)} datasets" if len(suite.shared) > 1 else suite.shared[0].dataset
    return f"{_TITLES[name]}, {what}"


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


def _distributions(suite: Suite, colour: dict[str, str]) -> Chart:
    scores = suites.thresholds(suite)
    curves = []
    for method in suite.methods:
        share, band = suites.distribution(suite, method, scores)
        low, high = (np.full(len(scores), np.nan),) * 2 if band is None else band
        curves.append(Curve(method, colour[method], *(each.tolist() for each in (scores, share, low, high)), kind="step"))
    return Chart(_title("distributions", suite), "normalised score τ", "share of runs above τ", curves)


def _budgets(suite: Suite, colour: dict[str, str]) -> Chart:
    """A curve of each registered method that has one, in the colour of its first series."""
    first = {suite.cells[suite.shared[0], name].method: name for name in reversed(suite.methods)}
    curves = []
    for method in dict.fromkeys(suite.cells[suite.shared[0], name].method for name in suite.methods):
        values = suites.budget(suite, method)
        if values is not None:
            tried, none = np.arange(1.0, len(values) + 1.0).tolist(), [np.nan] * len(values)
            curves.append(Curve(method, colour[first[method]], tried, values.tolist(), none, none))
    x = "policies tried (k); seeds and points of a sweep, half of the episodes choose and half are reported"
    return Chart(_title("budgets", suite), x, "expected normalised score", curves)


def _draw_curves(axes: Axes, chart: Chart) -> None:
    for one in chart.curves:
        if one.kind == "step":
            axes.step(one.x, one.mean, color=one.colour, linewidth=2, label=one.name, where="post")
            axes.fill_between(one.x, one.low, one.high, color=one.colour, alpha=0.15, linewidth=0, step="post")
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.plot(one.x, one.mean, color=one.colour, linewidth=2, marker="o", markersize=4, label=one.name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
