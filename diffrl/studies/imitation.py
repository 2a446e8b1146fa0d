"""Imitation from a handful of sub-sampled demonstrations: methods side by side, over the number of demonstrations.

The protocol of EDM (Jarrett et al. 2020; `alg/edm` of its authors' code): repetition k of "N demonstrations" sees rows of the
episodes k … k + N - 1, so that repetitions share episodes, and is judged by its return and by its agreement with the expert in
states of episodes that no repetition sees. All numbers of demonstrations and all repetitions train in one program.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffrl import records
from diffrl.algorithm import Algorithm
from diffrl.config import Config, algorithm_name
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import Card, Dataset, DatasetError, Source
from diffrl.data.environment import matched
from diffrl.envs import env_spec
from diffrl.envs.make import choose
from diffrl.evaluation.rollout import host_rollout
from diffrl.evaluation.statistics import interval
from diffrl.registry import make
from diffrl.reports.markdown import table
from diffrl.reports.style import STYLE, save
from diffrl.training.chunk import make_chunk
from diffrl.training.devices import RUN, SHARED, make_mesh, place
from diffrl.training.runs import Runs, make_runs
from diffrl.training.train import init_states
from diffrl.types import Key, Policy, Transition

NUMBERS = (1, 3, 7, 10, 15)  # of demonstrations
CHUNK = 1_000  # updates a dispatch
# Mean returns of the experts that EDM's authors imitate, by the zoo they are from.
PUBLISHED = {"CartPole-v1": 500.0, "Acrobot-v1": -85.1, "LunarLander-v3": 269.0, "MountainCar-v0": -111.9}
_FIRST, _COUNT = "first_row", "rows"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method at one number of demonstrations, a value for each repetition.

    Attributes:
        method: its name.
        demonstrations: N.
        pairs: rows of (observation, action) that it saw.
        returns: means over the evaluation episodes.
        matches: share of the held-out states in which it does what the expert did.
    """

    method: str
    demonstrations: int
    pairs: tuple[int, ...]
    returns: tuple[float, ...]
    matches: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """One task.

    Attributes:
        env_id: gymnasium's.
        dataset: of the demonstrations.
        keep_every: of each episode the first row, and each so many on.
        random, expert: mean returns of uniformly random actions and of the controller that made the data.
        held_out: states in which actions are compared.
        episodes: of the evaluation, per repetition.
        updates: of each training.
        seconds: of processor time, compiling included, that all trainings of a method took.
        cells: by method and number of demonstrations.
    """

    env_id: str
    dataset: str
    keep_every: int
    random: float
    expert: float
    held_out: int
    episodes: int
    updates: int
    seconds: dict[str, float]
    cells: tuple[Cell, ...]


class Demonstrations(NamedTuple):
    """Demonstrations as many runs see them.

    Attributes:
        dataset: the rows that are kept of all episodes, one after another.
        first, count: for each run its first row of these, and how many it has, `[runs]`.
    """

    dataset: Dataset
    first: Int[np.ndarray, " runs"]
    count: Int[np.ndarray, " runs"]


def demonstrations(dataset: Dataset, keep_every: int, numbers: tuple[int, ...], repetitions: int) -> Demonstrations:
    """Rows of the episodes k … k + N - 1, for every N all repetitions k; as `dataset.keep_every` of each would give them.

    Raises:
        DatasetError: there are fewer episodes.
    """
    begin, end = (np.unique(np.asarray(bound)) for bound in (dataset.episode_start, dataset.episode_end))
    needed = max(numbers) + repetitions - 1
    if len(begin) < needed:
        raise DatasetError(f"{repetitions} repetitions of {max(numbers)} demonstrations take {needed} episodes, not {len(begin)}")
    kept = [np.arange(*bounds, keep_every) for bounds in zip(begin, end, strict=True)]
    of_episode = np.append(0, np.cumsum([len(rows) for rows in kept]))
    pairs = [(of_episode[k], of_episode[k + n]) for n in numbers for k in range(repetitions)]
    first, last = np.array(pairs, np.int32).T
    thinned = dataclasses.replace(dataset, rows=dataset.rows[np.concatenate(kept)], episode_start=None, episode_end=None)
    return Demonstrations(thinned, first, last - first)


def own_rows(dataset: Dataset, key: Key, batch_size: int) -> Transition:
    """A batch of a run's own rows, which its columns name."""
    first, count = (dataset.columns[name] for name in (_FIRST, _COUNT))
    rows = dataclasses.replace(dataset, columns={})
    return rows[jnp.asarray(first) + jax.random.randint(key, (batch_size,), 0, count)]


def train(algorithm: Algorithm, runs: Runs, seen: Demonstrations, say: Callable[[str], None] = lambda text: None) -> Policy:
    """Policies `[R, ...]` of runs that see different rows, by the trainer's own chunks: one program.

    Args:
        seen: what each run sees.
        say: is told how far it is.
    """
    (stage,) = algorithm.stages
    stage, mesh = stage._replace(batch=own_rows), make_mesh(runs.size)
    mesh = mesh if runs.size % mesh.shape["run"] == 0 else make_mesh(runs.size, jax.devices()[:1])
    given = (init_states(algorithm, runs), jnp.ones(runs.size, bool), runs.keys, {_FIRST: seen.first, _COUNT: seen.count})
    states, alive, keys, columns = (place(value, mesh, RUN) for value in given)
    rows, step = place(jax.tree.map(jnp.asarray, seen.dataset), mesh, SHARED), 0
    programs = {length: make_chunk(stage, length, mesh) for length in {min(CHUNK, stage.num_updates), stage.num_updates % CHUNK}}
    while step < stage.num_updates:
        length = min(CHUNK, stage.num_updates - step)
        states, alive, metrics = programs[length](states, alive, keys, columns, rows, place(np.int32(step), mesh, SHARED))
        step += length
        loss = float(np.mean(metrics["policy/loss"]))
        say(f"{step:,} of {stage.num_updates:,} updates of {runs.size} runs, loss {loss:.4f}")
    return jax.jit(jax.vmap(algorithm.policy))(states)


def agreement(algorithm: Algorithm, policies: Policy, held_out: Dataset) -> Float[np.ndarray, " runs"]:
    """The share of held-out rows in which each run's policy takes the row's action."""
    rows = held_out[:]

    @jax.jit
    def share(policies: Policy, observation: Array, expert: Array) -> Array:
        def one(policy: Policy) -> Array:
            chosen, _ = algorithm.act(policy, algorithm.init_carry(policy, len(expert)), observation, jax.random.key(0))
            return jnp.mean(chosen == expert)

        return jax.lax.map(one, policies)

    return np.asarray(share(policies, rows.observation, jnp.argmax(rows.action, axis=-1)))


def compare(
    config_of: Callable[[str], Config],
    methods: tuple[str, ...],
    *,
    numbers: tuple[int, ...] = NUMBERS,
    repetitions: int = 10,
    episodes: int = 20,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """Train and judge some experiments on the demonstrations that the first of them names.

    Args:
        config_of: an experiment's config by its name. Its method acts on raw observations, which it sees as they are.
        methods: names of experiments.
        numbers: of demonstrations.
        repetitions: of each.
        episodes: of the evaluation, per repetition; every method starts from the same states.
        say: is told what is under way.

    Raises:
        DatasetError: the data are not there, of no environment, have no discrete actions or too few episodes.
        ConfigError: an experiment cannot be read.
    """
    configs = [config_of(name) for name in methods]
    source, _ = matched(configs[0].dataset.source())
    if not source.discrete or source.env_spec is None:
        raise DatasetError(f"dataset {source.id!r}: demonstrations here are of discrete actions in an environment of gymnasium")
    shown, every = max(numbers) + repetitions - 1, configs[0].dataset.keep_every
    dataset, spec, card = build(source, Transforms(num_episodes=shown))
    held_out, _, _ = build(source, Transforms(first_episode=shown))
    seen = demonstrations(dataset, every, numbers, repetitions)
    envs = _environments(source, len(seen.first) * episodes)
    cells, seconds = [], {}
    for config in configs:
        name = algorithm_name(config)
        algorithm = make(config.algorithm, spec)
        runs = make_runs(dataclasses.replace(config, num_seeds=repetitions, sweep=""), [{} for _ in numbers])
        begun = time.process_time()  # a machine may be shared
        policies = train(algorithm, runs, seen, lambda text, name=name: say(f"{name}: {text}"))
        seconds[name] = round(time.process_time() - begun, 1)
        say(f"{name}: {runs.size} × {episodes} episodes")
        returns = host_rollout(algorithm, envs, episodes)(policies, runs.seeds, 0).returns.mean(axis=1)
        matches = agreement(algorithm, policies, held_out)
        cells += _cells(name, numbers, seen, returns, matches)
    envs.close()
    return Study(
        env_id=env_spec.read(source.env_spec)["id"],
        dataset=source.id,
        keep_every=every,
        random=_reference(card, card.ref_min_score),
        expert=_reference(card, card.ref_max_score),
        held_out=held_out.size,
        episodes=episodes,
        updates=configs[0].algorithm.num_updates,
        seconds=seconds,
        cells=tuple(cells),
    )


def _environments(source: Source, count: int) -> Any:
    assert source.env_spec is not None
    backend = choose("auto", source.env_spec, source.observation_keys)
    if backend.host is None:
        raise DatasetError(f"dataset {source.id!r}: its environment is not one of gymnasium's on the host")
    return backend.host(count)


def _reference(card: Card, value: float | None) -> float:
    if value is None:
        raise DatasetError(f"dataset {card.id!r} does not say what random actions and its expert are worth")
    return value


def _cells(name: str, numbers: tuple[int, ...], seen: Demonstrations, returns: np.ndarray, matches: np.ndarray) -> list[Cell]:
    def of(values: np.ndarray, digits: int) -> list[tuple[float, ...]]:
        return [tuple(np.round(part, digits).tolist()) for part in np.asarray(values, np.float64).reshape(len(numbers), -1)]

    pairs = seen.count.reshape(len(numbers), -1).tolist()
    parts = zip(numbers, pairs, of(returns, 2), of(matches, 4), strict=True)
    return [Cell(name, number, tuple(count), score, match) for number, count, score, match in parts]


# ------------------------------------------------------------------------------------------------------------- what is shown


def to_markdown(studies: list[Study]) -> str:
    """A table per task: methods by number of demonstrations, mean return and action match with 95 % intervals."""
    lines = []
    for study in studies:
        methods = list(dict.fromkeys(cell.method for cell in study.cells))
        numbers = list(dict.fromkeys(cell.demonstrations for cell in study.cells))
        cells = {(cell.method, cell.demonstrations): cell for cell in study.cells}
        rows = []
        for number in numbers:
            here = [cells[method, number] for method in methods]
            pairs = sorted(here[0].pairs)
            span = f"{pairs[0]}" if pairs[0] == pairs[-1] else f"{pairs[0]} … {pairs[-1]}"
            scores = [_words(cell.returns, "{:.1f}") for cell in here]
            rows.append([str(number), span, *scores, *(_words(cell.matches, "{:.3f}") for cell in here)])
        times = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in study.seconds.items())
        repetitions = len(study.cells[0].returns)
        heads = ["demonstrations", "pairs", *(f"{name}: return" for name in methods), *(f"{name}: match" for name in methods)]
        lines += [
            f"## {study.env_id}\n",
            f"The expert's mean return is {study.expert:g}, that of random actions {study.random:g}, the published expert's "
            f"{PUBLISHED.get(study.env_id, float('nan')):g}. {repetitions} repetitions, {study.episodes} episodes each, "
            f"{study.held_out:,} held-out states; processor time of all trainings: {times}.\n",
            table(heads, rows),
        ]
    return "\n".join(lines)


def _words(values: tuple[float, ...], form: str) -> str:
    low, high = interval(np.asarray(values)) or (float("nan"), float("nan"))
    return f"{form.format(np.mean(values))} ({form.format(low)} … {form.format(high)})"


def picture(study: Study, path: Path) -> Path:
    """Return and action match over the number of demonstrations: means with 95 % intervals, and every repetition as a point."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, study, lambda cell: cell.returns)
        _curves(right, study, lambda cell: cell.matches)
        levels = [("expert", study.expert, "-"), ("random", study.random, ":")]
        levels += [("published expert", PUBLISHED[study.env_id], "--")] if study.env_id in PUBLISHED else []
        for name, level, style in levels:
            left.axhline(level, color="#8a93a3", linewidth=0.9, linestyle=style, label=f"{name} {level:g}")
        left.set(ylabel="mean return", title=study.env_id)
        right.set(ylabel="agreement with the expert", title="held-out states")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
        save(figure, path)
    return path


def _curves(axes: Axes, study: Study, of: Callable[[Cell], tuple[float, ...]]) -> None:
    methods = list(dict.fromkeys(cell.method for cell in study.cells))
    numbers = sorted({cell.demonstrations for cell in study.cells})
    for index, method in enumerate(methods):
        cells = [cell for cell in study.cells if cell.method == method]
        x = np.array([numbers.index(cell.demonstrations) for cell in cells]) + 0.12 * (index - (len(methods) - 1) / 2)
        means = np.array([np.mean(of(cell)) for cell in cells])
        bands = np.array([interval(np.asarray(of(cell))) or (mean, mean) for cell, mean in zip(cells, means, strict=True)])
        errors = np.abs(bands.T - means)
        drawn = axes.errorbar(x, means, errors, marker="o", markersize=4, linewidth=1, capsize=2, label=method)
        for place_of, cell in zip(x, cells, strict=True):
            axes.scatter(np.full(len(of(cell)), place_of), of(cell), s=6, alpha=0.35, color=drawn[0].get_color(), linewidths=0)
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set_xlabel("demonstrations")


def write(study: Study, path: Path) -> Path:
    """Store a study; `read` gives it back."""
    records.write(path, study)
    return path


def read(path: Path) -> Study:
    """A study that was stored.

    Raises:
        RecordError: it is none.
    """
    return records.read(path, Study)
