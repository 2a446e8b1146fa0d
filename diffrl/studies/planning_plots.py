"""Pictures of planning: plans over the data they should stay in, score fields, and what was promised and kept."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle

from diffrl.envs.control import cart_pole, pusher
from diffrl.envs.control.base import ControlTask
from diffrl.envs.control.cart_pole import CartPoleSwingUp
from diffrl.envs.control.pixels import PixelIntegrator
from diffrl.envs.control.pusher import KeypointPusher
from diffrl.reports.style import DATA, STYLE, save
from diffrl.studies.planning import Outcome, Units, models_of
from diffrl.training.trained import Trained

PLANNED, REAL = "#2f6fb0", "#d1495b"
MAX_PATHS = 5  # of one panel
SNAPSHOTS = (0, 6, 10, 16, 30, 60)  # steps of a cart-pole's plan (Suh et al. 2023, released code)
STRIP = 6  # pictures of other plans


def paths(outcomes: list[Outcome], task: ControlTask, path: Path, axes_of: tuple[int, int] = (0, 1)) -> Path:
    """A panel per way of planning: two coordinates of the plan and of what came of it, over those of the data."""
    data = np.asarray(task.sample(jax.random.key(0), 3_000)[0])[:, list(axes_of)]
    columns = min(4, len(outcomes))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns, 3.4 * -(-len(outcomes) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(outcomes) // columns), columns, squeeze=False).ravel()
        for axes, one in zip(panels, outcomes, strict=False):
            axes.scatter(data[:, 0], data[:, 1], s=2, color="#b4bdca", linewidths=0)
            _plans_and_truths(axes, one, axes_of)
            axes.set_title(textwrap.fill(one.act, 40), fontsize=8)
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        panels[0].legend(list(unique.values()), list(unique), fontsize=7)
        for axes in panels[len(outcomes) :]:
            axes.axis("off")
        save(figure, path)
    return path


def _first(values: np.ndarray) -> np.ndarray:
    """Paths `[R · S, T + 1, O]`, one start of each run first."""
    return np.swapaxes(values, 0, 1).reshape(-1, *values.shape[2:])


def _plans_and_truths(axes: Axes, one: Outcome, axes_of: tuple[int, int]) -> None:
    """Two coordinates of some plans and of what came of them."""
    for planned, real in list(zip(_first(one.planned), _first(one.real), strict=True))[:MAX_PATHS]:
        for x, colour, style, label in ((planned, PLANNED, "--", "plan"), (real, REAL, "-", "what came of it")):
            axes.plot(*x[:, list(axes_of)].T, color=colour, linestyle=style, linewidth=1.2, label=label)


def fields(trained: Trained, task: ControlTask, path: Path) -> Path:
    """The learnt score's part for the observation at action 0, for the largest, a middle and the smallest noise level."""
    models, units = models_of(trained, ()), Units.of(trained.spec)
    problem = models.problem(jax.tree.map(lambda x: x[0], trained.policies))
    assert problem.score is not None
    data = np.asarray(task.sample(jax.random.key(0), 3_000)[0])
    low, high = data.min(axis=0), data.max(axis=0)
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 21) for a, b in zip(low, high, strict=True))), axis=-1).reshape(-1, 2)
    seen = units.seen(jnp.asarray(grid, jnp.float32))
    # A transition's score is shown where nothing moves: at action 0 the observation is the next one too.
    following = [seen] if models.config.score_of == "transition" else []
    points = jnp.concatenate([seen, jnp.zeros((len(grid), task.action_dim)), *following], axis=1)
    count = len(problem.sigmas)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        for axes, level in zip(figure.subplots(1, 3), (0, count // 2, count - 1), strict=True):
            score = np.asarray(problem.score(points, jnp.int32(level)))[:, :2]
            # Tweedie's step σ² ∇ log p, whose length is a distance and not a density's slope.
            step = score * problem.sigmas[level] ** 2
            axes.scatter(data[:, 0], data[:, 1], s=2, color="#b4bdca", linewidths=0)
            axes.quiver(grid[:, 0], grid[:, 1], step[:, 0], step[:, 1], color=DATA, width=0.004)
            axes.set_title(f"σ = {problem.sigmas[level]:.3g} of the range")
            axes.set_aspect("equal")
        save(figure, path)
    return path


def promises(outcomes: list[Outcome], path: Path) -> Path:
    """Promised and true cost of each way of planning, and the true cost against the time of a plan, by the same numbers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 2.2 + 0.42 * len(outcomes)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        rows = np.arange(len(outcomes))
        for values, colour, label, offset in (("promised", PLANNED, "promised", -0.15), ("kept", REAL, "true", 0.15)):
            means = np.array([np.nanmean(getattr(one, values)) for one in outcomes])
            errors = np.array([np.nanstd(getattr(one, values)) / len(one.kept) ** 0.5 for one in outcomes])
            left.errorbar(means, rows + offset, xerr=errors, fmt="o", color=colour, label=label, markersize=4)
        names = [f"{number + 1}: " + textwrap.fill(one.act, 44) for number, one in enumerate(outcomes)]
        left.set_yticks(rows, names, fontsize=7)
        left.invert_yaxis()
        left.set_xlabel("cost")
        left.legend(fontsize=8)
        costs = np.concatenate([np.concatenate([one.promised, one.kept]) for one in outcomes])
        if np.nanmin(costs) >= 0.0:
            left.set_xscale("symlog", linthresh=0.01, linscale=0.5)
            left.set_xlim(left=0.0)
        for number, one in enumerate(outcomes):
            milliseconds = 1e3 * one.seconds / one.plans
            right.scatter(milliseconds, np.nanmean(one.kept), color=REAL, s=16)
            offset = {"xytext": (4, 3), "textcoords": "offset points"}
            right.annotate(str(number + 1), (milliseconds, np.nanmean(one.kept)), fontsize=8, **offset)
        right.set(xlabel="ms per plan", ylabel="true cost")
        right.set_xlim(left=0.0)
        save(figure, path)
    return path


def phases(outcomes: list[Outcome], task: ControlTask, path: Path) -> Path:
    """Cart-pole: (p, θ) and (p', θ') of plans and of what came of them, a column per way of planning; the box of the data."""
    low, high = cart_pole.LOW, cart_pole.HIGH
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(2, len(outcomes), 2.8, 2.6, sharex="row", sharey="row")
        for column, one in zip(panels.T, outcomes, strict=True):
            column[0].set_title(textwrap.fill(one.act, 40), fontsize=8)
            for axes, (x, y), names in zip(column, ((0, 1), (2, 3)), (("p, m", "θ, rad"), ("p', m/s", "θ', rad/s")), strict=True):
                width, height = high[[x, y]] - low[[x, y]]
                axes.add_patch(Rectangle((low[x], low[y]), width, height, facecolor="#eef1f5", edgecolor=DATA, linewidth=0.8))
                axes.plot(*cart_pole.GOAL[[x, y]], "*", color="#3b4252", markersize=9)
                _plans_and_truths(axes, one, (x, y))
                axes.set(xlabel=names[0], ylabel=names[1])
        _common_legend(figure, panels[0, 0])
        save(figure, path)
    return path


def cart_pole_snapshots(outcomes: list[Outcome], task: ControlTask, path: Path) -> Path:
    """The first plan of each way of planning, at some steps, and below it what came of it."""
    steps = [step for step in SNAPSHOTS if step < outcomes[0].planned.shape[2]]
    shown = [(one, getattr(one, kind)[0, 0], name, colour) for one in outcomes for kind, name, colour in _KINDS]
    positions = _finite(np.concatenate([states[steps, :1] for _, states, _, _ in shown]))
    reach = min(np.max(np.abs(positions), initial=0.0), 2.0 * cart_pole.HIGH[0]) + 1.3 * cart_pole.LENGTH
    with matplotlib.rc_context(STYLE):
        width = 2.0
        height = max(width * 1.4 * cart_pole.LENGTH / reach, 0.45) + 0.35
        figure, panels = _grid(len(shown), len(steps), width, height)
        for row, (one, states, name, colour) in zip(panels, shown, strict=True):
            for axes, step in zip(row, steps, strict=True):
                position, angle = states[step, :2]
                tip = cart_pole.LENGTH * np.array([np.sin(angle), -np.cos(angle)])
                axes.axhline(0.0, color="#cbd2dc", linewidth=0.8, zorder=0)
                axes.add_patch(Rectangle((position - 0.2, -0.08), 0.4, 0.16, color=colour, alpha=0.5, linewidth=0))
                axes.plot([position, position + tip[0]], [0.0, tip[1]], color=colour, linewidth=2.0)
                axes.plot(position + tip[0], tip[1], "o", color=colour, markersize=4)
                axes.set(xlim=(-reach, reach), ylim=(-0.7, 0.7), aspect="equal", xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_title(f"{one.act}: {name}", fontsize=8, loc="left", color=colour)
        for axes, step in zip(panels[-1], steps, strict=True):
            axes.set_xlabel(f"step {step}, {cart_pole.DT * step:.1f} s", fontsize=8)
        save(figure, path)
    return path


def pusher_strips(outcomes: list[Outcome], task: ControlTask, path: Path) -> Path:
    """Box and pusher at some steps of the first plan of each way of planning, over what came of it; the goal outlined."""
    assert isinstance(task, KeypointPusher)
    goal = np.asarray(task.observe(jnp.array([*task.goal, *task.goal[:2]])))[:10].reshape(5, 2)
    steps = _strip(outcomes[0].planned.shape[2])
    both = [getattr(one, kind)[0, 0][steps].reshape(-1, 2) for one in outcomes for kind, *_ in _KINDS]
    both = _finite(np.concatenate([*both, goal]))
    low, high = both.min(axis=0) - 1.2 * pusher.RADIUS, both.max(axis=0) + 1.2 * pusher.RADIUS
    width = 2.0
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(outcomes), len(steps), width, width * (high[1] - low[1]) / (high[0] - low[0]) + 0.3)
        for row, one in zip(panels, outcomes, strict=True):
            for axes, step in zip(row, steps, strict=True):
                axes.add_patch(Polygon(goal[:4], fill=False, edgecolor=DATA, linestyle=":", linewidth=1.2, label="goal"))
                for kind, name, colour in _KINDS:
                    points = getattr(one, kind)[0, 0, step].reshape(6, 2)
                    style: dict[str, Any] = {"edgecolor": colour, "linestyle": "--" if kind == "planned" else "-"}
                    axes.add_patch(Polygon(points[:4], facecolor=(colour, 0.12), linewidth=1.3, label=name, **style))
                    axes.plot(*points[4], ".", color=colour, markersize=4)
                    axes.add_patch(Circle(tuple(points[5]), pusher.RADIUS, fill=False, linewidth=1.0, **style))
                axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
            row[0].set_title(one.act, fontsize=8, loc="left")
        for axes, step in zip(panels[-1], steps, strict=True):
            axes.set_xlabel(f"step {step}", fontsize=8)
        _common_legend(figure, panels[0, 0])
        save(figure, path)
    return path


def image_strips(outcomes: list[Outcome], task: ControlTask, path: Path) -> Path:
    """Images of the first plan of each way of planning at some steps, and below them those of what came of it."""
    steps = _strip(outcomes[0].planned.shape[2])
    shown = [(one, getattr(one, kind)[0, 0], name, colour) for one in outcomes for kind, name, colour in _KINDS]
    size = round(task.observation_dim**0.5)
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(shown), len(steps), 1.3, 1.5)
        for row, (one, images, name, colour) in zip(panels, shown, strict=True):
            for axes, step in zip(row, steps, strict=True):
                axes.imshow(images[step].reshape(size, size), vmin=0.0, vmax=1.0, cmap="gray", origin="lower")
                axes.set(xticks=[], yticks=[])
            row[0].set_title(f"{one.act}: {name}", fontsize=8, loc="left", color=colour)
        for axes, step in zip(panels[-1], steps, strict=True):
            axes.set_xlabel(f"step {step}", fontsize=8)
        save(figure, path)
    return path


_KINDS = (("planned", "plan", PLANNED), ("real", "what came of it", REAL))
Draw = Callable[[list[Outcome], ControlTask, Path], Path]
OF_TASK: dict[type[ControlTask], dict[str, Draw]] = {
    CartPoleSwingUp: {"phases": phases, "snapshots": cart_pole_snapshots},
    KeypointPusher: {"strips": pusher_strips},
    PixelIntegrator: {"strips": image_strips},
}


def of_task(outcomes: list[Outcome], task: ControlTask, out: Path) -> list[Path]:
    """The pictures that only this task has, written to the directory `out`; none for most."""
    return [draw(outcomes, task, out / f"{name}.png") for name, draw in OF_TASK.get(type(task), {}).items()]


def _finite(rows: np.ndarray) -> np.ndarray:
    """Without the rows of plans that diverged."""
    return rows[np.isfinite(rows).all(axis=1)]


def _strip(length: int) -> np.ndarray:
    """Steps shown of a path of `length` observations, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, STRIP).round().astype(int))


def _grid(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """Panels `[rows, columns]` of that size in inches each."""
    figure = Figure(figsize=(width * columns, height * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _common_legend(figure: Figure, axes: Axes) -> None:
    """One legend below all panels, an entry per label."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), fontsize=8, loc="outside lower center", ncols=len(unique))
