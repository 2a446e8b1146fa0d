"""Pictures of results: learning curves, and mazes with the data's trajectories beside each policy's."""

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib import colors as mpl_colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from diffrl.data.dataset import Card
from diffrl.evaluation import results, statistics
from diffrl.reports.charts import Chart, Curve, bounds
from diffrl.reports.maze import Maze, maze_of
from diffrl.reports.style import DATA, GOAL, STYLE, WALL, save
from diffrl.reports.tables import Series, data_value, step_unit, unit_of, values_of

MAX_PANELS = 8  # of one maze picture
DATA_PIECES, PIECE_STEPS = 30, 100


def colours(series: list[Series]) -> dict[str, str]:
    """One colour per series name, the same in all pictures of a report."""
    palette = [mpl_colors.to_hex(colour) for colour in matplotlib.colormaps["tab10"].colors]  # pyright: ignore
    palette.remove("#7f7f7f")  # grey is the data's
    return {name: palette[i % len(palette)] for i, name in enumerate(dict.fromkeys(one.name for one in series))}


def curves(group: list[Series], colour: dict[str, str]) -> Chart:
    """The evaluated checkpoints of every run, their mean with its 95 % bootstrap interval, and the data's own mean.

    `group` is of one dataset and one simulator.
    """
    data = data_value(group[0])
    return Chart(
        title=f"{group[0].card.id}\n{group[0].last.settings.simulator}",
        x=step_unit(group[0]),
        y=unit_of(group[0].last),
        curves=[_curve(one, colour[one.name]) for one in group],
        level=None if data is None else ("data (episodes of this length)", data),
    )


def _curve(one: Series, colour: str) -> Curve:
    values = np.stack([values_of(result) for result in one.results])  # [checkpoints, R]
    low, high = bounds(map(statistics.interval, values))
    return Curve(
        name=f"{one.name} ({values.shape[1]} runs)",
        colour=colour,
        x=[float(result.step) for result in one.results],
        mean=values.mean(axis=1).tolist(),
        low=low,
        high=high,
        runs=[(f"seed {seed}", run.tolist()) for seed, run in zip(one.last.seeds, values.T, strict=True)],
    )


def learning_curves(chart: Chart, path: Path) -> Path:
    """Draw `curves`: one thin line per run, the mean with its interval as a band, the data's mean as a dashed line."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for one in chart.curves:
            _draw_curve(axes, one)
        if chart.level is not None:
            name, value = chart.level
            axes.axhline(value, color=DATA, linestyle="--", linewidth=1.2, label=name, zorder=1)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.set_title(chart.title, loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        save(figure, path)
    return path


def _draw_curve(axes: Axes, one: Curve) -> None:
    marker = "o" if len(one.x) < 5 else ""  # a single checkpoint makes no line
    for _, values in one.runs:
        axes.plot(one.x, values, color=one.colour, alpha=0.3, linewidth=0.7, marker=marker, markersize=2.5)
    axes.plot(one.x, one.mean, color=one.colour, linewidth=2, label=one.name, zorder=3, marker=marker, markersize=5)
    if len(one.x) > 1:
        axes.fill_between(one.x, one.low, one.high, color=one.colour, alpha=0.18, linewidth=0)


def maze_picture(
    group: list[Series], colour: dict[str, str], path: Path, data: list[Float[np.ndarray, "time 2"]] | None = None
) -> Path | None:
    """The maze with pieces of the data beside trajectories of each policy; None where there is no maze or no trajectory.

    Args:
        group: series of one dataset and one simulator.
        colour: of each series name.
        path: where the picture goes.
        data: positions along pieces of the data, as from `data_pieces`; None leaves that panel out.
    """
    panels = []
    for one in group:
        observations = results.trajectories(one.workdir, one.last)
        maze = None if observations is None else maze_of(one.card, observations.shape[-1])
        if observations is not None and maze is not None:
            panels.append((one, observations[_runs_of(one)], maze))
    if not panels:
        return None
    total = min(len(panels), MAX_PANELS) + (data is not None)
    columns = min(total, 4)
    rows = -(-total // columns)
    height, width = panels[0][2].walls.shape
    panel = 3.4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(panel * columns, 6), (panel * height / width + 0.6) * rows + 0.7), layout="constrained")
        axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
        if data is not None:
            _data_panel(axes.pop(0), panels[0][2], data)
        for one, observations, maze in panels[:MAX_PANELS]:
            _policy_panel(axes.pop(0), maze, one, observations, colour[one.name])
        for empty in axes:
            empty.set_axis_off()
        more = f" (first {MAX_PANELS} of {len(panels)})" if len(panels) > MAX_PANELS else ""
        figure.suptitle(f"{group[0].card.id}{more}\n{group[0].last.settings.simulator}", fontsize=10, x=0.01, ha="left")
        save(figure, path)
    return path


def _runs_of(one: Series) -> list[int]:
    """Which runs of the stored result belong to this series."""
    stored = results.load(results.path_of(one.workdir, one.last.step, one.last.settings))
    return [run for run, hparams in enumerate(stored.hparams) if hparams == one.last.hparams[0]]


def _walls(axes: Axes, maze: Maze) -> None:
    left, right, bottom, top = maze.extent
    x, y = np.linspace(left, right, maze.walls.shape[1] + 1), np.linspace(top, bottom, maze.walls.shape[0] + 1)
    colours = mpl_colors.ListedColormap(["white", WALL])
    axes.pcolormesh(x, y, maze.walls.astype(float), cmap=colours, vmin=0, vmax=1, zorder=0, rasterized=True)
    axes.set_aspect("equal")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("x")
    axes.set_ylabel("y")


def _data_panel(axes: Axes, maze: Maze, data: list[np.ndarray]) -> None:
    _walls(axes, maze)
    for piece in data:
        axes.plot(piece[:, 0], piece[:, 1], color=DATA, linewidth=0.9, alpha=0.8)
    if maze.goal_cells is not None:
        _goals(axes, maze, maze.goal_cells)
    axes.set_title(f"data\n{len(data)} pieces of up to {PIECE_STEPS} steps", loc="left", color="#4b5563")


def _policy_panel(axes: Axes, maze: Maze, one: Series, observations: np.ndarray, colour: str) -> None:
    _walls(axes, maze)
    # Runs in turn, so that a picture of many runs does not show one of them only.
    episodes = np.swapaxes(observations, 0, 1).reshape(-1, *observations.shape[2:])[:32]
    for episode in episodes:
        xy = episode[:, maze.position]
        axes.plot(xy[:, 0], xy[:, 1], color=colour, linewidth=1.0, alpha=0.65)
        axes.plot(*xy[0], "o", color="white", markeredgecolor=colour, markersize=4, zorder=3)
    if maze.goal is not None:
        _goals(axes, maze, np.unique(np.round(episodes[:, 0, maze.goal], 2), axis=0))
    elif maze.goal_cells is not None:
        _goals(axes, maze, maze.goal_cells)
    values = values_of(one.last)
    axes.set_title(
        f"{one.name}\n{unit_of(one.last)} {values.mean():.1f}, success {100 * one.last.success_rates.mean():.0f} %", loc="left"
    )


def _goals(axes: Axes, maze: Maze, goals: np.ndarray) -> None:
    size = 14 if len(goals) == 1 else 8
    axes.plot(goals[:, 0], goals[:, 1], "*", color=GOAL, markersize=size, markeredgecolor="white", markeredgewidth=0.7, zorder=4)


def data_pieces(card: Card) -> list[Float[np.ndarray, "time 2"]] | str:
    """Positions along pieces of the data, spread evenly over it; or a sentence saying why there are none.

    Loads the dataset from this machine (nothing is downloaded).
    """
    try:
        from diffrl.data.load import load

        transitions = load(card.id, observation_keys=card.observation_keys or ()).transitions
    # Any failure to load costs one panel, never the report.
    except Exception as error:
        return f"the data panel is left out, {card.id} could not be loaded: {error}"
    observation = np.asarray(transitions.observation)
    maze = maze_of(card, observation.shape[1])
    if maze is None:
        return f"{card.id} was not recorded in a maze"
    from diffrl.data import episodes

    ends = episodes.ends(transitions)
    starts = np.linspace(0, max(len(observation) - PIECE_STEPS, 0), DATA_PIECES).astype(int)
    # A piece never runs across two episodes: a jump is no movement.
    stops = np.minimum(starts + PIECE_STEPS, ends[np.searchsorted(ends, starts, side="right")])
    return [
        observation[a:b, maze.position]
        for a, b in zip(np.unique(starts), stops[np.unique(starts, return_index=True)[1]], strict=True)
    ]
