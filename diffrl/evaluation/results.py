"""The files an evaluation leaves: `evaluations/<step>/<label>.json` (scores) and `.npz` (a few trajectories)."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffrl import files, records
from diffrl.data.scores import Reference, normalized
from diffrl.errors import UserError
from diffrl.evaluation.statistics import summarise
from diffrl.records import Finite, Natural, Width

AGAIN = "delete it and evaluate again"
FILMED = ("best", "median", "worst")  # episodes of all runs together, whose films are called LABEL-best.mp4 and so on


class ResultError(UserError, ValueError):
    """A result file cannot be read or written; the message names it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an evaluation was asked for. Equal settings give equal results.

    Attributes:
        backend: one of `envs.make.BACKENDS` but "auto".
        simulator: a plain sentence saying which simulator the scores come from.
        episodes: per run.
        seed: evaluation seed.
        act: overrides of the choices made when acting, as (name, value) strings; () for those trained with.
    """

    backend: str
    simulator: str
    episodes: Width
    seed: Natural
    act: tuple[tuple[str, str], ...] = ()

    @property
    def acting(self) -> str:
        """The overrides in words, "as trained" where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.act) or "as trained"

    @property
    def label(self) -> str:
        """File name without extension: readable, and different for different overrides."""
        return files.slug("-".join([f"{self.backend}-{self.episodes}episodes-seed{self.seed}", *map("=".join, self.act)]))


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation of one checkpoint.

    Attributes:
        step: updates of the checkpoint, over all stages.
        settings: see `Settings`.
        reference: episode returns that count as 0 and 100, or None.
        reference_note: where the reference comes from, or why there is none.
        seeds, hparams: of each of R runs: training seed, and the swept hyper-parameters ({} if none).
        returns: [R, E], NaN for a diverged run.
        lengths: [R, E] int.
        successes: [R, E] bool.
        stopped: of each run why its training ended early, "" where it did not.
    """

    step: int
    settings: Settings
    reference: Reference | None
    reference_note: str
    seeds: list[int]
    hparams: list[dict[str, float]]
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray
    stopped: tuple[str, ...] = ()

    @property
    def mean_returns(self) -> Float[np.ndarray, "runs"]:
        """Each run's mean episode return."""
        return self.returns.mean(axis=1)

    @property
    def mean_scores(self) -> Float[np.ndarray, "runs"] | None:
        """Each run's normalised score (0-100), None without a reference; NaN for a diverged run."""
        if self.reference is None:
            return None
        values = self.mean_returns
        if self.reference.quantity == "success":
            values = np.where(np.isfinite(values), self.success_rates, np.nan)  # a diverged run stays visible
        return np.asarray(normalized(values, self.reference), np.float64)

    @property
    def success_rates(self) -> Float[np.ndarray, "runs"]:
        """Each run's share of episodes that reached the goal."""
        return self.successes.mean(axis=1)


def path_of(workdir: Path, step: int, settings: Settings) -> Path:
    """Where the result of these settings at this step is stored."""
    return workdir / "evaluations" / str(step) / f"{settings.label}.json"


def make_folder(workdir: Path, step: int) -> None:
    """Make the folder of a checkpoint's results.

    Raises:
        ResultError: it cannot be made or not be written to.
    """
    folder = workdir / "evaluations" / str(step)
    try:
        files.inside(folder / "result", workdir)
    except OSError as error:
        raise ResultError(f"cannot write results to {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ResultError(f"cannot write results to {folder}: it is read-only")


def save(workdir: Path, result: Result, observations: Float[np.ndarray, "runs recorded time observation"]) -> Path:
    """Write the result and its trajectories atomically; the JSON last, so that its presence means both are there.

    Raises:
        ResultError: there is no place to write them; nothing half-written stays.
    """
    path = path_of(workdir, result.step, result.settings)
    make_folder(workdir, result.step)
    try:
        if observations.size:
            pieces = path.with_suffix(".npz")
            files.write(pieces, lambda file: np.savez_compressed(file, observations=observations), workdir)
        records.write(path, _recorded(result), workdir)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}") from error
    return path


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        RecordError: it is no result file of ours.
    """
    saved = records.read(path, _Recorded, AGAIN)
    runs = saved.runs
    return Result(
        step=saved.step,
        settings=saved.settings,
        reference=saved.reference,
        reference_note=saved.reference_note,
        seeds=[run.seed for run in runs],
        hparams=[run.hparams for run in runs],
        returns=np.array([run.returns for run in runs], np.float64),  # None becomes NaN
        lengths=np.array([run.lengths for run in runs]),
        successes=np.array([run.successes for run in runs], bool),
        stopped=tuple(run.stopped for run in runs),
    )


def load_all(workdir: Path) -> list[Result]:
    """All results of a workdir, by increasing step."""
    paths = [path for path in workdir.glob("evaluations/*/*.json") if path.parent.name.isdigit()]
    return [load(path) for path in sorted(paths, key=lambda path: (int(path.parent.name), path.name))]


def trajectories(workdir: Path, result: Result) -> Float[np.ndarray, "runs recorded time observation"] | None:
    """Observations recorded with a result, NaN after an episode's end; None where none were."""
    path = path_of(workdir, result.step, result.settings).with_suffix(".npz")
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["observations"]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run's episodes, as they are written; the return of a run that diverged is None."""

    seed: Natural
    hparams: dict[str, Finite]
    returns: list[Finite | None]
    lengths: list[Width]
    successes: list[bool]
    stopped: str = ""


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A result as it is written; `summary` is for readers of the file."""

    step: Natural
    settings: Settings
    reference: Reference | None
    reference_note: str
    summary: dict[str, Any]
    runs: list[_Run]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty")
        episodes = self.settings.episodes
        for number, run in enumerate(self.runs):
            for name in ("returns", "lengths", "successes"):
                if len(values := getattr(run, name)) != episodes:
                    raise ValueError(f"run {number} has {len(values)} {name}, and episodes is {episodes}")


def _recorded(result: Result) -> _Recorded:
    scores = result.mean_scores
    summary = {
        "episode_return": summarise(result.mean_returns)._asdict(),
        "normalized_score": None if scores is None else summarise(scores)._asdict(),
        "success_rate": float(result.success_rates.mean()),
    }
    stopped = result.stopped or ("",) * len(result.seeds)
    finite = [[value if np.isfinite(value) else None for value in returns] for returns in result.returns.astype(float).tolist()]
    of_runs = zip(result.seeds, result.hparams, finite, result.lengths.tolist(), result.successes.tolist(), stopped, strict=True)
    return _Recorded(
        result.step, result.settings, result.reference, result.reference_note, summary, [_Run(*values) for values in of_runs]
    )


def points(result: Result) -> Iterator[tuple[dict[str, float], np.ndarray]]:
    """The hyper-parameter points of a sweep, in order of appearance, each with the indices of its runs."""
    seen: dict[tuple, list[int]] = {}
    for run, hparams in enumerate(result.hparams):
        seen.setdefault(tuple(hparams.items()), []).append(run)
    for items, runs in seen.items():
        yield dict(items), np.array(runs)
