"""Starting from what another training made (`config.init_from`): a behaviour model, critics, any fields of its State."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from diffrl import config as configs
from diffrl import records
from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError
from diffrl.registry import make
from diffrl.training.checkpoint import Checkpoints, Origin
from diffrl.training.cohort import Cohort
from diffrl.training.devices import RUN
from diffrl.training.runs import Runs, abstract_states, make_runs
from diffrl.training.workdir import LOST, check_precision
from diffrl.types import Spec, State

OWN = ("step", "hparams")  # of the runs that start, whatever they start from
UNITS = ("observation_mean", "observation_std", "action_low", "action_high")


class Given(NamedTuple):
    """What runs start with.

    Attributes:
        fields: of the State, by name, `[rows, ...]`.
        rows: of each run, its row in them.
        origin: where they are from.
    """

    fields: dict[str, Any]
    rows: tuple[int, ...]
    origin: Origin

    def into(self, states: State, cohort: Cohort, mesh: Mesh) -> State:
        """Fresh states of a cohort's members, padded, with these fields."""
        index = np.array([self.rows[run] for run in cohort.padded(np.arange(len(self.rows)), mesh)])
        taken = jax.jit(lambda fields: jax.tree.map(lambda x: x[index], fields), out_shardings=NamedSharding(mesh, RUN))
        return dataclasses.replace(states, **taken(self.fields))


def read(config: Config, spec: Spec, algorithm: Algorithm, runs: Runs, mesh: Mesh, workdir: Path) -> Given | None:
    """The fields that `config.init_from` names; None where it names none, or where the workdir holds a checkpoint to go on from.

    A run starts from the run of its own seed there, or from the only one: so runs that are still the same stay so.

    Raises:
        ConfigError: there is no such training, field or run, or a field's shapes or the units of the data are others there.
        CheckpointError: its checkpoint is missing or damaged.
    """
    asked, there = config.init_from, Path(config.init_from.workdir).expanduser().absolute()
    if not asked.workdir or ((workdir / "checkpoints").is_dir() and Checkpoints(workdir).steps()):
        return None
    other = configs.load(there)
    if other.online.env_id:
        raise ConfigError(f"init_from.workdir: {there} was trained by interaction: take a training on a dataset")
    other_spec = records.read(there / "spec.json", Spec, LOST)
    check_precision(there)
    for name in UNITS:
        if getattr(spec, name) != getattr(other_spec, name):
            raise ConfigError(
                f"init_from.workdir: {name} of the data is another in {there}, so its networks expect other numbers: train "
                "both on the same data, or without standardize_observations"
            )
    other_algorithm, other_runs = make(other.algorithm, other_spec, other.action_chunk), make_runs(other)
    check_fields(asked.fields, _state(other_algorithm, other_runs), _state(algorithm, runs), there)
    matched = match(other_runs.seeds, runs.seeds, there)

    checkpoints = Checkpoints(there)
    step = asked.step or checkpoints.steps()[-1]
    index = checkpoints.rows(step, other_runs.size)
    state = checkpoints.restore_state(step, abstract_states(other_algorithm, other_runs, max(index) + 1, mesh))
    origin = Origin(str(there), step, asked.fields)
    return Given({name: getattr(state, name) for name in asked.fields}, tuple(index[run] for run in matched), origin)


def match(theirs: list[int], ours: list[int], there: Path) -> list[int]:
    """For each run the one it starts from: the one of its seed, or the only one.

    Args:
        theirs, ours: seeds of all runs.

    Raises:
        ConfigError: there is none, or several.
    """
    if len(theirs) == 1:
        return [0] * len(ours)
    if len(set(theirs)) < len(theirs):
        raise ConfigError(f"init_from.workdir: {there} is a sweep, with several runs of a seed: take a training of one point")
    missing = sorted(set(ours) - set(theirs))
    if missing:
        raise ConfigError(
            f"init_from.workdir: {there} has no run of seed {missing[0]}: it has {min(theirs)} … {max(theirs)}, "
            "which num_seeds and first_seed must not leave"
        )
    return [theirs.index(seed) for seed in ours]


def check_fields(names: tuple[str, ...], theirs: State, ours: State, there: Path) -> None:
    """That fields of one State fit into another.

    Args:
        theirs, ours: shapes of one run's.

    Raises:
        ConfigError: names the field, and both shapes.
    """
    for name in names:
        if name in OWN:
            raise ConfigError(f"init_from.fields: {name!r} is each run's own; name networks")
        for state, where in ((theirs, f"in {there}"), (ours, "here")):
            known = [field.name for field in dataclasses.fields(state) if field.name not in OWN]
            if name not in known:
                raise ConfigError(f"init_from.fields: no {name!r} {where}, where the State has {', '.join(known)}")
        theirs_at, ours_at = _shapes(getattr(theirs, name)), _shapes(getattr(ours, name))
        for path in theirs_at | ours_at:
            if theirs_at.get(path) != ours_at.get(path):
                raise ConfigError(
                    f"init_from.fields: {name}{path} is {theirs_at.get(path, 'missing')} in {there} and "
                    f"{ours_at.get(path, 'missing')} here: use the settings of that network that config.json there has"
                )


def _shapes(tree: Any) -> dict[str, str]:
    """Type and shape of every array, as text, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _state(algorithm: Algorithm, runs: Runs) -> State:
    return jax.eval_shape(algorithm.init, runs.keys[0], jax.tree.map(lambda x: x[0], runs.hparams))
