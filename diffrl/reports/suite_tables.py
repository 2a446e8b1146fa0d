"""A suite as one table for people (Markdown) and one for programs (CSV)."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from diffrl.evaluation.statistics import summarise
from diffrl.reports import markdown, ways
from diffrl.reports import suite as suites
from diffrl.reports.suite import Interval, Suite, Task
from diffrl.reports.tables import Series, data_value, reference_in_words, to_csv, unit_of, values_of

MISSING = "–"


def labels(suite: Suite) -> dict[Task, str]:
    """Short names: without the folders and the version that all have in common, with the simulator where there are several."""
    datasets = [task.dataset for task in suite.tasks]
    folders = [name.split("/")[:-1] for name in datasets]
    common = next((i for i, level in enumerate(zip(*folders, strict=False)) if len(set(level)) > 1), min(map(len, folders)))
    versions = {name.rpartition("-")[2] for name in datasets}
    version = f"-{versions.pop()}" if len(versions) == 1 else ""
    suffix = version if re.fullmatch(r"-v\d+", version) else ""
    return {
        task: "/".join(task.dataset.split("/")[common:]).removesuffix(suffix)
        + (f" ({suite.of(task)[0].last.settings.backend})" if datasets.count(task.dataset) > 1 else "")
        + ("" if suite.scored(task) else " †")
        for task in suite.tasks
    }


def formatted(suite: Suite) -> tuple[list[str], list[list[str]]]:
    """Header and cells for reading: a row per task, then mean and IQM over shared tasks; the highest mean of a row in `**`."""
    header, rows = ["dataset", "data", *suite.methods], []
    for task, label in labels(suite).items():
        of_data = data_value(suite.of(task)[0])
        cells, means = [], []
        for method in suite.methods:
            one = suite.cells.get((task, method))
            summary = None if one is None else summarise(values_of(one.last))
            means.append(np.nan if summary is None else summary.mean)
            cells.append(MISSING if summary is None else _number(summary.mean, summary.interval))
        rows.append([label, MISSING if of_data is None else f"{of_data:.1f}", *_bold_best(cells, means)])
    if len(suite.shared) > 1:
        statistics: dict[str, Callable[[Suite, str], suites.Estimate]] = {"mean": suites.mean, "IQM": suites.iqm}
        for name, statistic in statistics.items():
            estimates = [statistic(suite, method) for method in suite.methods]
            cells = [_number(*estimate) for estimate in estimates]
            rows.append([f"{name} of {len(suite.shared)}", "", *_bold_best(cells, [each.value for each in estimates])])
    return header, rows


def improvements(suite: Suite) -> tuple[list[str], list[list[str]]]:
    """Header and cells of P(row above column) over shared tasks."""
    rows = [
        [method]
        + ["" if other == method else _number(*suites.improvement(suite, method, other), digits=2) for other in suite.methods]
        for method in suite.methods
    ]
    return ["P(row above column)", *suite.methods], rows


def explanation(suite: Suite) -> list[str]:
    """Sentences that go below the table."""
    every = list(suite.cells.values())
    names = labels(suite)
    unit = ", ".join(dict.fromkeys(unit_of(one.last) for one in every))
    lines = [
        f"Cells: mean {unit} over runs, with the 95 % bootstrap interval over runs; bold is the highest mean of a row, whether or"
        " not intervals overlap. `data` is the mean of the data, counted as an evaluation counts: over as many consecutive rows"
        " as its episodes have, or fewer up to a terminal.",
        "Every run counts once, by the mean of its episodes at the last evaluated checkpoint:"
        f" {_range(every, lambda one: len(one.last.seeds))} runs per cell,"
        f" {_range(every, lambda one: one.last.settings.episodes)} episodes per run,"
        f" {_range(every, lambda one: one.last.step)} updates.",
    ]
    if len(suite.shared) > 1:
        lines.append(
            f"Mean and IQM are over the {len(suite.shared)} datasets with scores of all methods, with stratified bootstrap"
            " intervals: runs are resampled within each dataset."
        )
    else:
        lines.append("No mean over datasets: fewer than two have scores of all methods.")
    if suite.left_out:
        lines.append(f"Left out, as evaluated on some of the datasets only: {'; '.join(suite.left_out)}.")
    for task in suite.tasks:
        missing = [method for method in suite.methods if (task, method) not in suite.cells]
        if missing:
            lines.append(f"{names[task]} counts in no mean over datasets: not evaluated with {', '.join(missing)}.")
        elif not suite.scored(task):
            lines.append(f"{names[task]} counts in no mean over datasets: it has no reference scores, so these are returns.")
    for task in suite.tasks:
        said = ways.in_words(suite.of(task))
        lines += [f"{names[task]}: {said}"] if said else []
    lines += _said_once(suite, lambda one: f"Simulator: {one.last.settings.simulator}")
    lines += _said_once(suite, lambda one: f"Reference: {reference_in_words(one.last)}")
    lines += [f"{one.name} on {names[task]}: {note}." for (task, _), one in suite.cells.items() for note in one.all_notes]
    return lines


def to_markdown(suite: Suite, pictures: list[str]) -> str:
    """The table, what its numbers mean, the pairs of methods, and the pictures by file name."""
    parts = ["# Suite\n", markdown.table(*formatted(suite)), markdown.bullets(explanation(suite))]
    if suite.shared and len(suite.methods) > 1:
        parts += [
            "## Probability of improvement\n",
            markdown.table(*improvements(suite)),
            "How often a run of the row scores above a run of the column on the same dataset, averaged over"
            f" {len(suite.shared)} datasets.\n",
        ]
    return "\n".join(parts + [f"![{name.rsplit('.', 1)[0]}]({name})\n" for name in pictures])


def to_long_csv(suite: Suite) -> str:
    """One line per cell, then one per method and statistic over the shared tasks; full precision, what is unknown is empty."""
    table: list[dict[str, Any]] = []
    for (task, name), one in suite.cells.items():
        summary = summarise(values_of(one.last))
        table.append(
            {
                "dataset": task.dataset,
                "simulator": task.simulator,
                "series": name,
                "method": one.method,
                "hyper-parameters": one.point,
                "acting": one.last.settings.acting,
                "unit": unit_of(one.last),
                "statistic": "mean",
                "value": summary.mean,
                **_bounds(summary.interval),
                "IQM": summary.iqm,
                "runs": summary.runs,
                "episodes per run": one.last.settings.episodes,
                "updates": one.last.step,
                "return mean": float(one.last.mean_returns.mean()),
                "success rate": float(one.last.success_rates.mean()),
                "data": data_value(one),
                "reference": reference_in_words(one.last),
                "workdir": str(one.workdir),
                "notes": "; ".join(one.all_notes),
            }
        )
    if len(suite.shared) > 1:
        for name in suite.methods:
            for statistic, estimate in (("mean", suites.mean(suite, name)), ("IQM", suites.iqm(suite, name))):
                values = {"value": estimate.value, **_bounds(estimate.interval), "runs": sum(map(len, suite.runs(name)))}
                over = {"dataset": f"all {len(suite.shared)} shared", "series": name, "unit": "normalised score"}
                table.append(over | {"statistic": statistic} | values)
    return to_csv(table)


def _bounds(interval: Interval) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"95% low": low, "95% high": high}


def _number(value: float, interval: Interval, digits: int = 1) -> str:
    text = "diverged" if np.isnan(value) else f"{value:.{digits}f}"
    return text if interval is None else f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _bold_best(cells: list[str], means: list[float]) -> list[str]:
    """The highest mean in bold, where there is another to compare it with."""
    if len(cells) - cells.count(MISSING) < 2 or not np.isfinite(means).any():
        return cells
    best = np.nanmax(means)
    return [re.sub(r"^\S+", r"**\g<0>**", cell) if mean == best else cell for cell, mean in zip(cells, means, strict=True)]


def _range(every: list[Series], number: Callable[[Series], int]) -> str:
    low, high = min(map(number, every)), max(map(number, every))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _said_once(suite: Suite, words: Callable[[Series], str]) -> list[str]:
    """Each sentence once, with the tasks it is true of unless these are all."""
    said: dict[str, list[str]] = {}
    for task, label in labels(suite).items():
        for text in dict.fromkeys(words(one) for one in suite.of(task)):
            said.setdefault(text, []).append(label.removesuffix(" †"))
    return [text + ("." if len(of) == len(suite.tasks) else f" ({', '.join(of)}).") for text, of in said.items()]
