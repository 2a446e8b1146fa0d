"""Successive halving: at a rung, the hyper-parameter points that look worst stop, and the program shrinks."""

import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from diffrl import records
from diffrl.config import Config, ConfigError
from diffrl.logging.writers import METRICS, Metric
from diffrl.training.runs import Runs

EVALUATION = "evaluation"


@runtime_checkable
class MeanReturns(Protocol):
    """Mean episode return of each run at a checkpoint: an evaluator, of which training knows no more than this."""

    def __call__(self, workdir: Path, *, episodes: int, step: int) -> dict[int, float]: ...


def check(config: Config, runs: Runs, same: list[list[int]], ends: list[int], can_evaluate: bool) -> None:
    """Refuse rungs at which nothing can be decided, before any training.

    Args:
        same: see `cohort.equal_runs`.
        ends: the update at which each stage ends.

    Raises:
        ConfigError: names the rung and says what would do.
    """
    if not config.halving.rungs:
        return
    points = _points(runs)
    if len(points) < 2:
        raise ConfigError("halving.rungs needs several hyper-parameter points to choose from: set --config.sweep")
    for rung in config.halving.rungs:
        if rung >= ends[-1]:
            raise ConfigError(f"halving.rungs: {rung} must lie before the end of training at {ends[-1]:,} updates")
        stage = next(i for i, end in enumerate(ends) if rung <= end)
        if len(set(same[stage])) < runs.size:
            first = next((i for i in range(len(ends)) if len(set(same[i])) == runs.size), len(ends) - 1)
            raise ConfigError(
                f"halving.rungs: at update {rung:,} the points are still the same; they differ after {(0, *ends)[first]:,}"
            )
        if config.halving.criterion == EVALUATION and stage < len(ends) - 1:
            raise ConfigError(
                f"halving.rungs: at update {rung:,} there is no policy to evaluate; the last stage begins at {ends[-2]:,}. "
                "Later rungs, or a training metric as halving.criterion, would do"
            )
    if config.halving.criterion == EVALUATION and not can_evaluate:
        raise ConfigError(
            "halving.criterion='evaluation' needs an environment, which dataset.env_id names where the data name none, and an "
            "evaluator: train(…, evaluate=diffrl.evaluation.evaluate.mean_returns)"
        )


def worst(
    config: Config, workdir: Path, runs: Runs, step: int, dropped: set[int], evaluate: MeanReturns | None
) -> tuple[list[int], str]:
    """The runs to drop at a rung, and a sentence saying why. What it decides depends on saved files alone.

    A point with a diverged run ranks last.

    Raises:
        ConfigError: the criterion is no metric of the stage.
    """
    halving = config.halving
    if halving.criterion == EVALUATION and evaluate is not None:
        values = evaluate(workdir, episodes=halving.episodes, step=step)
    else:
        values = _metric(workdir, halving.criterion, step)
    points = [members for members in _points(runs) if not dropped.intersection(members)]
    means = [np.mean([values.get(run, math.nan) for run in members]) for members in points]
    ranked = sorted(range(len(points)), key=lambda i: (not math.isfinite(means[i]), -means[i]))
    kept = max(math.ceil(halving.keep * len(points)), 1)
    losers = sorted(run for i in ranked[kept:] for run in points[i])
    measure = f"mean return of {halving.episodes} episodes a run" if halving.criterion == EVALUATION else halving.criterion
    line = ", ".join(f"{_words(runs.points[points[i][0]])} ({means[i]:.4g})" for i in ranked[kept:])
    return losers, f"at update {step:,} dropped {len(points) - kept} of {len(points)} points by {measure}: {line}"


def _points(runs: Runs) -> list[list[int]]:
    """Runs of each hyper-parameter point, in order."""
    found: dict[tuple, list[int]] = {}
    for run, point in enumerate(runs.points):
        found.setdefault(tuple(point.items()), []).append(run)
    return list(found.values())


def _words(point: dict[str, float]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in point.items())


def _metric(workdir: Path, criterion: str, step: int) -> dict[int, float]:
    """The last value of a metric of each run, more being better."""
    sign, name = (-1.0, criterion[1:]) if criterion.startswith("-") else (1.0, criterion)
    found: dict[int, float] = {}
    names = set()
    for row in records.lines(workdir / METRICS, Metric, []):
        if row.step == step:
            names.add(row.name)
            if row.name == name:
                found[row.run] = math.nan if row.value is None else sign * row.value
    if not found:
        raise ConfigError(f"halving.criterion {criterion!r} is no metric of this stage; it has {', '.join(sorted(names))}")
    return found
