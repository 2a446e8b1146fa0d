"""Ways of drawing what is wanted from a model of the data, compared where model, values and answer are all exact.

The laboratory's distributions that are mixtures of Gaussians: the noise of their points and the soft value of a noisy point,
log E[e^{βe} | x_t], have closed forms, so that a distance to q(x) e^{βe(x)} is an error of the decoding and not of a network.
Costs are counted in calls of the model per sample, as the methods make them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import Array
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from diffrl.data.toys import MIXTURES, Mixture
from diffrl.diffusion.decoding import SoftDecoding, soft_decode
from diffrl.diffusion.dpm_solver import fast
from diffrl.diffusion.guidance import best_of, energy_guided, self_weighted, softmax_of
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import Level, LinearVP, grid, level_at
from diffrl.diffusion.targets import Model, Prediction, from_x0
from diffrl.evaluation.statistics import interval
from diffrl.reports.markdown import table
from diffrl.reports.style import STYLE, save
from diffrl.studies.distances import sliced_wasserstein
from diffrl.types import Key

SCHEDULE = LinearVP()
STEPS = 15  # of every sampler, as in QGPO
BETAS = (3.0, 10.0)
BLOCKS = 5  # independent samples: the spread of their distances is the interval
TRUE = "two true samples"

Draw = Callable[[Key, int], Array]  # (key, number) -> points [number, 2]


class Decoder(NamedTuple):
    """A way of drawing from q e^{βe}.

    Attributes:
        family: those that differ in their number of children or candidates alone.
        name: in the table.
        calls: of the model, per sample.
        draw: points.
    """

    family: str
    name: str
    calls: int
    draw: Draw


class Cell(NamedTuple):
    """Distances of one decoder's samples to as many true ones, `[BLOCKS]`."""

    family: str
    name: str
    calls: int
    beta: float
    wasserstein: np.ndarray


def variance(mixture: Mixture, level: Level) -> Float[Array, ""]:
    """Of each component's x_t, per coordinate."""
    return level.alpha**2 * mixture.std**2 + level.sigma**2


def log_likelihood(mixture: Mixture, x: Float[Array, "n dim"], level: Level) -> Float[Array, "n components"]:
    """log p(x_t | component), up to a constant."""
    squared = jnp.sum((x[:, None] - level.alpha * jnp.asarray(mixture.means, x.dtype)) ** 2, axis=-1)
    return -0.5 * squared / variance(mixture, level)


def model_of(mixture: Mixture) -> Model:
    """E[x_0 | x_t], exact."""

    def model(x: Array, level: Level) -> Prediction:
        gain = level.alpha * mixture.std**2 / variance(mixture, level)
        mean = jax.nn.softmax(log_likelihood(mixture, x, level), axis=-1) @ jnp.asarray(mixture.means, x.dtype)
        return from_x0(x, level, mean + gain * (x - level.alpha * mean))

    return model


def soft_value(mixture: Mixture, beta: float) -> Callable[[Array, Level], Array]:
    """log E[e^{βe} | x_t], exact; at the data's level it is what the answer tilts the data by."""

    def value(x: Array, level: Level) -> Array:
        share = jax.nn.log_softmax(log_likelihood(mixture, x, level), axis=-1)
        return jax.nn.logsumexp(share + beta * jnp.asarray(mixture.energy, x.dtype), axis=-1)

    return value


def guided_model(mixture: Mixture, beta: float) -> Model:
    """The model of q e^{βe}: energy guidance by the exact energies."""
    return energy_guided(model_of(mixture), soft_value(mixture, beta))


def weighted_noise(mixture: Mixture, beta: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    """What SWG's network is to predict: the noises of x and of w = e^{β(e - 1)}, which are diffused together."""
    weight = jnp.exp(beta * (jnp.asarray(mixture.energy, jnp.float32) - 1.0))
    means = jnp.asarray(mixture.means, jnp.float32)

    def predict(z: Array, t: Array) -> tuple[Array, Array]:
        x, level = z[:, :-1], level_at(SCHEDULE, t[0])
        of_weight = -0.5 * (z[:, -1:] - level.alpha * weight) ** 2 / level.sigma**2
        share = jax.nn.softmax(of_weight + log_likelihood(mixture, x, level), axis=-1)
        noise = level.sigma / variance(mixture, level) * (x - level.alpha * share @ means)
        return noise, (z[:, -1:] - level.alpha * (share @ weight)[:, None]) / level.sigma

    return predict


def decoders(mixture: Mixture, beta: float) -> list[Decoder]:
    """All that are compared."""
    model, value, levels = model_of(mixture), soft_value(mixture, beta), grid(SCHEDULE, STEPS)
    data = Level(jnp.float32(0.0), jnp.float32(1.0), jnp.float32(0.0))
    solver = fast(SCHEDULE, STEPS, 1e-3, order=2, integrand="x0")

    def plain(key: Key, count: int) -> Array:
        start_key, key = jax.random.split(key)
        return jnp.asarray(sample(model, levels, ancestral(), key, jax.random.normal(start_key, (count, 2))))

    def guided(key: Key, count: int) -> Array:
        return solver(guided_model(mixture, beta), jax.random.normal(key, (count, 2)))

    def self_guided(key: Key, count: int) -> Array:
        start_key, key = jax.random.split(key)
        walk = self_weighted(weighted_noise(mixture, beta), 0.0, 1.0)
        z = sample(walk, levels, ancestral(), key, jax.random.normal(start_key, (count, 3)))
        return jnp.asarray(z)[:, :2]

    def softly(children: int, noisy: bool) -> Draw:
        def draw(key: Key, count: int) -> Array:
            (points,) = soft_decode(
                lambda _: model,
                lambda _, x: value(x, data),
                levels,
                ancestral(),
                key,
                jnp.zeros((count, 1)),
                2,
                SoftDecoding(num_children=children, temperature=1.0),
                (lambda _, x, level: value(x, level)) if noisy else None,
            )
            return points

        return draw

    def candidates(number: int, greedy: bool) -> Draw:
        def draw(key: Key, count: int) -> Array:
            choice_key, key = jax.random.split(key)
            drawn = jax.lax.map(lambda index: plain(jax.random.fold_in(key, index), count), jnp.arange(number))
            values = jax.vmap(lambda x: value(x, data))(drawn)
            return best_of(drawn, values) if greedy else softmax_of(choice_key, drawn, values)

        return draw

    return [
        Decoder("the model alone", "the model alone", STEPS, plain),
        Decoder("energy guidance", "QGPO: energy guidance", STEPS, guided),
        Decoder("self-weighted guidance", "SWG: self-weighted guidance", STEPS, self_guided),
        *(
            Decoder("SVDD, predicted data", f"SVDD, predicted data, M = {m}", 1 + (STEPS - 1) * m, softly(m, noisy=False))
            for m in (2, 8, 32)
        ),
        *(Decoder("SVDD, soft value", f"SVDD, soft value, M = {m}", STEPS, softly(m, noisy=True)) for m in (2, 8, 32)),
        *(Decoder("softmax of N", f"softmax of N = {n}", STEPS * n, candidates(n, greedy=False)) for n in (8, 32, 128)),
        *(Decoder("best of N", f"IDQL: best of N = {n}", STEPS * n, candidates(n, greedy=True)) for n in (8, 32, 128)),
    ]


def true_points(mixture: Mixture, beta: float, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count dim"]:
    """Draws of q e^{βe}: a mixture of the same components."""
    share = np.exp(beta * (mixture.energy - mixture.energy.max()))
    component = rng.choice(len(share), size=count, p=share / share.sum())
    return mixture.means[component] + mixture.std * rng.normal(size=(count, mixture.means.shape[1]))


def compare(
    toys: tuple[str, ...] = tuple(MIXTURES), n: int = 2_000, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[Cell]]:
    """By toy, the distances of every decoder's samples, and of true samples, to true samples of n points.

    Args:
        say: is told what is under way.
    """
    found: dict[str, list[Cell]] = {}
    for toy in toys:
        mixture = MIXTURES[toy]()
        for beta in BETAS:
            rng, cells = np.random.default_rng(seed), found.setdefault(toy, [])
            reference, other = (true_points(mixture, beta, BLOCKS * n, rng).reshape(BLOCKS, n, 2) for _ in range(2))
            cells.append(Cell(TRUE, TRUE, 0, beta, _distances(other, reference)))
            for decoder in decoders(mixture, beta):
                say(f"{toy}, β = {beta:g}: {decoder.name}")
                draw = jax.jit(decoder.draw, static_argnums=1)
                keys = jax.random.split(jax.random.key(seed), BLOCKS)
                drawn = np.stack([np.asarray(draw(key, n)) for key in keys])
                cells.append(Cell(decoder.family, decoder.name, decoder.calls, beta, _distances(drawn, reference)))
    return found


def _distances(drawn: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.array([sliced_wasserstein(a, b) for a, b in zip(drawn, reference, strict=True)])


def to_markdown(found: dict[str, list[Cell]]) -> str:
    """One table: decoders by toy and β, beside their calls of the model."""
    keys = [(toy, beta) for toy in found for beta in BETAS]
    cells = {(toy, cell.beta, cell.name): cell for toy, rows in found.items() for cell in rows}
    rows = []
    for name, calls in dict.fromkeys((cell.name, cell.calls) for cell in next(iter(found.values()))):
        rows.append([name, f"{calls:,}" if calls else "", *(_words(cells[(*key, name)].wasserstein) for key in keys)])
    return table(["", "calls", *(f"{toy}, β = {beta:g}" for toy, beta in keys)], rows)


def _words(distances: np.ndarray) -> str:
    low, high = interval(distances) or (float("nan"), float("nan"))
    return f"{distances.mean():.3f} ({low:.3f} … {high:.3f})"


def picture(found: dict[str, list[Cell]], path: Path) -> Path:
    """Distance over calls, a line per family and a panel per toy and β."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(found), 2.6 * len(BETAS)), layout="constrained")
        axes = figure.subplots(len(BETAS), len(found), squeeze=False, sharex=True)
        for column, (toy, cells) in enumerate(found.items()):
            for row, beta in enumerate(BETAS):
                here, panel = [cell for cell in cells if cell.beta == beta], axes[row, column]
                for family in dict.fromkeys(cell.family for cell in here if cell.family != TRUE):
                    line = [(cell.calls, cell.wasserstein.mean()) for cell in here if cell.family == family]
                    panel.plot(*zip(*line, strict=True), marker="o", markersize=4, linewidth=1, label=family)
                panel.axhline(here[0].wasserstein.mean(), color="#8a93a3", linewidth=0.8, linestyle="--", label=TRUE)
                panel.set(xscale="log", yscale="log", title=f"{toy}, β = {beta:g}")
                for axis, ticks in ((panel.xaxis, (15, 120, 1_000)), (panel.yaxis, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0))):
                    axis.set_major_locator(FixedLocator(ticks))
                    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                    axis.set_minor_formatter(NullFormatter())
        for panel in axes[-1]:
            panel.set_xlabel("calls of the model per sample")
        for panel in axes[:, 0]:
            panel.set_ylabel("sliced Wasserstein distance")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        save(figure, path)
    return path
