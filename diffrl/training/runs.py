"""The runs of a sweep: seeds × hyper-parameter points on one leading axis.

`Config.sweep` is text, as a command line has it. It is read into axes, whose values are numbers, and these are crossed to points.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm, hparams_of
from diffrl.config import Config, ConfigError, find, override, validate_method
from diffrl.training.devices import sharding_of
from diffrl.types import HParams, State

# Counters no update reaches: update t of a run draws from fold_in(key, t), iteration i online from fold_in(key, ONLINE) and i.
ONLINE, INIT, PREPARE = 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF


Point = dict[str, float]  # swept hyper-parameters by name


class Axis(NamedTuple):
    """Values of one hyper-parameter, or of several that change together.

    Attributes:
        names: of the hyper-parameters.
        values: that are tried, each a number per name.
    """

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def texts(self) -> list[str]:
        """The values as `Config.sweep` writes them; what is read from there is the same number."""
        return [":".join(repr(number).removesuffix(".0") for number in value) for value in self.values]

    def __str__(self) -> str:
        return f"{':'.join(self.names)}={','.join(self.texts)}"


class Runs(NamedTuple):
    """The runs of one sweep, in order: for every point, all seeds.

    Attributes:
        seeds: training seed of each run.
        points: swept hyper-parameters of each run by name; empty where nothing is swept.
        hparams: the method's hyper-parameters, every leaf `[R]`.
        keys: one typed key per run, `[R]`.
    """

    seeds: list[int]
    points: list[Point]
    hparams: HParams
    keys: Array

    @property
    def size(self) -> int:
        return len(self.seeds)


def make_runs(config: Config, points: list[Point] | None = None) -> Runs:
    """Seeds × swept points. The key of a run depends on its seed alone: seed 3 draws the same in any sweep.

    Args:
        config: seeds and method.
        points: hyper-parameter points; None for those of `config.sweep`.

    Raises:
        ConfigError: what is swept cannot be; see `points_of`.
    """
    declared = _declared(config)
    points = points_of(config) if points is None else points
    seeds = list(range(config.first_seed, config.first_seed + config.num_seeds))
    stacked = [hparams_of(dataclasses.replace(config.algorithm, **point), declared) for point in points for _ in seeds]
    return Runs(
        seeds=seeds * len(points),
        points=[point for point in points for _ in seeds],
        hparams=jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *stacked),
        keys=jnp.stack([jax.random.key(seed) for seed in seeds] * len(points)),
    )


def abstract_states(algorithm: Algorithm, runs: Runs, rows: int, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of saved states `[rows, ...]`."""
    state = jax.eval_shape(algorithm.init, runs.keys[0], jax.tree.map(lambda x: x[0], runs.hparams))
    sharding = sharding_of(rows, mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype, sharding=sharding), state)


def sweepable(config: Config) -> list[str]:
    """Names of the method's float hyper-parameters: what may vary within one program."""
    return sorted(field.name for field in dataclasses.fields(_declared(config)))


def points_of(config: Config) -> list[Point]:
    """The hyper-parameter points of `config.sweep`; one empty point where nothing is swept.

    Axes are separated by blanks and crossed: "beta=0.1,0.2 discount=0.99,0.995" is four points. A joint axis ties its values:
    "beta:discount=0.1:0.99,0.2:0.995" is two.

    Raises:
        ConfigError: see `axes_of` and `cross`.
    """
    return cross(config, axes_of(config))


def axes_of(config: Config) -> list[Axis]:
    """The axes that `config.sweep` writes.

    Raises:
        ConfigError: see `read_axis`.
    """
    axes = []
    for text in config.sweep.split():
        joined, _, listed = text.partition("=")
        axes.append(read_axis(config, tuple(joined.split(":")), listed.split(",")))
    return axes


def read_axis(config: Config, names: tuple[str, ...], texts: list[str]) -> Axis:
    """The axis of some hyper-parameters; each text holds a number per name, with colons between them.

    Raises:
        ConfigError: a name is unknown or no float hyper-parameter, a number is none, or they are not as many as the names.
    """
    known = sweepable(config)
    for name in names:
        find(config.algorithm, name)
        if name not in known:
            raise ConfigError(f"{name!r} changes the program and cannot be swept in one; sweepable: {', '.join(known)}")
    values = []
    for text in texts:
        numbers = text.split(":")
        if len(numbers) != len(names):
            raise ConfigError(f"sweep: {':'.join(names)!r} takes {len(names)} numbers a value, separated by colons, got {text!r}")
        scratch = dataclasses.replace(config.algorithm)
        for name, number in zip(names, numbers, strict=True):
            override(scratch, f"{name}={number}")
        values.append(tuple(getattr(scratch, name) for name in names))
    return Axis(names, tuple(values))


def cross(config: Config, axes: list[Axis]) -> list[Point]:
    """All combinations of the axes' values, each checked.

    Raises:
        ConfigError: a name stands in two axes, a value is out of its range, or a point occurs twice.
    """
    names = [name for axis in axes for name in axis.names]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"sweep names {name!r} twice: put all its values into one axis")
    combinations = itertools.product(*(axis.values for axis in axes))
    points = [dict(zip(names, itertools.chain(*values), strict=True)) for values in combinations]
    for i, point in enumerate(points):
        validate_method(dataclasses.replace(config.algorithm, **point))
        if point in points[:i]:
            raise ConfigError(f"sweep has the point {in_words(point)} twice: its runs would be the same")
    return points


def in_words(point: Point) -> str:
    """A point for people, as in "beta=0.1, tau=0.2"; empty where nothing is swept."""
    return ", ".join(f"{name}={value:g}" for name, value in point.items())


def _declared(config: Config) -> type:
    """The class that declares the method's hyper-parameters: its config's parent, registered as a tree of floats."""
    return type(config.algorithm).__mro__[1]
