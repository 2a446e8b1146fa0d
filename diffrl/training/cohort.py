"""Which of a sweep's runs a program really trains.

Runs that are still the same are trained once: in a sweep over a hyper-parameter that only the last stage reads, the stages
before have no more different runs than seeds. Which hyper-parameters a stage reads is found in its traced program, so that no
method need declare it. Runs that successive halving dropped are not trained on; their last state is kept.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal
from jax.sharding import Mesh, NamedSharding

from diffrl.algorithm import Algorithm, Stage
from diffrl.data.dataset import Dataset
from diffrl.training.chunk import draw
from diffrl.training.devices import RUN, padded_size, sharding_of
from diffrl.training.runs import Runs
from diffrl.types import HParams, Key, State


class Cohort(NamedTuple):
    """The states that a program holds for R runs: M that are trained, then D that are kept.

    Attributes:
        members: the runs that are trained, M of them, each for all runs that are the same so far.
        parked: the runs that were dropped, D of them.
        index: for each of the R runs the position of its state among the M + D.
    """

    members: tuple[int, ...]
    parked: tuple[int, ...]
    index: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.members) + len(self.parked)

    def padded(self, values: Any, mesh: Mesh) -> Any:
        """Pick those of the members from values of all runs `[R, ...]`; the last is repeated to fill the mesh."""
        size = padded_size(len(self.members), mesh)
        return values[np.array([*self.members, *self.members[-1:] * (size - len(self.members))])]

    def standing(self) -> list[int]:
        """The runs that are not parked."""
        return [run for run, row in enumerate(self.index) if row < len(self.members)]


def make_cohort(same: list[int], dropped: set[int]) -> Cohort:
    """The cohort that trains each set of equal runs once and none that was dropped.

    Args:
        same: for each run, the first run that is equal to it (`equal_runs`).
        dropped: runs that are no longer trained.
    """
    members: dict[int, int] = {}
    for run, group in enumerate(same):
        if run not in dropped:
            members.setdefault(group, run)
    parked = tuple(sorted(dropped))
    row = {group: i for i, group in enumerate(members)}
    at = {run: len(members) + i for i, run in enumerate(parked)}
    index = tuple(at[run] if run in dropped else row[group] for run, group in enumerate(same))
    return Cohort(tuple(members.values()), parked, index)


def equal_runs(algorithm: Algorithm, runs: Runs, dataset: Dataset) -> list[list[int]]:
    """For each stage and run, the first run that is equal to it: of the same seed, and of the same values of all hyper-parameters
    that this stage or one before it reads.
    """
    several = [name for name in (runs.points[0] if runs.points else {}) if len({point[name] for point in runs.points}) > 1]
    read: set[str] = set()
    found = []
    reads = _reads(algorithm, runs, dataset) if several else [set()] * len(algorithm.stages)
    for names in reads:
        read |= names
        first: dict[Any, int] = {}
        keys = [
            (seed, *(point[name] for name in several if name in read))
            for seed, point in zip(runs.seeds, runs.points, strict=True)
        ]
        found.append([first.setdefault(key, run) for run, key in enumerate(keys)])
    return found


def _reads(algorithm: Algorithm, runs: Runs, dataset: Dataset) -> list[set[str]]:
    """Names of the hyper-parameters on which the outcome of each stage depends; the first includes the initialisation's."""
    hparams = jax.tree.map(lambda x: x[0], runs.hparams)
    key = runs.keys[0]
    state = jax.eval_shape(algorithm.init, key, hparams)
    found = []
    for stage in algorithm.stages:
        names = _read_by(algorithm.init, key, hparams) if not found else set()
        own: dict[str, Array] = {}
        if stage.prepare is not None:
            own = jax.eval_shape(stage.prepare, state, dataset, key)
            names |= _read_by(stage.prepare, state, dataset, key)

        def update(state: State, data: Dataset, own: dict[str, Array], key: Key, stage: Stage = stage) -> Any:
            return stage.update(state, draw(stage, data, own, key), key)

        found.append(names | _read_by(update, state, dataset, own, key))
    return found


def _read_by(function: Callable[..., Any], *args: Any) -> set[str]:
    """Names of the hyper-parameters among the arguments that reach the function's results other than by being handed on."""
    return reaching(function, args, lambda path: _hparam(path, args))


def reaching(function: Callable[..., Any], args: tuple[Any, ...], name_of: Callable[[tuple[Any, ...]], str]) -> set[str]:
    """Names of the arguments' leaves that reach the function's results other than by being handed on.

    Args:
        function: traced, never run.
        args: arrays or their shapes.
        name_of: the name of the leaf at a path, which begins with the position of its argument; "" for one not asked after.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    paths = [path for position, arg in enumerate(args) for path, _ in jax.tree_util.tree_leaves_with_path({position: arg})]
    own = {var: name_of(path) for var, path in zip(jaxpr.invars, paths, strict=True)}
    reached: dict[Any, set[str]] = {var: {name} for var, name in own.items() if name}
    for equation in jaxpr.eqns:
        names = set().union(*(reached.get(var, set()) for var in equation.invars if not isinstance(var, Literal)))
        if names:
            reached |= dict.fromkeys(equation.outvars, names)
    results = [var for var in jaxpr.outvars if not isinstance(var, Literal)]
    for var, name in own.items():
        if name and var in results:
            results.remove(var)  # the State hands each on once; a metric that shows it is another matter
    return set().union(*(reached.get(var, set()) for var in results))


def _hparam(path: tuple[Any, ...], args: tuple[Any, ...]) -> str:
    """The name of the hyper-parameter at a path into the arguments, "" where there is something else."""
    position, *inner = path
    if hasattr(args[position.key], "hparams"):
        return inner[1].name if inner[0] == jax.tree_util.GetAttrKey("hparams") else ""
    return inner[0].name if len(inner) == 1 and isinstance(inner[0], jax.tree_util.GetAttrKey) else ""


def place_rows(rows: State, index: tuple[int, ...], hparams: HParams, cohort: Cohort, mesh: Mesh) -> tuple[State, State | None]:
    """States of a cohort's members, padded and placed, and of those it parks, taken from the rows of the cohort before.

    Args:
        rows: states `[rows, ...]`; run r's is `index[r]`.
        hparams: of all R runs; a member takes up its own where it was represented by another run.
    """
    members = cohort.padded(np.arange(len(index)), mesh).tolist()

    def take(runs: list[int]) -> Callable[[State, HParams], State]:
        def taken(rows: State, hparams: HParams) -> State:
            states = jax.tree.map(lambda x: x[np.array([index[run] for run in runs])], rows)
            return dataclasses.replace(states, hparams=jax.tree.map(lambda x: x[np.array(runs)], hparams))

        return taken

    states = jax.jit(take(members), out_shardings=NamedSharding(mesh, RUN))(rows, hparams)
    if not cohort.parked:
        return states, None
    parked = list(cohort.parked)
    return states, jax.jit(take(parked), out_shardings=sharding_of(len(parked), mesh))(rows, hparams)


def rows_of(states: State, parked: State | None, cohort: Cohort) -> State:
    """States `[M + D, ...]` of a cohort: its members without their padding, then those parked. For use inside a program."""
    count = len(cohort.members)
    if parked is None:
        return jax.tree.map(lambda x: jnp.copy(x[:count]), states)
    return jax.tree.map(lambda x, rest: jnp.concatenate([x[:count], rest]), states, parked)
