"""The benchmark's results as tables for the console, a page and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullFormatter, StrMethodFormatter

from diffrl.benchmarks.scaling import Point
from diffrl.benchmarks.stages import HOST_LOOP, StageTime
from diffrl.reports.markdown import bullets, table
from diffrl.reports.style import STYLE, save


class Row(Protocol):
    """One measurement: a NamedTuple that can show itself in a table."""

    def cells(self) -> tuple[str, ...]: ...

    def _asdict(self) -> dict[str, Any]: ...


class Section(NamedTuple):
    """Measurements of one kind.

    Attributes:
        name: in results.json.
        title: above the table.
        columns: heads of the table.
        note: what the reader must know.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    note: str = ""


def markdown(head: Sequence[str], sections: Sequence[Section], claims: Sequence[str] = ()) -> str:
    """The page: the machine first, then a table per section that has rows, and what they say."""
    lines = ["# Benchmark", "", *(f"{line}  " for line in head)]
    for section in sections:
        if section.rows:
            lines += ["", f"## {section.title}", "", *([section.note, ""] if section.note else [])]
            cells = [row.cells() for row in section.rows]
            lines.append(table(section.columns, cells, left=len(section.columns)).rstrip())
    if claims:
        lines += ["", "## What this says", "", bullets(claims).rstrip()]
    return "\n".join(lines) + "\n"


def draw_throughput(rows: Sequence[StageTime], path: Path) -> Path:
    """Updates per second of all runs against their number, a line per stage; where it was timed, against a host loop too."""
    stages = list(dict.fromkeys((row.method, row.stage) for row in rows))
    compared = any(np.isfinite(row.of_host_loop) for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0 if compared else 7.0, 5.0), layout="constrained")
        panels = figure.subplots(1, 1 + compared, squeeze=False)[0]
        absolute, named = panels[0], panels[-1]
        colours = matplotlib.colormaps["tab20"]
        for i, (method, stage) in enumerate(stages):
            runs = [row for row in rows if (row.method, row.stage) == (method, stage) and row.way != HOST_LOOP]
            style: Any = {"color": colours(i % 20), "marker": "o", "markersize": 3.5, "linewidth": 1.4}
            counts = [row.runs for row in runs]
            absolute.plot(counts, [row.updates_per_second for row in runs], label=f"{method} {stage}", **style)
            for relative in panels[1:]:
                relative.plot(counts, [row.of_host_loop for row in runs], label=f"{method} {stage}", **style)
        _logarithmic(absolute, "runs in one program", "updates/s of all runs")
        for relative in panels[1:]:
            relative.axhline(1.0, color="#8a93a3", linewidth=1.2, linestyle="--")
            _logarithmic(relative, "runs in one program", "against a host loop of one run")
            relative.yaxis.set_major_locator(FixedLocator([0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0]))
            relative.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        named.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
        save(figure, path)
    return path


def draw_scaling(points: Sequence[Point], title: str, path: Path) -> Path:
    """Time and memory along every axis."""
    names = list(dict.fromkeys(point.axis for point in points))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(names), 5.4), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        most = max(point.updates_per_second for point in points)
        least = min(point.updates_per_second for point in points)
        panels = figure.subplots(2, len(names), squeeze=False)
        for column, name in enumerate(names):
            own = [point for point in points if point.axis == name]
            values = [point.value for point in own]
            style: Any = {"color": "#2f6690", "marker": "o", "markersize": 3.5, "linewidth": 1.4}
            panels[0, column].plot(values, [1.0 / point.updates_per_second for point in own], **style)
            panels[1, column].plot(values, [point.memory_bytes for point in own], **style)
            _logarithmic(panels[0, column], "", "s per update of all runs" if column == 0 else "")
            _logarithmic(panels[1, column], name, "bytes" if column == 0 else "")
            panels[0, column].set_ylim(0.5 / most, 2.0 / least)  # one scale, on which noise does not look like growth
            for panel in panels[:, column]:
                panel.set_xticks(values[:: 1 + len(values) // 6])
        save(figure, path)
    return path


def _logarithmic(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(EngFormatter(places=0, sep=""))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color="#e5e7eb", linewidth=0.8)
