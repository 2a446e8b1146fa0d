"""One picture per swept number: the score against its values, as numbers and as a picture."""

import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from diffrl.evaluation import statistics
from diffrl.reports import tables
from diffrl.reports.charts import Chart, Curve, bounds
from diffrl.reports.style import STYLE, save
from diffrl.sweeps.results import Cell

MAX_LINES = 10  # of one panel
LOG_RANGE = 8  # largest over smallest value from which an axis is logarithmic
MAX_TICKS = 12


class Line(NamedTuple):
    """Cells that differ in the picture's number alone, by its increasing values; in `scattered`, in other numbers too."""

    label: str
    x: list[float]
    cells: list[Cell]
    scattered: bool


def charts(cells: list[Cell]) -> dict[str, list[Chart]]:
    """A chart per dataset for every hyper-parameter and number chosen when acting of which there are several values.

    A curve per combination of everything else with the mean over runs, its 95 % bootstrap interval and every run. Points drawn
    at random, of which no two share their other numbers, make dots that nothing joins.

    Returns:
        By the file name of their picture, `<name>.png`.
    """
    names = [
        name for name in dict.fromkeys(name for cell in cells for name in coordinates(cell)) if len(_values(cells, name)) > 1
    ]
    return {re.sub(r"[^A-Za-z0-9_.]+", "-", name) + ".png": _of_datasets(cells, name) for name in names}


def draw(found: dict[str, list[Chart]], out: Path) -> list[Path]:
    """The pictures of `charts`, a panel per dataset."""
    return [_picture(panels, out / name) for name, panels in found.items()]


def coordinates(cell: Cell) -> dict[str, float]:
    """The numbers of a cell: hyper-parameters, and choices made when acting, called act.NAME."""
    found = dict(cell.point)
    for name, value in cell.result.settings.act:
        try:
            found[f"act.{name}"] = float(value)
        except ValueError:
            continue
    return found


def lines_of(cells: list[Cell], name: str) -> list[Line]:
    """The lines of one panel."""
    grid = _grouped(cells, name, with_numbers=True)
    scattered = len(grid) > 1 and all(len({coordinates(cell)[name] for cell in group}) == 1 for group in grid.values())
    found = []
    for label, group in (_grouped(cells, name, with_numbers=False) if scattered else grid).items():
        group = sorted(group, key=lambda cell: coordinates(cell)[name])
        found.append(Line(label, [coordinates(cell)[name] for cell in group], group, scattered))
    return found


def _grouped(cells: list[Cell], name: str, with_numbers: bool) -> dict[str, list[Cell]]:
    """Cells by what they do not share, in words."""
    described = []
    for cell in cells:
        numbers = coordinates(cell)
        act = {f"act.{key}": value for key, value in cell.result.settings.act if f"act.{key}" not in numbers}
        others = {key: f"{value:g}" for key, value in numbers.items() if key != name} if with_numbers else {}
        settings = {key.removeprefix("algorithm."): value for key, value in cell.settings.items() if key != "dataset.id"}
        described.append(settings | act | others)
    keys = dict.fromkeys(key for words in described for key in words)
    telling = [key for key in keys if len({words.get(key) for words in described}) > 1]
    found: dict[str, list[Cell]] = {}
    for cell, words in zip(cells, described, strict=True):
        if name in coordinates(cell):
            found.setdefault(", ".join(f"{key}={words[key]}" for key in telling if key in words), []).append(cell)
    return found


def _values(cells: list[Cell], name: str) -> set[float]:
    return {coordinates(cell)[name] for cell in cells if name in coordinates(cell)}


def _of_datasets(cells: list[Cell], name: str) -> list[Chart]:
    datasets: dict[str, list[Cell]] = {}
    for cell in cells:
        if name in coordinates(cell):
            datasets.setdefault(cell.card.id, []).append(cell)
    return [_chart(group, name) for group in datasets.values()]


def _chart(cells: list[Cell], name: str) -> Chart:
    values = sorted(_values(cells, name))
    lines = lines_of(cells, name)
    many = f" (first {MAX_LINES} of {len(lines)} lines)" if len(lines) > MAX_LINES else ""
    shown = "mean" if all(line.scattered for line in lines) else "mean, its 95 % interval"
    return Chart(
        title=f"{cells[0].card.id}{many}\n{shown}, a dot per run",
        x=name,
        y=tables.unit_of(cells[0].result),
        curves=[_curve(line, to_hex(f"C{number}")) for number, line in enumerate(lines[:MAX_LINES])],
        logarithmic=values[0] > 0 and values[-1] / values[0] >= LOG_RANGE,
        run_lines=False,
    )


def _curve(line: Line, colour: str) -> Curve:
    low, high = bounds(None if line.scattered else statistics.interval(cell.values) for cell in line.cells)
    by_seed = [dict(zip(cell.result.seeds, cell.values.tolist(), strict=True)) for cell in line.cells]
    return Curve(
        name=line.label or "mean over runs",
        colour=colour,
        x=line.x,
        mean=[cell.summary.mean for cell in line.cells],
        low=low,
        high=high,
        runs=[(f"seed {seed}", [values.get(seed, np.nan) for values in by_seed]) for seed in sorted(set().union(*by_seed))],
        kind="dots" if line.scattered else "line",
    )


def _picture(panels: list[Chart], path: Path) -> Path:
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.6 * columns, 7), 4.2 * rows), layout="constrained")
        axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
        for chart in panels:
            _panel(axes.pop(0), chart)
        for empty in axes:
            empty.set_axis_off()
        save(figure, path)
    return path


def _panel(axes: Axes, chart: Chart) -> None:
    if chart.logarithmic:
        axes.set_xscale("log")
    for one in chart.curves:
        for _, values in one.runs:
            axes.plot(one.x, values, ".", color=one.colour, alpha=0.45, markersize=5)
        style, marker = ("", "D") if one.kind == "dots" else ("-", "o")
        axes.plot(one.x, one.mean, style, marker=marker, color=one.colour, linewidth=2, markersize=5, label=one.name, zorder=3)
        if one.kind == "line":
            axes.fill_between(one.x, one.low, one.high, color=one.colour, alpha=0.18, linewidth=0)
    values = sorted({x for one in chart.curves for x in one.x})
    # Numbers that somebody chose are worth naming; drawn ones are long.
    if len(values) <= MAX_TICKS and all(len(f"{value:g}") < 6 for value in values):
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_title(chart.title, loc="left")
    if len(chart.curves) > 1:
        axes.legend(fontsize=8)
