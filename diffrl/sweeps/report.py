"""What a sweep found: a table of points for each group, what was named best and why to doubt it, and where the time went."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from diffrl import escape, files
from diffrl.reports import films, markdown, page, tables
from diffrl.sweeps import plot
from diffrl.sweeps.results import Cell, StageTime, SweepResults, read

OPTIMISTIC = (
    "The best point of each table stands out. It was chosen by the very episodes that score it, so its score is optimistic, the "
    "more so the more points there are: train and evaluate it anew, with other seeds, before comparing it with anything."
)
SAVED = (
    "Saved at most: seconds × (runs / distinct runs - 1), what a stage would have taken longer had it trained all runs, even "
    "those that nothing told apart yet. An estimate from above: where a device has room, time grows by less than the runs do."
)


def write(sweep: Path, out: Path, console: Console) -> None:
    """Print the tables, and write them to `out` with the pictures: sweep.md, report.html, sweep.csv, a .png for each swept float.

    Raises:
        ConfigError, ReportError: as `read`.
    """
    found = read(sweep)
    out.mkdir(parents=True, exist_ok=True)
    curves = plot.charts(found.cells)
    pictures = plot.draw(curves, out)
    written = [out / "sweep.csv", *pictures]
    files.write(written[0], to_csv(found.cells).encode())
    shot = [film for cell in found.cells for workdir in cell.workdirs for film in films.of(cell.group, workdir, cell.result)]
    written += page.write(out / "sweep.md", to_markdown(found, list(curves)), curves, shot)
    for label, cells in found.groups.items():
        header, rows = formatted(cells)
        _print(console, f"{label}: {cells[0].card.id}", header, rows, best_of(cells))
    header, rows = formatted_times(found.times)
    if rows:
        _print(console, "time", header, rows, None)
    for line in explanation(found):
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("wrote " + ", ".join(str(path) for path in written), highlight=False, markup=False, soft_wrap=True)


def best_of(cells: list[Cell]) -> int | None:
    """The index of the highest mean among points of which every run was trained to the end; None where no single one is."""
    means = np.array([-np.inf if any(cell.stopped) else np.nan_to_num(cell.summary.mean, nan=-np.inf) for cell in cells])
    best = np.flatnonzero(means == means.max())
    return int(best[0]) if len(cells) > 1 and len(best) == 1 else None


def formatted(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a group's table."""
    first = cells[0].result
    scored = first.reference is not None
    header = ["point", "runs", *["score"] * scored, "return", "IQM", "95 % interval", "success"]
    rows = []
    for cell in cells:
        summary, mean_return = cell.summary, float(cell.result.mean_returns.mean())
        rows.append(
            [
                cell.words,
                str(summary.runs),
                *[f"{summary.mean:.2f}"] * scored,
                f"{mean_return:.2f}",
                f"{summary.iqm:.2f}",
                "-" if summary.interval is None else f"{summary.interval[0]:.2f} … {summary.interval[1]:.2f}",
                f"{100 * float(cell.result.success_rates.mean()):.0f} %",
            ]
        )
    return header, rows


def formatted_times(times: list[StageTime]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the time section, the sum last."""
    header = ["group", "stage", "runs", "distinct runs", "seconds", "compiling", "saved at most"]
    rows = [
        [
            time.group,
            time.stage,
            str(time.runs),
            str(time.distinct_runs),
            f"{time.seconds:,.1f}",
            f"{time.compile_seconds:,.1f}",
            f"{time.saved_seconds:,.1f}",
        ]
        for time in times
    ]
    if rows:
        sums = (sum(getattr(time, name) for time in times) for name in ("seconds", "compile_seconds", "saved_seconds"))
        rows.append(["sum", "", "", "", *(f"{value:,.1f}" for value in sums)])
    return header, rows


def to_markdown(found: SweepResults, pictures: list[str]) -> str:
    """The whole report as a page."""
    parts = ["# Sweep\n"]
    for label, cells in found.groups.items():
        header, rows = formatted(cells)
        best = best_of(cells)
        if best is not None:
            rows[best] = [f"**{cell}**" for cell in rows[best]]
        parts += [markdown.heading(f"{label}: {cells[0].card.id}", 2), markdown.table(header, rows)]
    parts += [f"![{name.removesuffix('.png')}]({name})\n" for name in pictures]
    header, rows = formatted_times(found.times)
    if rows:
        parts += ["## Time\n", markdown.table(header, rows)]
    parts += ["## Reading it\n", markdown.bullets(explanation(found))]
    return "\n".join(parts)


def to_csv(cells: list[Cell]) -> str:
    """A row per run in full precision; settings, points and choices when acting as columns of their own."""
    rows = []
    for cell in cells:
        settings = cell.settings | cell.point | {f"act.{name}": value for name, value in cell.result.settings.act}
        scores = cell.result.mean_scores
        for run, seed in enumerate(cell.result.seeds):
            row: dict[str, Any] = {"group": cell.group, "dataset": cell.card.id, **settings, "seed": seed}
            row |= {"updates": cell.result.step, "return": float(cell.result.mean_returns[run])}
            row |= {"score": None if scores is None else float(scores[run])}
            rows.append(row | {"success": float(cell.result.success_rates[run]), "stopped": cell.stopped[run]})
    last = ("updates", "return", "score", "success", "stopped")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in last]
    return escape.csv_lines([*names, *last], rows)


def explanation(found: SweepResults) -> list[str]:
    """Sentences that go below the tables."""
    results_of = [cell.result for cell in found.cells]
    lines = [f"Simulator: {text}." for text in dict.fromkeys(result.settings.simulator for result in results_of)]
    lines += [f"Reference: {text}." for text in dict.fromkeys(map(tables.reference_in_words, results_of))]
    lines.append(
        f"A run counts by the mean of its {results_of[0].settings.episodes} episodes at the last checkpoint; IQM and 95 % "
        "interval (bootstrap of the mean over runs) are of scores where there are scores, else of returns."
    )
    if any(best_of(cells) is not None for cells in found.groups.values()):
        lines.append(OPTIMISTIC)
    if any(time.saved_seconds for time in found.times):
        lines.append(SAVED)
    for cell in found.cells:
        for run, seed in enumerate(cell.result.seeds):
            why = cell.stopped[run] or ("" if np.isfinite(cell.values[run]) else "diverged")
            if why:
                lines.append(f"{cell.group}, {cell.words}, seed {seed}: {why}.")
    return lines + [f"{note}." for note in found.notes]


def _print(console: Console, title: str, header: list[str], rows: list[list[str]], best: int | None) -> None:
    columns = (Column(name, justify="right" if i else "left", no_wrap=not i) for i, name in enumerate(header))
    table = Table(*columns, title=title, title_justify="left")
    for number, row in enumerate(rows):
        table.add_row(*(Text(cell, style="bold" if number == best else "") for cell in row))
    console.print(table)
