"""Tables of results (Markdown, CSV, terminal): workdirs are read into series that may be compared, and these are put in rows.

Normalised scores are shown where the data have reference returns; IQM and interval then speak of scores, else of returns.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffrl import escape
from diffrl.config import ConfigError, algorithm_name
from diffrl.data.dataset import Card
from diffrl.data.scores import normalized
from diffrl.envs import env_spec
from diffrl.errors import UserError
from diffrl.evaluation import results
from diffrl.evaluation.results import Result
from diffrl.evaluation.statistics import probability_of_improvement, summarise
from diffrl.records import RecordError
from diffrl.reports import markdown
from diffrl.training.runs import in_words
from diffrl.training.trained import Trained
from diffrl.training.workdir import WorkdirError


class ReportError(UserError, ValueError):
    """Nothing can be reported; the message says why and what to do."""


class Series(NamedTuple):
    """One hyper-parameter point of one workdir, acting one way, in one simulator, over training.

    Attributes:
        name: what a legend calls it: the method, and whatever sets it apart from the other series.
        method: registered name.
        point: swept hyper-parameters in words, "" for none.
        workdir: where it comes from.
        card: the data it was trained on.
        results: by increasing updates, restricted to the runs of this point.
        notes: what a reader must know beside the numbers.
    """

    name: str
    method: str
    point: str
    workdir: Path
    card: Card
    results: list[Result]
    notes: list[str]

    @property
    def last(self) -> Result:
        return self.results[-1]

    @property
    def setting(self) -> tuple[str, str]:
        """Only series of the same data and simulator may be compared."""
        return self.card.id, self.last.settings.simulator

    @property
    def all_notes(self) -> list[str]:
        """`notes`, how many runs diverged, and whether the point was dropped on the way."""
        count = int((~np.isfinite(self.last.mean_returns)).sum())
        dropped = sorted({reason for reason in self.last.stopped if reason.startswith("dropped")})
        return self.notes + ([f"{count} of {len(self.last.seeds)} runs diverged"] if count else []) + dropped


def values_of(result: Result) -> np.ndarray:
    """What is compared, `[R]`: normalised scores where there is a reference, else returns."""
    return result.mean_returns if result.mean_scores is None else result.mean_scores


def unit_of(result: Result) -> str:
    """What `values_of` gives."""
    return "episode return" if result.reference is None else "normalised score"


def data_value(series: Series) -> float | None:
    """The data's own mean return, counted as an evaluation counts, in the unit of `values_of`; None where that counts successes,
    which data do not, and where they hold no episode to compare: a run that learnt by interaction has no data at all.
    """
    reference = series.last.reference
    mean = series.card.comparable_return
    if mean is None or reference is None:
        return mean
    return None if reference.quantity == "success" else float(normalized(np.array([mean]), reference)[0])


def step_unit(series: Series) -> str:
    """What checkpoints are counted in: "updates", or online "steps" of the environment."""
    return "updates" if series.card.rows else "steps"


def read(workdirs: list[Path], last: int | None = None) -> list[Series]:
    """All series of some workdirs, up to the checkpoint `last` if given.

    Raises:
        ReportError: a directory is no workdir, or none of them has been evaluated.
    """
    series = [one for workdir in workdirs for one in _read_one(workdir, last)]
    if not series:
        listed = ", ".join(str(workdir) for workdir in workdirs)
        raise ReportError(f"no evaluations in {listed}; run launch/evaluate.py --workdir=... first")
    return _named(series)


def _read_one(workdir: Path, last: int | None) -> list[Series]:
    try:
        trained = Trained.open(workdir)
        found = [result for result in results.load_all(workdir) if last is None or result.step <= last]
    except (WorkdirError, ConfigError, RecordError, OSError) as error:
        raise ReportError(f"{workdir}: {error}") from error
    method = algorithm_name(trained.config)
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in found:
        for hparams, runs in results.points(result):
            part = dataclasses.replace(
                result,
                seeds=[result.seeds[run] for run in runs],
                hparams=[result.hparams[run] for run in runs],
                returns=result.returns[runs],
                lengths=result.lengths[runs],
                successes=result.successes[runs],
                stopped=tuple(result.stopped[run] for run in runs if result.stopped),
            )
            point = in_words(hparams)
            grouped.setdefault((point, result.settings.label), []).append(part)
    return [
        Series("", method, point, workdir, trained.card, group, _notes(workdir, group[-1].step))
        for (point, _), group in grouped.items()
    ]


def _notes(workdir: Path, evaluated: int) -> list[str]:
    notes = [] if (workdir / "DONE").exists() else ["training has not ended"]
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    if steps and max(steps) > evaluated:
        notes.append(f"the checkpoint at {max(steps)} updates has not been evaluated")
    return notes


def _named(series: list[Series]) -> list[Series]:
    """Names as short as they may be: the method, then point and acting; the workdir only where these do not tell apart."""

    def short(one: Series) -> str:
        acting = one.last.settings.acting
        return ", ".join(part for part in (one.method, one.point, "" if acting == "as trained" else acting) if part)

    workdirs: dict[tuple, set[Path]] = {}
    for one in series:
        workdirs.setdefault((short(one), one.setting), set()).add(one.workdir)
    return [
        one._replace(name=short(one) + (f" ({one.workdir.name})" if len(workdirs[short(one), one.setting]) > 1 else ""))
        for one in series
    ]


def rows(series: list[Series], best: bool = False) -> list[dict[str, Any]]:
    """One row per series, from its last evaluated checkpoint.

    Args:
        series: as from `read`.
        best: add the best mean over all evaluated checkpoints. It chooses with the test's own scores: an upper bound.
    """
    table = []
    for one in series:
        result = one.last
        summary = summarise(values_of(result))
        scores = result.mean_scores
        row = {
            "method": one.method,
            "hyper-parameters": one.point,
            "acting": result.settings.acting,
            "dataset": one.card.id,
            "updates": result.step,
            "runs": summary.runs,
            "episodes per run": result.settings.episodes,
            "return mean": float(result.mean_returns.mean()),
            "score mean": None if scores is None else float(scores.mean()),
            "IQM": summary.iqm,
            "95% low": summary.interval[0] if summary.interval else None,
            "95% high": summary.interval[1] if summary.interval else None,
            "success rate": float(result.success_rates.mean()),
            "data return mean": one.card.comparable_return,
            "reference": reference_in_words(result),
            "simulator": result.settings.simulator,
            "workdir": one.workdir.name,
            "notes": "; ".join(one.all_notes),
        }
        if best:
            row["best mean over training (optimistic)"] = float(max(values_of(each).mean() for each in one.results))
        table.append(row)
    return table


def reference_in_words(result: Result) -> str:
    """What counts as 0 and as 100, and who says so."""
    reference = result.reference
    if reference is None:
        return "none: " + result.reference_note
    of = " of the rate of success" if reference.quantity == "success" else ""
    return f"0 = {reference.min:g}, 100 = {reference.max:g}{of}: {result.reference_note}"


def to_csv(table: list[dict[str, Any]]) -> str:
    """Full precision; what is unknown is empty."""
    return escape.csv_lines(list(table[0]), table)


# Shown in a table; the longer texts go below it, once each.
_SHOWN = {
    "method": "method",
    "hyper-parameters": "hyper-parameters",
    "acting": "acting",
    "workdir": "workdir",
    "updates": "updates",
    "runs": "runs",
    "episodes per run": "episodes",
    "return mean": "return",
    "score mean": "score",
    "IQM": "IQM",
    "95% interval": "95 % interval",
    "success rate": "success",
}


def formatted(group: list[Series], best: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and cells for reading, of one setting, without empty columns; the last row is the data's mean, if comparable."""
    table = rows(group, best)
    for row in table:
        low, high = row["95% low"], row["95% high"]
        row["95% interval"] = None if low is None else f"{low:.2f} … {high:.2f}"
    mean = group[0].card.comparable_return
    data = {"method": "(the data)", "return mean": mean}
    if group[0].last.reference is not None:
        data["score mean"] = data_value(group[0])
    shown = (
        _SHOWN
        | {"updates": step_unit(group[0])}
        | ({"best mean over training (optimistic)": "best over training (optimistic)"} if best else {})
    )
    cells = [{name: _cell(name, row.get(name)) for name in shown} for row in [*table, *([] if mean is None else [data])]]
    kept = [name for name in shown if not all(row[name] in ("", "-", "as trained") for row in cells)]
    if len({row["workdir"] for row in table}) == 1:
        kept.remove("workdir")
    return [shown[name] for name in kept], [[row[name] for name in kept] for row in cells]


def to_markdown(series: list[Series], best: bool = False) -> str:
    """One table per dataset and simulator, each with what its numbers mean."""
    parts = ["# Results\n"]
    for setting, group in by_setting(series).items():
        header, cells = formatted(group, best)
        parts.append(markdown.heading(setting[0], 2))
        parts.append(markdown.table(header, cells))
        parts.append(markdown.bullets(explanation(group)))
    return "\n".join(parts)


def by_setting(series: list[Series]) -> dict[tuple[str, str], list[Series]]:
    """Groups that may be compared: same data, same simulator."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        groups.setdefault(one.setting, []).append(one)
    return groups


def explanation(group: list[Series]) -> list[str]:
    """Sentences that go below the table of one setting."""
    lines = [
        f"Simulator: {group[0].last.settings.simulator}.",
        f"IQM and 95 % interval (bootstrap of the mean over runs) are in units of the {unit_of(group[0].last)}; every run"
        " counts once, by the mean of its episodes at the last evaluated checkpoint.",
    ]
    if group[0].card.has_returns:
        lines.append(about_data(group[0].card))
    lines += [f"Reference: {text}." for text in dict.fromkeys(reference_in_words(one.last) for one in group)]
    lines += [f"{one.name}: {note}." for one in group for note in one.all_notes]
    return lines


def about_data(card: Card) -> str:
    """What the data's own mean return is and of which rows, or why there is none beside those of an evaluation."""
    steps = env_spec.read(card.env_spec or "").get("max_episode_steps")
    recorded = f"their {card.episodes:,} episodes as recorded, of mean return {card.return_mean:.2f},"
    if card.comparable_episodes is None or steps is None:
        return f"The data are not compared: whether {recorded} are those of an evaluation is not known."
    if card.comparable_return is None:
        return f"The data are not compared: {recorded} are for the most part cut before an evaluation's {steps:,} steps."
    return (
        f"The data's own mean return is {card.comparable_return:.2f}: of {card.comparable_episodes:,} times {steps:,} consecutive"
        " rows, or fewer up to a terminal, as an evaluation counts."
    )


def improvements(group: list[Series]) -> list[tuple[str, str, float]]:
    """For each ordered pair of series of one setting: P(a run of the first scores above a run of the second)."""
    return [
        (one.name, other.name, probability_of_improvement(values_of(one.last), values_of(other.last)))
        for one in group
        for other in group
        if one is not other
    ]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "success rate":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
