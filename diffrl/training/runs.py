"""Runs: seeds × hyper-parameter points on one leading axis."""

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


class Runs(NamedTuple):
    """The runs of one sweep, in order: for every point, all seeds.

    Attributes:
        seeds: training seed of each run.
        points: swept hyper-parameters of each run by name; empty where nothing is swept.
        hparams: the method's hyper-parameters, every leaf `[R]`.
        keys: one typed key per run, `[R]`.
    """

    seeds: list[int]
    points: list[dict[str, float]]
    hparams: HParams
    keys: Array

    @property
    def size(self) -> int:
        return len(self.seeds)


def make_runs(config: Config) -> Runs:
    """Seeds × swept points. The key of a run depends on its seed alone: seed 3 draws the same in any sweep.

    Raises:
        ConfigError: what is swept cannot be; see `points_of`.
    """
    declared = _declared(config)
    points = points_of(config)
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


def points_of(config: Config) -> list[dict[str, float]]:
    """The hyper-parameter points of `config.sweep`; one empty point where nothing is swept.

    Axes are separated by blanks and crossed: "beta=0.1,0.2 discount=0.99,0.995" is four points. A joint axis ties its values:
    "beta:discount=0.1:0.99,0.2:0.995" is two.

    Raises:
        ConfigError: a name is unknown, no float hyper-parameter or given twice, a value is no number, the values of a joint
            axis are not as many as its names, or a point occurs twice.
    """
    axes = [_axis(config, text) for text in config.sweep.split()]
    names = [name for axis_names, _ in axes for name in axis_names]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"sweep names {name!r} twice: put all its values into one axis")
    combinations = itertools.product(*(values for _, values in axes))
    points = [dict(zip(names, itertools.chain(*values), strict=True)) for values in combinations]
    for i, point in enumerate(points):
        if point in points[:i]:
            words = ", ".join(f"{name}={value:g}" for name, value in point.items())
            raise ConfigError(f"sweep has the point {words} twice: its runs would be the same")
    return points


def _declared(config: Config) -> type:
    """The class that declares the method's hyper-parameters: its config's parent, registered as a tree of floats."""
    return type(config.algorithm).__mro__[1]


def _axis(config: Config, text: str) -> tuple[list[str], list[list[float]]]:
    """Names and values of "beta=0.1,0.2" or of "beta:discount=0.1:0.99,0.2:0.995"."""
    joined, _, listed = text.partition("=")
    names, known = joined.split(":"), sweepable(config)
    for name in names:
        find(config.algorithm, name)
        if name not in known:
            raise ConfigError(f"{name!r} changes the program and cannot be swept in one; sweepable: {', '.join(known)}")
    values = []
    for value in listed.split(","):
        numbers = value.split(":")
        if len(numbers) != len(names):
            raise ConfigError(f"sweep: {joined!r} takes {len(names)} numbers a value, separated by colons, got {value!r}")
        scratch = dataclasses.replace(config.algorithm)
        for name, number in zip(names, numbers, strict=True):
            override(scratch, f"{name}={number}")
        validate_method(scratch)
        values.append([getattr(scratch, name) for name in names])
    return names, values
