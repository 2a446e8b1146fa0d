"""What a picture of curves shows, as numbers: matplotlib draws them for Markdown, the page's script draws them to be hovered."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from diffrl import escape
from diffrl.reports.style import LONGEST


class Curve(NamedTuple):
    """Means along x, their intervals, and the runs behind them.

    Attributes:
        name: as the legend calls it.
        colour: "#rrggbb".
        x, mean: `[P]`.
        low, high: `[P]`, NaN where there is no interval.
        runs: each run's name with its values `[P]`, NaN where it has none.
        kind: means joined by a line, by steps that last until the next x, or not joined.
    """

    name: str
    colour: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    runs: Sequence[tuple[str, Sequence[float]]] = ()
    kind: Literal["line", "step", "dots"] = "line"


class Chart(NamedTuple):
    """Curves on shared axes.

    Attributes:
        title: lines of text.
        x, y: names of the axes.
        curves: in the legend's order.
        level: name and height of a dashed line across, None for none.
        logarithmic: whether x is shown by its logarithm.
        run_lines: whether a run's values are joined; else each is a dot.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    level: tuple[str, float] | None = None
    logarithmic: bool = False
    run_lines: bool = True


def bounds(intervals: Iterable[tuple[float, float] | None]) -> tuple[list[float], list[float]]:
    """Lower and upper ends, NaN where there is no interval."""
    pairs = [(math.nan, math.nan) if each is None else each for each in intervals]
    return [low for low, _ in pairs], [high for _, high in pairs]


def to_json(chart: Chart) -> str:
    """For the page's script: numbers in six digits, None where there is none; names as they may be printed."""
    curves = [
        {
            "name": _name(one.name),
            "colour": one.colour,
            "kind": one.kind,
            **{name: _numbers(getattr(one, name)) for name in ("x", "mean", "low", "high")},
            "runs": [{"name": _name(name), "values": _numbers(values)} for name, values in one.runs],
        }
        for one in chart.curves
    ]
    level = None if chart.level is None else {"name": _name(chart.level[0]), "value": _number(chart.level[1])}
    axes = {"x": _name(chart.x), "y": _name(chart.y), "logarithmic": chart.logarithmic, "run_lines": chart.run_lines}
    return json.dumps({**axes, "level": level, "curves": curves}, allow_nan=False, separators=(",", ":"))


def _name(text: str) -> str:
    return escape.printable(text)[:LONGEST]


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
