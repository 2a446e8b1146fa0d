"""Runs: seeds × hyper-parameter points on one leading axis."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffrl.algorithm import hparams_of
from diffrl.config import Config, ConfigError, find, override
from diffrl.types import HParams

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
        ConfigError: a swept name is unknown or not a float hyper-parameter.
    """
    points = _points(config)
    seeds = list(range(config.first_seed, config.first_seed + config.num_seeds))
    declared = _declared(config)
    stacked = [hparams_of(dataclasses.replace(config.algorithm, **point), declared) for point in points for _ in seeds]
    return Runs(
        seeds=seeds * len(points),
        points=[point for point in points for _ in seeds],
        hparams=jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *stacked),
        keys=jnp.stack([jax.random.key(seed) for seed in seeds] * len(points)),
    )


def _declared(config: Config) -> type:
    """The class that declares the method's hyper-parameters: its config's parent, registered as a tree of floats."""
    return type(config.algorithm).__mro__[1]


def _points(config: Config) -> list[dict[str, float]]:
    """Parse "beta=0.1,0.2 discount=0.99" into the product of its values."""
    swept = {field.name for field in dataclasses.fields(_declared(config))}
    axes: dict[str, list[float]] = {}
    for axis in config.sweep.split():
        name, _, values = axis.partition("=")
        find(config.algorithm, name)
        if name not in swept:
            raise ConfigError(f"{name!r} changes the program and cannot be swept in one; sweepable: {', '.join(sorted(swept))}")
        axes[name] = []
        for value in values.split(","):
            scratch = dataclasses.replace(config.algorithm)
            override(scratch, f"{name}={value}")
            axes[name].append(getattr(scratch, name))
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
