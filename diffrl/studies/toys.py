"""The laboratory: samples of trained policies against the known distributions they were asked for, per β.

A workdir of a toy (`data/toys.py`) is sampled by its policy's own `act`: what is judged is what would act.
"""

import dataclasses
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

from diffrl.config import algorithm_name
from diffrl.data.toys import PREFIX, REACH, EnergyOf, points_of, truth
from diffrl.diffusion.guidance import softmax_of
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.evaluation.statistics import interval
from diffrl.reports.markdown import table
from diffrl.reports.style import STYLE, save
from diffrl.studies.distances import mmd, sliced_wasserstein
from diffrl.training.runs import in_words
from diffrl.training.trained import Act, Trained
from diffrl.types import Policy

BETA = "beta"  # the hyper-parameter that is β, in every method that has one
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


class _Sampler(NamedTuple):
    """A workdir's runs, ready to act.

    Attributes:
        name: of the method, and of how it acts.
        betas: β of each run; None for a method that has none.
        labels: swept hyper-parameters of each run in words.
        sample: (observation `[B, O]`, key) -> actions `[R, B, 2]`.
    """

    name: str
    betas: list[float] | None
    labels: list[str]
    sample: Callable[[jax.Array, jax.Array], jax.Array]


def _open(workdir: Path) -> tuple[Trained, str, bool]:
    """The training, the name of its toy, and whether it is the one with targets."""
    trained = Trained.open(workdir)
    if not trained.card.id.startswith(PREFIX):
        raise EvaluationError(f"{workdir} was trained on {trained.card.id!r}, not on a toy; evaluate it by launch/evaluate.py")
    toy, _, variant = trained.card.id.removeprefix(PREFIX).partition("@")
    return trained, toy, bool(variant)


def _sampler(trained: Trained, act: Act) -> _Sampler:
    acting = trained.acting(act)
    algorithm, runs, policies = acting.algorithm, trained.runs, trained.policies

    @jax.jit
    def sample(observation: jax.Array, key: jax.Array) -> jax.Array:
        """One run after another: a hundred denoising steps of all runs at once would need much memory."""

        def one(policy: Policy) -> jax.Array:
            return algorithm.act(policy, algorithm.init_carry(policy, len(observation)), observation, key)[0]

        return jax.lax.map(one, policies)

    return _Sampler(
        name=algorithm_name(trained.config) + "".join(f", {name} {value}" for name, value in act),
        betas=np.asarray(getattr(runs.hparams, BETA)).tolist() if hasattr(runs.hparams, BETA) else None,
        labels=list(map(in_words, runs.points)),
        sample=sample,
    )


def judge(
    workdirs: list[Path],
    acts: list[Act],
    *,
    n: int = 2_000,
    candidates: int = 0,
    betas: tuple[float, ...] = (0.0, 1.0, 5.0, 10.0, 15.0),
    seed: int = 0,
) -> dict[str, list[Cell]]:
    """Distances to the truth of every workdir's runs, by toy; the first rows are true samples again, the noise of the scores.

    Runs of several seeds are pooled: each gives its own `BLOCKS` samples. Workdirs of targets are left to `modes`.

    Args:
        acts: ways of acting, as `evaluate.parse_act` gives them. A method is overridden only in choices it makes.
        n: points per sample; `BLOCKS` samples are drawn of each run.
        candidates: a method without β is given one by choosing among so many candidates with probability ∝ e^{βe}.
        betas: for those, and for the true samples.

    Raises:
        EvaluationError: a workdir is not one of a toy or is not trained, or two of one toy have the same name.
    """
    cells: dict[str, list[Cell]] = {}
    for workdir in workdirs:
        trained, toy, targets = _open(workdir)
        if targets:
            continue
        rows = cells.setdefault(toy, [])
        if not rows:
            rows += [_cell(TRUE, toy, beta, [truth(toy, beta, BLOCKS * n, seed + 1)], n, seed) for beta in betas]
        own = getattr(trained.config.algorithm, "act", None)  # None: a method that makes no choices when acting
        choices = [] if own is None else [field.name for field in dataclasses.fields(own)]
        for act in dict.fromkeys(tuple((name, value) for name, value in act if name in choices) for act in acts):
            found = _cells_of(_sampler(trained, act), toy, n, candidates, betas, seed)
            if {cell.method for cell in found} & {cell.method for cell in rows}:
                raise EvaluationError(f"{workdir}: {found[0].method} on {toy} is there already; judge the two apart")
            rows += found
    return cells


def _cells_of(sampler: _Sampler, toy: str, n: int, candidates: int, betas: tuple[float, ...], seed: int) -> list[Cell]:
    """The cells of one workdir that acts in one way."""
    nowhere, key = jnp.zeros((BLOCKS * n, 1)), jax.random.key(seed)
    if sampler.betas is not None or candidates < 2:
        drawn = np.asarray(sampler.sample(nowhere, key))
        of = sampler.betas or [0.0] * len(drawn)
        return [
            _cell(sampler.name, toy, beta, [x for x, other in zip(drawn, of, strict=True) if other == beta], n, seed)
            for beta in dict.fromkeys(of)
        ]
    # [candidates, runs, points, 2]; one call per candidate bounds memory.
    pool = np.stack([np.asarray(sampler.sample(nowhere, jax.random.fold_in(key, i))) for i in range(candidates)])
    energy = EnergyOf(toy)(pool).astype(np.float32)
    found = []
    for beta in betas:
        chosen = [
            np.asarray(softmax_of(jax.random.fold_in(key, run), jnp.asarray(pool[:, run]), jnp.asarray(beta * energy[:, run])))
            for run in range(pool.shape[1])
        ]
        found.append(_cell(f"{sampler.name}, softmax of {candidates}", toy, beta, chosen, n, seed))
    return found


def _cell(method: str, toy: str, beta: float, samples: list[np.ndarray], n: int, seed: int) -> Cell:
    """Every sample `[BLOCKS * n, 2]` against the same true ones."""
    reference = truth(toy, beta, BLOCKS * n, seed).reshape(BLOCKS, n, 2)
    blocks = np.concatenate([x.reshape(BLOCKS, n, 2) for x in samples])
    pairs = list(zip(blocks, np.tile(reference, (len(samples), 1, 1)), strict=True))
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
        named = {}
        for method in dict.fromkeys(cell.method for cell in rows):
            found = {cell.beta: cell for cell in rows if cell.method == method}
            named[method] = [_words(found[beta]) if beta in found else "" for beta in betas]
        heads = ["", *(f"β = {beta:g}" for beta in betas)]
        lines.append(table(heads, [[method, *texts] for method, texts in named.items()]))
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
        save(figure, path)
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
    trained, toy, targets = _open(workdir)
    if not targets:
        return None
    sampler = _sampler(trained, ())
    line = np.linspace(-REACH, REACH, TARGETS)
    goals = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    found = np.asarray(sampler.sample(jnp.asarray(goals, jnp.float32), jax.random.key(0)))
    data = points_of(toy, 4_000, seed=3).x
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(found), 2.9), layout="constrained")
        for axes, x, label in zip(figure.subplots(1, len(found), squeeze=False)[0], found, sampler.labels, strict=True):
            axes.scatter(data[:, 0], data[:, 1], s=1, color="#cbd2dc", linewidths=0)
            axes.plot(np.stack([goals[:, 0], x[:, 0]]), np.stack([goals[:, 1], x[:, 1]]), color="#8a93a3", linewidth=0.6)
            axes.scatter(x[:, 0], x[:, 1], s=9, color="#d1495b", zorder=3)
            axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
            axes.set_title(label)
        save(figure, path)
    return path
