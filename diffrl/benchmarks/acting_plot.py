"""Time of an action against the settings of the network and of the sampler."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from diffrl.benchmarks.stages import ActionTime, axes_of
from diffrl.reports.style import STYLE, save


def _number(value: str) -> float | str:
    """A number where it is one, so that distances on the axis mean something."""
    try:
        return float(value)
    except ValueError:
        return value


def draw(rows: list[ActionTime], variants: list[str], path: Path) -> Path:
    """A panel per text of `variants` at the smallest batch: the first name on the axis, a line per method and other settings."""
    batch = min(row.batch for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(variants), 3.8), layout="constrained")
        for axes, text in zip(figure.subplots(1, len(variants), squeeze=False)[0], variants, strict=True):
            names = list(axes_of(text))
            lines: dict[str, list[tuple[str, float]]] = {}
            for row in rows:
                if row.batch == batch and list(row.variant) == names:
                    label = ", ".join([row.method, *(f"{name} {row.variant[name]}" for name in names[1:])])
                    lines.setdefault(label, []).append((row.variant[names[0]], 1e3 * row.seconds_per_call))
            for label, line in lines.items():
                points = [(_number(value), milliseconds) for value, milliseconds in line]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, linewidth=1.4, label=label)
            axes.set_xlabel(names[0])
            axes.set_ylabel(f"ms per call, batch {batch}")
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)
        save(figure, path)
    return path
