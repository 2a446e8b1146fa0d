"""Policies ordered by data alone, beside what they are worth in an environment where that is known."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import scipy.stats
from jaxtyping import Float
from matplotlib.figure import Figure

from diffrl import escape, files, records
from diffrl.config import algorithm_name
from diffrl.evaluation import offline, results
from diffrl.evaluation.offline import Estimate, Options
from diffrl.evaluation.statistics import interval
from diffrl.reports import markdown, page
from diffrl.reports.style import DATA, STYLE, save
from diffrl.training.runs import in_words
from diffrl.training.trained import Trained

PAGE, TABLE, PICTURE = "offline.md", "offline.csv", "offline.png"
WARNING = (
    "An estimate is as good as the data's coverage of what the policy does: where it leaves them, Q is invented, most often\n"
    "too high. Published comparisons find that fitted-Q evaluation ranks policies better than chance, but by no means\n"
    "reliably (Paine et al. 2020; Fu et al. 2021). Read the order, not the values, and a rank correlation of a few runs as a\n"
    "hint."
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A workdir, what its policies are worth by the data, and each run's true mean return (NaN where it was not evaluated)."""

    workdir: Path
    method: str
    points: list[str]
    seeds: list[int]
    estimate: Estimate
    returns: Float[np.ndarray, " runs"]

    @property
    def values(self) -> Float[np.ndarray, "runs judged"]:
        return np.array(self.estimate.values, np.float64)  # None becomes NaN


@dataclasses.dataclass(frozen=True)
class _Kept:
    """An estimate as it is kept with its workdir."""

    options: Options
    estimate: Estimate


def judge(workdir: Path, options: Options, say: Callable[[str], None] = lambda text: None) -> Judged:
    """The estimate of a workdir, kept in `offline/STEP.json` and read from there where options and data are the same.

    Raises:
        EvaluationError, WorkdirError, ConfigError, CheckpointError, DatasetError, RecordError: with the reason.
    """
    trained = Trained.open(workdir)
    try:
        step = trained.last_step()
    finally:
        trained.close()
    path = workdir / "offline" / f"{step}.json"
    kept = records.read(path, _Kept, "delete it, and it is made again") if path.exists() else None
    data = offline.data_of(trained, options)
    if kept is None or kept.options != options or kept.estimate.sha256 != data[2].sha256:
        try:
            kept = _Kept(options, offline.evaluate(trained, data, options, say))
        finally:
            trained.close()
        records.write(path, kept, workdir)
    found = [one for one in results.load_all(workdir) if one.step == step and not one.settings.act]
    returns = found[-1].mean_returns if found else np.full(trained.runs.size, np.nan)
    points = [in_words(point) for point in trained.runs.points]
    return Judged(workdir, algorithm_name(trained.config), points, list(trained.runs.seeds), kept.estimate, returns)


def correlation(judged: Sequence[Judged]) -> tuple[float, int]:
    """Spearman's rank correlation of estimates and true returns over all runs that have both, and how many these are.

    Not a number for fewer than three runs, or where all are alike.
    """
    estimates = np.concatenate([one.values.mean(axis=1) for one in judged])
    returns = np.concatenate([one.returns for one in judged])
    both = np.isfinite(estimates) & np.isfinite(returns)
    count = int(both.sum())
    if count < 3 or np.ptp(estimates[both]) == 0 or np.ptp(returns[both]) == 0:
        return float("nan"), count
    return float(scipy.stats.spearmanr(estimates[both], returns[both])[0]), count  # pyright: ignore[reportArgumentType]


def to_markdown(judged: Sequence[Judged], options: Options, picture: bool) -> str:
    """The page: a table per dataset, best estimate first, the rank correlation, and the warning."""
    parts = [markdown.heading("Values by data alone")]
    for dataset, group in by_dataset(judged).items():
        parts.append(markdown.heading(dataset, 2))
        rows = sorted(_rows(group), key=lambda row: -row[0] if np.isfinite(row[0]) else np.inf)
        header = ["method", "hyper-parameters", "workdir", "runs", "value", "95 % interval", "true return"]
        parts.append(markdown.table(header, [row[1] for row in rows], left=3))
        first = group[0].estimate
        of_data = interval(np.array(first.of_data))
        band = f" [{of_data[0]:.4g}, {of_data[1]:.4g}]" if of_data else ""
        rank, count = correlation(group)
        said = (
            f"rank correlation of value and true return over {count} runs: {rank:.2f}"
            if np.isfinite(rank)
            else "no rank correlation: it takes three evaluated runs that differ (launch/evaluate.py)"
        )
        sentences = [
            f"discounted returns (γ = {options.discount:g}) from the first states of {first.judged:,} held-out episodes",
            f"Q was fitted on {first.fitted:,} other episodes with {options.updates:,} updates",
            "intervals are bootstrapped over first states, of the mean over runs: they know nothing of Q's own error",
            f"the held-out episodes themselves, cut where the data end them: {np.mean(first.of_data):.4g}{band}",
            said,
        ]
        parts.append(markdown.bullets(sentences))
    parts.append(WARNING + "\n")
    parts += [f"![Values and true returns]({PICTURE})\n"] if picture else []
    return "\n".join(parts)


def by_dataset(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Workdirs by the data that their policies were judged on."""
    return {name: [one for one in judged if one.estimate.dataset == name] for name in {one.estimate.dataset: 0 for one in judged}}


def _rows(group: Sequence[Judged]) -> list[tuple[float, list[str]]]:
    """Of every point of every workdir its mean, and its cells."""
    found = []
    for one in group:
        for point in dict.fromkeys(one.points):
            runs = [run for run, name in enumerate(one.points) if name == point]
            values, returns = one.values[runs], one.returns[runs]
            mean, band = float(values.mean()), interval(values.mean(axis=0))
            cells = [one.method, point, str(one.workdir), str(len(runs)), f"{mean:.4g}"]
            cells += [
                f"{band[0]:.4g} … {band[1]:.4g}" if band else "",
                f"{returns.mean():.4g}" if np.isfinite(returns).all() else "",
            ]
            found.append((mean, cells))
    return found


def to_csv(judged: Sequence[Judged]) -> str:
    """A line per run, in full precision; what is unknown is empty."""
    lines = []
    for one in judged:
        for run, values in enumerate(one.values):
            band = interval(values) or ("", "")
            lines.append(
                {
                    "dataset": one.estimate.dataset,
                    "method": one.method,
                    "hyper-parameters": one.points[run],
                    "workdir": one.workdir,
                }
                | {"seed": one.seeds[run], "step": one.estimate.step, "value": values.mean(), "low": band[0], "high": band[1]}
                | {"true return": one.returns[run] if np.isfinite(one.returns[run]) else ""}
            )
    return escape.csv_lines(list(lines[0]), lines)


def draw(judged: Sequence[Judged], path: Path) -> Path | None:
    """Values over true returns, a dot per run and a panel per dataset; None where nothing was evaluated."""
    groups = {name: group for name, group in by_dataset(judged).items() if any(np.isfinite(one.returns).any() for one in group)}
    if not groups:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(groups) + 1.5, 3.4), layout="constrained")
        for axes, (name, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            for one in group:
                axes.plot(
                    one.returns, one.values.mean(axis=1), "o", markersize=5, alpha=0.8, label=f"{one.method}, {one.workdir.name}"
                )
            rank, count = correlation(group)
            axes.set_title(name + (f"\nrank correlation {rank:.2f} over {count} runs" if np.isfinite(rank) else ""))
            axes.set_xlabel("true return")
            axes.set_ylabel("value by data alone")
            axes.axhline(float(np.mean(group[0].estimate.of_data)), color=DATA, linestyle="--", linewidth=1)
            axes.legend(fontsize=8)
        save(figure, path)
    return path


def write(judged: Sequence[Judged], options: Options, out: Path) -> list[Path]:
    """Write page, table and picture to `out`; returns their paths."""
    picture = draw(judged, out / PICTURE)
    files.write(out / TABLE, to_csv(judged).encode())
    pages = page.write(out / PAGE, to_markdown(judged, options, picture is not None))
    return [*pages, out / TABLE, *([picture] if picture else [])]
