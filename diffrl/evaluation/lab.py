"""The laboratory: samples of trained policies against the known distributions they were asked for, per β.

A workdir of a toy (`data/toys.py`) is sampled by its policy's own `act`: what is judged is what would act.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffrl import config as configs
from diffrl import registry
from diffrl.data.dataset import Card
from diffrl.data.toys import PREFIX, REACH, EnergyOf, points_of, truth
from diffrl.diffusion.guidance import softmax_of
from diffrl.evaluation.distances import mmd, sliced_wasserstein
from diffrl.evaluation.evaluate import EvaluationError, abstract_policies, build_algorithm
from diffrl.evaluation.plots import STYLE
from diffrl.evaluation.statistics import interval
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.runs import make_runs
from diffrl.types import Spec

BETA = "temperature"  # the hyper-parameter that is β, in every method that has one
TRUE = "two true samples"
BLOCKS = 5  # independent samples per cell: the spread of their distances is the interval
TARGETS = 7  # per axis of the picture of modes


class Cell(NamedTuple):
    """One method at one β: points `[blocks, n, 2]`, and how far each block of n is from as many true ones, `[blocks]`."""

    method: str
    beta: float
    points: np.ndarray
    wasserstein: np.ndarray
    mmd: np.ndarray


class _Trained(NamedTuple):
    """A workdir's runs, ready to act: `sample(observation [B, O], key)` gives actions `[R, B, 2]`."""

    name: str
    toy: str
    targets: bool
    points: list[dict[str, float]]
    sample: Callable[[jax.Array, jax.Array], jax.Array]


def _load(workdir: Path, act: tuple[tuple[str, str], ...]) -> _Trained:
    if not (workdir / "config.json").exists():
        raise EvaluationError(f"{workdir} is no workdir of launch/train.py")
    config = configs.load(workdir)
    card = Card.from_json(json.loads((workdir / "dataset.json").read_text()))
    if not card.id.startswith(PREFIX):
        raise EvaluationError(f"{workdir} was trained on {card.id!r}, not on a toy; evaluate it by launch/evaluate.py")
    spec = Spec.from_json(json.loads((workdir / "spec.json").read_text()))
    algorithm, runs = build_algorithm(workdir, spec, act), make_runs(config)
    checkpoints = Checkpoints(workdir)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise EvaluationError(f"{workdir} has no checkpoints yet")
        policies = checkpoints.restore_policy(max(steps), abstract_policies(algorithm, runs))
    finally:
        checkpoints.close()

    @jax.jit
    def sample(observation: jax.Array, key: jax.Array) -> jax.Array:
        """One run after another: a hundred denoising steps of all runs at once would need much memory."""
        return jax.lax.map(
            lambda policy: algorithm.act(policy, algorithm.init_carry(policy, len(observation)), observation, key)[0], policies
        )

    name = registry.name_of(config.algorithm) + "".join(f", {key} {value}" for key, value in act)
    toy, _, variant = card.id.removeprefix(PREFIX).partition("@")
    return _Trained(name, toy, bool(variant), runs.points, sample)


def judge(
    workdirs: list[Path],
    acts: list[tuple[tuple[str, str], ...]],
    *,
    n: int = 2_000,
    candidates: int = 0,
    betas: tuple[float, ...] = (0.0, 1.0, 5.0, 10.0, 15.0),
    seed: int = 0,
) -> dict[str, list[Cell]]:
    """Distances to the truth of every workdir's runs, by toy; the first rows are two true samples, the noise of the scores.

    Args:
        acts: ways of acting, as `evaluate.parse_act` gives them; () for the config's own.
        n: points per sample; `BLOCKS` samples are drawn.
        candidates: a method without β is given one by choosing among so many candidates with probability ∝ e^{βe}.
        betas: for those, and for the true samples.

    Raises:
        EvaluationError: a workdir is not one of a toy, or has no checkpoint.
    """
    cells: dict[str, list[Cell]] = {}
    for workdir in workdirs:
        for act in acts:
            trained = _load(workdir, act)
            if trained.targets:
                continue
            if trained.toy not in cells:
                cells[trained.toy] = [
                    _cell(TRUE, trained.toy, beta, truth(trained.toy, beta, BLOCKS * n, seed + 1), n, seed) for beta in betas
                ]
            cells[trained.toy] += _cells_of(trained, n, candidates, betas, seed)
    return cells


def _cells_of(trained: _Trained, n: int, candidates: int, betas: tuple[float, ...], seed: int) -> list[Cell]:
    """Of one workdir and way of acting."""
    count = BLOCKS * n
    key, choice_key = jax.random.split(jax.random.key(seed))
    if any(BETA in point for point in trained.points):
        drawn = np.asarray(trained.sample(jnp.zeros((count, 1)), key))
        found = zip(trained.points, drawn, strict=True)
        return [_cell(trained.name, trained.toy, point[BETA], x, n, seed) for point, x in found]
    pool = np.asarray(trained.sample(jnp.zeros((count * max(candidates, 1), 1)), key))[0]
    if candidates < 2:
        return [_cell(trained.name, trained.toy, 0.0, pool, n, seed)]
    pool = pool.reshape(candidates, count, 2)
    energy = jnp.asarray(EnergyOf(trained.toy)(pool), jnp.float32)
    name = f"{trained.name}, softmax of {candidates}"
    chosen = {beta: softmax_of(choice_key, jnp.asarray(pool), beta * energy) for beta in betas}
    return [_cell(name, trained.toy, beta, np.asarray(x), n, seed) for beta, x in chosen.items()]


def _cell(method: str, toy: str, beta: float, points: np.ndarray, n: int, seed: int) -> Cell:
    blocks = points.reshape(BLOCKS, n, 2)
    reference = truth(toy, beta, BLOCKS * n, seed).reshape(BLOCKS, n, 2)
    pairs = list(zip(blocks, reference, strict=True))
    return Cell(
        method,
        beta,
        blocks,
        np.array([sliced_wasserstein(a, b) for a, b in pairs]),
        np.array([mmd(a, b) for a, b in pairs]),
    )


def to_markdown(cells: dict[str, list[Cell]]) -> str:
    """A table per toy: methods by β, sliced Wasserstein distance (95 % interval) and MMD."""
    lines: list[str] = []
    for toy, rows in cells.items():
        betas = sorted({cell.beta for cell in rows})
        lines += [f"## {toy}", "", "Sliced Wasserstein distance to the truth (95 % interval over samples) · MMD", ""]
        lines += ["| | " + " | ".join(f"β = {beta:g}" for beta in betas) + " |", "| --- |" + " --- |" * len(betas)]
        for method in dict.fromkeys(cell.method for cell in rows):
            found = {cell.beta: cell for cell in rows if cell.method == method}
            texts = [_words(found[beta]) if beta in found else "" for beta in betas]
            lines.append(f"| {method} | " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)


def _words(cell: Cell) -> str:
    low, high = interval(cell.wasserstein) or (float("nan"), float("nan"))
    return f"{cell.wasserstein.mean():.3f} ({low:.3f} … {high:.3f}) · {cell.mmd.mean():.3f}"


def picture(toy: str, rows: list[Cell], path: Path, seed: int = 0) -> Path:
    """Samples of each method above the truth, a column per β, coloured by energy."""
    betas = sorted({cell.beta for cell in rows})
    methods = [method for method in dict.fromkeys(cell.method for cell in rows) if method != TRUE]
    energy = EnergyOf(toy)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * len(betas), 2.3 * (len(methods) + 1)), layout="constrained")
        grid = figure.subplots(len(methods) + 1, len(betas), squeeze=False)
        for column, beta in enumerate(betas):
            for row, method in enumerate(methods):
                found = [cell for cell in rows if (cell.method, cell.beta) == (method, beta)]
                if found:
                    _scatter(grid[row, column], found[0].points[0], energy)
                else:
                    grid[row, column].axis("off")
            _scatter(grid[-1, column], truth(toy, beta, rows[0].points.shape[1], seed), energy)
            grid[0, column].set_title(f"β = {beta:g}")
        for row, name in enumerate([*methods, "truth"]):
            grid[row, 0].set_ylabel(name)
        figure.savefig(path)
    return path


def _scatter(axes: Axes, x: Float[np.ndarray, "n 2"], energy: EnergyOf) -> None:
    axes.scatter(x[:, 0], x[:, 1], c=energy(x), s=2, cmap="viridis", vmin=0.0, vmax=1.0, linewidths=0)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")


def modes(workdir: Path, path: Path) -> Path | None:
    """A policy of targets (`toy/NAME@targets`): where it goes from each of 7 x 7 targets, a panel per run.

    None where the workdir has no targets.

    Raises:
        EvaluationError: as `judge`.
    """
    trained = _load(workdir, ())
    if not trained.targets:
        return None
    line = np.linspace(-REACH, REACH, TARGETS)
    targets = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    found = np.asarray(trained.sample(jnp.asarray(targets, jnp.float32), jax.random.key(0)))
    data = points_of(trained.toy, 4_000, seed=3).x
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(found), 2.9), layout="constrained")
        for axes, x, point in zip(figure.subplots(1, len(found), squeeze=False)[0], found, trained.points, strict=True):
            axes.scatter(data[:, 0], data[:, 1], s=1, color="#cbd2dc", linewidths=0)
            axes.plot(np.stack([targets[:, 0], x[:, 0]]), np.stack([targets[:, 1], x[:, 1]]), color="#8a93a3", linewidth=0.6)
            axes.scatter(x[:, 0], x[:, 1], s=9, color="#d1495b", zorder=3)
            axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
            axes.set_title(", ".join(f"{name} = {value:g}" for name, value in point.items()))
        figure.savefig(path)
    return path
