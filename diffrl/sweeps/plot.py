"""One picture per swept number: the score against its values."""

import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from diffrl.evaluation import statistics
from diffrl.reports import tables
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


def draw(cells: list[Cell], out: Path) -> list[Path]:
    """`<name>.png` for every hyper-parameter and number chosen when acting of which there are several values.

    A panel per dataset; a line per combination of everything else with the mean over runs, its 95 % bootstrap interval and a dot
    for every run. Points drawn at random, of which no two share their other numbers, make dots without a line.
    """
    names = [
        name for name in dict.fromkeys(name for cell in cells for name in coordinates(cell)) if len(_values(cells, name)) > 1
    ]
    return [_picture(cells, name, out / (re.sub(r"[^A-Za-z0-9_.]+", "-", name) + ".png")) for name in names]


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


def _picture(cells: list[Cell], name: str, path: Path) -> Path:
    panels: dict[str, list[Cell]] = {}
    for cell in cells:
        if name in coordinates(cell):
            panels.setdefault(cell.card.id, []).append(cell)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.6 * columns, 7), 4.2 * rows), layout="constrained")
        axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
        for dataset, group in panels.items():
            _panel(axes.pop(0), group, name, dataset)
        for empty in axes:
            empty.set_axis_off()
        save(figure, path)
    return path


def _panel(axes: Axes, cells: list[Cell], name: str, dataset: str) -> None:
    values = sorted(_values(cells, name))
    logarithmic = values[0] > 0 and values[-1] / values[0] >= LOG_RANGE
    if logarithmic:
        axes.set_xscale("log")
    lines = lines_of(cells, name)
    for number, line in enumerate(lines[:MAX_LINES]):
        colour = f"C{number}"
        for x, cell in zip(line.x, line.cells, strict=True):
            axes.plot([x] * len(cell.values), cell.values, ".", color=colour, alpha=0.45, markersize=5)
        means = [cell.summary.mean for cell in line.cells]
        style, marker = ("", "D") if line.scattered else ("-", "o")
        label = line.label or "mean over runs"
        axes.plot(line.x, means, style, marker=marker, color=colour, linewidth=2, markersize=5, label=label, zorder=3)
        if not line.scattered:
            found = [statistics.interval(cell.values) or (np.nan, np.nan) for cell in line.cells]
            band = np.array(found)
            axes.fill_between(line.x, band[:, 0], band[:, 1], color=colour, alpha=0.18, linewidth=0)
    # Numbers that somebody chose are worth naming; drawn ones are long.
    if len(values) <= MAX_TICKS and all(len(f"{value:g}") < 6 for value in values):
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name)
    axes.set_ylabel(tables.unit_of(cells[0].result))
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    many = f" (first {MAX_LINES} of {len(lines)} lines)" if len(lines) > MAX_LINES else ""
    shown = "mean" if all(line.scattered for line in lines) else "mean, its 95 % interval"
    axes.set_title(f"{dataset}{many}\n{shown}, a dot per run", loc="left")
    if len(lines) > 1:
        axes.legend(fontsize=8)
