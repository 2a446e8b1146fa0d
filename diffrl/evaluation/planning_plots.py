"""Pictures of planning: plans over the data they should stay in, score fields, and what was promised and kept."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffrl.envs.control.base import ControlTask
from diffrl.evaluation.planning import Outcome, Trained, Units
from diffrl.evaluation.plots import DATA, STYLE

PLANNED, REAL = "#2f6fb0", "#d1495b"
MAX_PATHS = 5  # of one panel


def paths(outcomes: list[Outcome], task: ControlTask, path: Path, axes_of: tuple[int, int] = (0, 1)) -> Path:
    """A panel per way of planning: two coordinates of the plan and of what came of it, over those of the data."""
    data = np.asarray(task.sample(jax.random.key(0), 3_000)[0])[:, list(axes_of)]
    columns = min(4, len(outcomes))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns, 3.4 * -(-len(outcomes) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(outcomes) // columns), columns, squeeze=False).ravel()
        for axes, one in zip(panels, outcomes, strict=False):
            axes.scatter(data[:, 0], data[:, 1], s=1, color="#cbd2dc", linewidths=0)
            for planned, real in list(zip(_first(one.planned), _first(one.real), strict=True))[:MAX_PATHS]:
                _line(axes, planned[:, list(axes_of)], PLANNED, "--", "plan")
                _line(axes, real[:, list(axes_of)], REAL, "-", "what came of it")
            axes.set_title(one.act, fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        panels[0].legend(list(unique.values()), list(unique), fontsize=7)
        for axes in panels[len(outcomes) :]:
            axes.axis("off")
        figure.savefig(path)
    return path


def _first(values: np.ndarray) -> np.ndarray:
    """Paths `[R · S, T + 1, O]`, one start of each run first."""
    return np.swapaxes(values, 0, 1).reshape(-1, *values.shape[2:])


def _line(axes: Axes, x: np.ndarray, colour: str, style: str, label: str) -> None:
    axes.plot(x[:, 0], x[:, 1], color=colour, linestyle=style, linewidth=1.2, label=label)


def fields(trained: Trained, task: ControlTask, path: Path) -> Path:
    """The learnt score's part for the observation at action 0, for the largest, a middle and the smallest noise level."""
    problem, units = trained.models(()).problem(jax.tree.map(lambda x: x[0], trained.policies)), Units.of(trained.spec)
    assert problem.score is not None
    data = np.asarray(task.sample(jax.random.key(0), 3_000)[0])
    low, high = data.min(axis=0), data.max(axis=0)
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 21) for a, b in zip(low, high, strict=True))), axis=-1).reshape(-1, 2)
    points = jnp.concatenate([units.seen(jnp.asarray(grid, jnp.float32)), jnp.zeros((len(grid), task.action_dim))], axis=1)
    count = len(problem.sigmas)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        for axes, level in zip(figure.subplots(1, 3), (0, count // 2, count - 1), strict=True):
            score = np.asarray(problem.score(points, jnp.int32(level)))[:, :2]
            # Tweedie's step σ² ∇ log p, whose length is a distance and not a density's slope.
            step = score * problem.sigmas[level] ** 2
            axes.scatter(data[:, 0], data[:, 1], s=1, color="#cbd2dc", linewidths=0)
            axes.quiver(grid[:, 0], grid[:, 1], step[:, 0], step[:, 1], color=DATA, width=0.004)
            axes.set_title(f"σ = {problem.sigmas[level]:.3g} of the range")
            axes.set_aspect("equal")
        figure.savefig(path)
    return path


def promises(outcomes: list[Outcome], path: Path) -> Path:
    """Promised and true cost of each way of planning, and the true cost against the time of a plan."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 1.6 + 0.32 * len(outcomes)), layout="constrained")
        left, right = figure.subplots(1, 2)
        rows = np.arange(len(outcomes))
        for values, colour, label, offset in (("promised", PLANNED, "promised", -0.15), ("kept", REAL, "true", 0.15)):
            means = np.array([np.nanmean(getattr(one, values)) for one in outcomes])
            errors = np.array([np.nanstd(getattr(one, values)) / max(len(one.kept), 1) ** 0.5 for one in outcomes])
            left.errorbar(means, rows + offset, xerr=errors, fmt="o", color=colour, label=label, markersize=4)
        left.set_yticks(rows, [one.act for one in outcomes], fontsize=7)
        left.invert_yaxis()
        left.set_xlabel("cost")
        left.set_xscale("symlog", linthresh=0.01)
        left.legend(fontsize=8)
        for one in outcomes:
            right.scatter(1e3 * one.seconds / one.plans, np.nanmean(one.kept), color=REAL, s=16)
            right.annotate(one.act, (1e3 * one.seconds / one.plans, np.nanmean(one.kept)), fontsize=6)
        right.set(xscale="log", yscale="symlog", xlabel="ms per plan", ylabel="true cost")
        figure.savefig(path)
    return path
