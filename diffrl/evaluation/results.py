"""The files an evaluation leaves: `evaluations/<step>/<label>.json` (scores) and `.npz` (a few trajectories)."""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from diffrl.data.scores import Reference, normalized
from diffrl.evaluation.statistics import summarise


class ResultError(ValueError):
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
    episodes: int
    seed: int
    act: tuple[tuple[str, str], ...] = ()

    @property
    def acting(self) -> str:
        """The overrides in words, "as trained" where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.act) or "as trained"

    @property
    def label(self) -> str:
        """File name without extension: readable, and different for different overrides."""
        label = f"{self.backend}-{self.episodes}episodes-seed{self.seed}"
        if self.act:
            slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(f"{name}-{value}" for name, value in self.act))[:48].strip("-.")
            label += f"-{slug}-{hashlib.sha256(json.dumps(self.act).encode()).hexdigest()[:8]}"
        return label


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
        folder.mkdir(parents=True, exist_ok=True)
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
    text = json.dumps(_to_json(result), indent=1, allow_nan=False)
    try:
        if observations.size:
            atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, observations=observations))
        atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}") from error
    return path


def atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place and move it there: a reader sees the old file, the new one, or none."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        # mkstemp makes files for the owner alone; results are read by others.
        os.chmod(name, 0o644)  # noqa: PTH101
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        ResultError: it is no result file of ours.
    """
    try:
        values = json.loads(path.read_text())
        runs, settings, reference = values["runs"], values["settings"], values["reference"]
        settings["act"] = tuple((name, value) for name, value in settings["act"].items())
        return Result(
            step=values["step"],
            settings=Settings(**settings),
            reference=None if reference is None else Reference(**reference),
            reference_note=values["reference_note"],
            seeds=[run["seed"] for run in runs],
            hparams=[run["hparams"] for run in runs],
            returns=np.array([run["returns"] for run in runs], np.float64),  # null becomes NaN
            lengths=np.array([run["lengths"] for run in runs], np.int32),
            successes=np.array([run["successes"] for run in runs], bool),
            stopped=tuple(run.get("stopped", "") for run in runs),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{path} is not a result of an evaluation ({error}); delete it and evaluate again") from error


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


def _to_json(result: Result) -> dict[str, Any]:
    settings = dataclasses.asdict(result.settings) | {"act": dict(result.settings.act)}
    reference = result.reference
    scores = result.mean_scores
    return {
        "step": result.step,
        "settings": settings,
        "reference": None if reference is None else reference._asdict(),
        "reference_note": result.reference_note,
        "summary": {
            "episode_return": _nulls(summarise(result.mean_returns)._asdict()),
            "normalized_score": None if scores is None else _nulls(summarise(scores)._asdict()),
            "success_rate": float(result.success_rates.mean()),
        },
        "runs": [
            {
                "seed": seed,
                "hparams": hparams,
                "returns": _nulls(result.returns[run].tolist()),
                "lengths": result.lengths[run].tolist(),
                "successes": result.successes[run].tolist(),
                **({"stopped": result.stopped[run]} if any(result.stopped[run : run + 1]) else {}),
            }
            for run, (seed, hparams) in enumerate(zip(result.seeds, result.hparams, strict=True))
        ],
    }


def _nulls(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _nulls(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def points(result: Result) -> Iterator[tuple[dict[str, float], np.ndarray]]:
    """The hyper-parameter points of a sweep, in order of appearance, each with the indices of its runs."""
    seen: dict[tuple, list[int]] = {}
    for run, hparams in enumerate(result.hparams):
        seen.setdefault(tuple(hparams.items()), []).append(run)
    for items, runs in seen.items():
        yield dict(items), np.array(runs)
