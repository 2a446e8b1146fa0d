"""Figures of what scores know, with the numbers that they show: the examples of Suh et al. 2023, computed anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.stats import norm, spearmanr

from diffrl.reports import page
from diffrl.reports.style import DATA, STYLE, save
from diffrl.studies import scores, uncertainty
from diffrl.studies.scores import HIGH, LOW, RADIUS, Ascent, Energies
from diffrl.studies.uncertainty import Uncertainty

EXACT, LEARNT, OTHER = "#3b4252", "#2f6fb0", "#d1495b"
X = np.linspace(-2.0, 2.0, 801)
NEAR = 0.9  # |x| within which the energy's points have noised copies
BLURRED = scores.BLUR * (HIGH - LOW) / 2.0  # deviation of the noise on the uniform
Lines = list[str]  # what a figure says, in words and numbers


def draw(out: Path, seed: int = 0) -> Iterator[Path]:
    """Train, draw and write every figure, then `figures.md` and its page; each path comes when it is written."""
    keys = jax.random.split(jax.random.key(seed), 4)
    pictures: dict[str, Lines] = {}
    for name, make in (
        ("energy", lambda path: draw_energies(scores.energies(keys[0], X), path)),
        ("uncertainty", lambda path: draw_uncertainties(X, uncertainty.uncertainties(keys[1], X), path)),
        ("langevin", lambda path: draw_uniform(scores.langevin_of_uniform(keys[2]), path)),
        ("circle", lambda path: draw_circle(scores.ascent_to_circle(keys[3]), path)),
    ):
        pictures[name] = make(out / f"{name}.png")
        yield out / f"{name}.png"
    text = "".join(f"![{name}]({name}.png)\n\n" + "".join(f"- {line}\n" for line in said) for name, said in pictures.items())
    yield from page.write(out / "figures.md", f"# Scores and distances to data\n\n{text}")


def draw_energies(found: Energies, path: Path) -> Lines:
    """Smoothed likelihood; -log p and the softmin energy; three gradients of the energy."""
    near = np.abs(found.x) <= NEAR
    gradients = (
        ("score network", found.by_score, LEARNT, "-"),
        ("gradient of a distance network", found.by_distance, OTHER, "-"),
    )
    points = scores.POINTS[:, 0]
    with matplotlib.rc_context(STYLE):
        figure, (left, middle, right) = _panels(1, 3, 3.6)
        left.plot(found.x, found.likelihood, color=EXACT)
        left.set_title(f"p_σ, σ = {scores.SIGMA}")
        middle.plot(found.x, found.minus_log_likelihood, color=EXACT, label="-log p_σ")
        middle.plot(found.x, found.energy, color=LEARNT, linestyle="--", label="E_σ, softmin of the distance")
        middle.set_title("one up to a constant")
        right.plot(found.x, found.gradient, color=EXACT, linewidth=2.5, alpha=0.5, label="exact")
        for name, values, colour, style in gradients:
            right.plot(found.x, values, color=colour, linestyle=style, linewidth=1.2, label=name)
        right.set_title("∇E_σ = -∇ log p_σ")
        for axes in (left, middle, right):
            axes.plot(points, np.full(len(points), axes.get_ylim()[0]), "k^", markersize=5, clip_on=False)
            axes.set_xlabel("x (▲ data)")
        for axes in (middle, right):
            axes.legend(fontsize=8)
        save(figure, path)
    gap = found.minus_log_likelihood - found.energy
    lines = [f"-log p - E is {gap.mean():.4f} everywhere, within {np.ptp(gap):.1g}."]
    for name, values, *_ in gradients:
        error = np.abs(values - found.gradient)
        lines.append(
            f"∇E by the {name}: mean error {error[near].mean():.2f} where |x| ≤ {NEAR}, {error[~near].mean():.2f} beyond "
            f"(mean |∇E| {np.abs(found.gradient[near]).mean():.2f} and {np.abs(found.gradient[~near]).mean():.2f})."
        )
    return lines


def draw_uncertainties(x: Float[np.ndarray, " n"], found: tuple[Uncertainty, ...], path: Path) -> Lines:
    """Each fit with its scaled uncertainty as a band; below, the uncertainty against the true squared error."""
    floor = 1e-6
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(2, len(found), 6.0)
        for one, top, bottom in zip(found, panels[0], panels[1], strict=True):
            band = one.scale * one.value
            top.fill_between(x, one.prediction - band, one.prediction + band, color=LEARNT, alpha=0.2, linewidth=0)
            top.plot(x, one.prediction, color=LEARNT, label=f"fit ± {one.scale:g} × uncertainty")
            top.plot(x, uncertainty.target(x), color=EXACT, linestyle="--", label="x² sin x")
            points = uncertainty.FITTED[:, 0]
            top.plot(points, uncertainty.target(points), "k^", markersize=5, label="data")
            top.set(title=one.name, ylim=(-4.0, 4.0))
            top.legend(fontsize=8, loc="upper left")
            squared, least = np.maximum(one.value**2, floor), one.minima
            bottom.plot(x, np.maximum(one.error**2, floor), color=OTHER, label="true error, squared")
            bottom.plot(x, squared, color=LEARNT, label="uncertainty, squared")
            bottom.plot(x[least], squared[least], "o", color=LEARNT, markersize=4, label="its minima")
            bottom.set(
                yscale="log", ylim=(floor, 1e3), xlabel="x", title=f"{one.needed:.3g} times the uncertainty covers the error"
            )
        panels[1][0].legend(fontsize=8, loc="upper center", ncols=2)
        save(figure, path)
    lines = []
    for one in found:
        lines.append(
            f"{one.name}: at ±2 it is {one.value[0]:.2g} and {one.value[-1]:.2g}, the error {one.error[0]:.2g} and "
            f"{one.error[-1]:.2g}; {one.needed:.3g} times it covers the error; rank correlation "
            f"{spearmanr(one.value, one.error)[0]:.2f}; minima {', '.join(f'{x[index]:.2f}' for index in one.minima)}."
        )
    return lines


def draw_uniform(end: Float[np.ndarray, " chains"], path: Path) -> Lines:
    """Histogram of Langevin chains over the density that they should have."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(1, 1, 3.6, 6.0)
        axes.hist(end, bins=40, density=True, color=LEARNT, alpha=0.4, label=f"{len(end):,} Langevin chains, learnt score")
        x = np.linspace(LOW - 1.0, HIGH + 1.0, 400)
        axes.plot(x, blurred_uniform(x), color=EXACT, label=f"U[{LOW:g}, {HIGH:g}] blurred by {BLURRED:g}")
        axes.set(xlabel="x", ylabel="density", ylim=(0.0, 0.42))
        axes.legend(fontsize=8, loc="upper center", ncols=2)
        save(figure, path)
    expected = ((HIGH - LOW) ** 2 / 12.0 + BLURRED**2) ** 0.5
    return [f"Langevin chains end with mean {end.mean():.2f} (exact 5) and deviation {end.std():.3f} (exact {expected:.3f})."]


def blurred_uniform(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Density of U[3, 7] plus its noise."""
    return (norm.cdf((x - LOW) / BLURRED) - norm.cdf((x - HIGH) / BLURRED)) / (HIGH - LOW)


def draw_circle(found: Ascent, path: Path) -> Lines:
    """Where gradient ascent from around the centre ends, with the exact and with the learnt score."""
    lines = []
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(1, 2, 4.4, 8.0)
        for axes, name, end in zip(panels, ("exact", "learnt"), (found.exact, found.learnt), strict=True):
            axes.add_patch(Circle((0.0, 0.0), RADIUS, fill=False, color=DATA, linewidth=1.0))
            segments = np.stack([found.start, end], axis=1)
            axes.plot(segments[..., 0].T, segments[..., 1].T, color=LEARNT, linewidth=0.5, alpha=0.3)
            axes.plot(*found.start.T, ".", color=DATA, markersize=3, label="start")
            axes.plot(*end.T, ".", color=OTHER, markersize=5, label="end")
            axes.set(aspect="equal", title=f"ascent along the {name} score")
            radius = np.linalg.norm(end, axis=1)
            lines.append(
                f"Ascent along the {name} score ends at radii {radius.min():.3f} to {radius.max():.3f} (circle: {RADIUS:g})."
            )
        figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
        save(figure, path)
    return lines


def _panels(rows: int, columns: int, height: float, width: float = 11.0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)
