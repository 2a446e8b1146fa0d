"""A `Check` for people: on the terminal, as Markdown, and as a picture of its episodes."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from diffrl import escape, files
from diffrl.envs.env_spec import read
from diffrl.reports import markdown
from diffrl.reports.check import Check, looks_at, remark
from diffrl.reports.findings import in_words
from diffrl.reports.style import DATA, STYLE, save

BINS, BAR = 8, 24  # of a histogram, and characters of its longest bar
COLOURS = {"stop": "bold red", "look": "yellow", "note": "dim"}
MARKS = {"stop": "cannot be trained on", "look": "look at this", "note": "note"}


class Section(NamedTuple):
    """A table of the report; the first `left` columns are words."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1


def sections(check: Check) -> list[Section]:
    """The tables of a check that the terminal shows."""
    found = []
    if check.arrays:
        rows = [(repr(one.name)[1:-1], _shape(one.shape), one.dtype) for one in check.arrays]
        found.append(Section("arrays of the file", ("array", "shape", "type"), rows, left=3))
    if check.facts is not None:
        found += [_fields(check), _episodes(check)]
    if check.verdicts and check.facts is not None:
        rows = [(one.method, "no" if one.why_not else "yes", looks_at(one), remark(one, check.facts)) for one in check.verdicts]
        found.append(Section("methods", ("method", "can train", "looks at", "remark"), rows, left=4))
    return found


def show(check: Check, console: Console) -> None:
    """Print a check."""
    say = lambda text, style="": console.print(  # noqa: E731
        Text(escape.printable(text), style), highlight=False, soft_wrap=True
    )
    say(check.asked.id, "bold")
    for line in headline(check):
        say(line)
    for section in sections(check):
        table = Table(
            *(Column(name, justify="left" if i < section.left else "right") for i, name in enumerate(section.header)),
            title=section.title,
            title_justify="left",
        )
        for row in section.rows:
            table.add_row(*(Text(escape.printable(cell)) for cell in row))
        console.print(table)
    if check.facts is not None:
        for title, values in histograms(check):
            say(title)
            for label, bar, count in bars(values):
                say(f"  {label}  {bar:<{BAR}}  {count:,}")
    for finding in check.findings:
        say(f"{MARKS[finding.level]}: {finding.text}", COLOURS[finding.level])
    if check.commands:
        say("begin with", "bold")
        for command in check.commands:
            say(f"  {command}")
    else:
        say("these data cannot be trained on as they are", "bold red")


def headline(check: Check) -> list[str]:
    """What the data are, in a few lines."""
    if check.source is None or check.facts is None:
        return []
    facts, lines = check.facts, [check.source.description] if check.source.description else []
    unflagged = f", {facts.ends.unflagged:,} of them without a flag" if facts.ends.unflagged else ""
    lines.append(
        f"{facts.rows:,} rows, {len(facts.lengths):,} episodes, of which {facts.terminals:,} end in a terminal and "
        f"{facts.timeouts:,} are cut{unflagged}; {facts.duplicates:,} rows are copies of others"
    )
    if facts.ends.dropped:
        gone = len(facts.returns) - len(facts.lengths)
        whole = f", and with them {gone:,} episodes of one row" if gone else ""
        lines.append(
            f"{facts.ends.dropped:,} rows left out, which have no next observation{whole}; their rewards count in returns"
        )
    if len(facts.actions.low):
        low, high = (_range(bound) for bound in (facts.actions.low, facts.actions.high))
        known = "" if facts.actions.known else ", taken to be so"
        lines.append(
            f"actions in a box from {low} to {high}{known}; {facts.actions.beyond:,} rows beyond, "
            f"{facts.actions.at_bound:.1%} of all numbers at a bound"
        )
    elif check.card is not None:
        lines.append(f"{len(check.card.action_low)} discrete actions")
    if check.card is not None and check.card.env_spec is not None:
        lines.append(f"environment {read(check.card.env_spec).get('id')}")
    return lines


def to_markdown(check: Check, picture: str | None) -> str:
    """The whole check, every column among it. What comes from data has no meaning as Markdown."""
    parts = [f"# {escape.markdown(check.asked.id)}\n", *(f"{escape.markdown(line)}.\n" for line in headline(check))]
    parts += [f"* **{MARKS[one.level]}**: {escape.markdown(one.text)}" for one in check.findings]
    if check.commands:
        parts += ["\nBegin with\n\n```", *map(escape.printable, check.commands), "```"]
    for section in [*sections(check), *_columns(check)]:
        parts.append(f"\n## {section.title}\n\n{markdown.table(section.header, section.rows, section.left).rstrip()}")
    if picture is not None:
        parts.append(f"\n![Lengths and returns of episodes]({picture})")
    return "\n".join(parts) + "\n"


def write(check: Check, out: Path) -> list[Path]:
    """Write check.md, and check.png where there are episodes, to a directory."""
    written = [] if check.facts is None else [draw(check, out / "check.png")]
    text = to_markdown(check, written[0].name if written else None)
    files.write(out / "check.md", text.encode())
    return [out / "check.md", *written]


def draw(check: Check, path: Path) -> Path:
    """Histograms of the episodes' lengths and returns."""
    with matplotlib.rc_context(STYLE):
        counted = histograms(check)
        figure = Figure(figsize=(4 * len(counted), 3.2), layout="constrained")
        axes = figure.subplots(1, len(counted), squeeze=False)[0]
        for axis, (title, values) in zip(axes, counted, strict=True):
            counts, edges = _counted(values, bins=int(np.clip(2 * np.sqrt(len(values)), BINS, 40)))
            axis.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=DATA)
            axis.set_xlabel(title)
            axis.set_ylabel("episodes")
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(escape.printable(check.asked.id), fontsize=10, x=0.01, ha="left")
        save(figure, path)
    return path


def histograms(check: Check) -> list[tuple[str, Num[np.ndarray, " episodes"]]]:
    """What is counted over episodes: a title and the finite values."""
    assert check.facts is not None
    found = [("rows of an episode", check.facts.lengths)]
    if check.facts.has_rewards:
        found.append(("return of an episode", check.facts.returns))
    return [(title, values[np.isfinite(values)]) for title, values in found]


def bars(values: Num[np.ndarray, " episodes"]) -> list[tuple[str, str, int]]:
    """Of each bin its range, a bar and how many there are."""
    counts, edges = _counted(values, BINS)
    if not len(counts):
        return []
    labels = [f"{low:.4g} … {high:.4g}" for low, high in itertools.pairwise(edges)]
    if len(counts) == 1:
        labels = [f"{values[0]:.4g}"]
    width = max(map(len, labels))
    return [
        (f"{label:>{width}}", "█" * int(np.ceil(BAR * count / counts.max())), int(count))
        for label, count in zip(labels, counts, strict=True)
    ]


def _counted(values: Num[np.ndarray, " episodes"], bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges; of equal values one bin, of few whole numbers one for each."""
    if not len(values):
        return np.zeros(0, int), np.zeros(1)
    span = float(values.max()) - float(values.min())
    if span == 0.0:
        return np.array([len(values)]), np.array([values[0] - 0.5, values[0] + 0.5])
    whole = values.dtype.kind in "iu" and span < bins
    return np.histogram(values, bins=int(span) + 1 if whole else bins)


def _fields(check: Check) -> Section:
    assert check.facts is not None
    header = ("field", "type", "shape", "least", "largest", "mean", "deviation", "constant", "not finite")
    rows = [
        (
            field.name,
            field.dtype,
            _shape(field.shape),
            _number(np.nanmin, field.low),
            _number(np.nanmax, field.high),
            _range(field.mean),
            _range(field.std),
            in_words(field.constant) if len(field.shape) == 2 and field.constant else "yes" if field.constant else "",
            f"{field.bad.sum():,}" if field.bad.any() else "",
        )
        for field in check.facts.fields.values()
        if field.dtype != "bool" and (field.name != "reward" or check.facts.has_rewards)
    ]
    return Section("fields", header, rows, left=2)


def _episodes(check: Check) -> Section:
    header = ("of an episode", "least", "quarter", "median", "three quarters", "largest", "mean")
    rows = []
    for title, values in histograms(check):
        points = [*np.quantile(values, (0, 0.25, 0.5, 0.75, 1)), values.mean()] if len(values) else [np.nan] * 6
        rows.append((title.removesuffix(" of an episode"), *(f"{point:.4g}" for point in points)))
    return Section("episodes", header, rows)


def _columns(check: Check) -> list[Section]:
    if check.facts is None or check.source is None:
        return []
    names = [f"{part}[{i}]" for part, width in check.source.observation_parts for i in range(width)]
    rows = []
    for field in (check.facts.fields["observation"], check.facts.fields["action"]):
        for i in range(len(field.low)):
            label = f"observation {i}" if field.name == "observation" else f"action {i}"
            named = f" ({names[i]})" if field.name == "observation" and names else ""
            numbers = (f"{values[i]:.4g}" for values in (field.low, field.high, field.mean, field.std))
            rows.append((label + named, *numbers, f"{field.bad[i]:,}"))
    return [Section("columns", ("column", "least", "largest", "mean", "deviation", "not finite"), rows)]


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{n:,}" for n in shape) or "one number"


def _number(reduce: Callable[..., Any], values: np.ndarray) -> str:
    return f"{reduce(values):.4g}" if np.isfinite(values).any() else "-"


def _range(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "-"
    low, high = f"{known.min():.4g}", f"{known.max():.4g}"
    return low if low == high else f"{low} … {high}"
