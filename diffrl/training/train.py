"""The trainer: one linear host program around compiled chunks. Read this first, then loop.py and chunk.py."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError, to_json, validate
from diffrl.data import columns
from diffrl.data.dataset import Source, build
from diffrl.data.environment import matched
from diffrl.data.load import load
from diffrl.logging.console import TrainingDisplay
from diffrl.registry import make
from diffrl.training import halving
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.cohort import Cohort, equal_runs, make_cohort, place_rows, rows_of
from diffrl.training.devices import RUN, is_primary, make_mesh, map_runs, place, sharding_of
from diffrl.training.loop import Population, Saver, SegmentLoop, segments
from diffrl.training.preemption import watch_signals
from diffrl.training.reporting import Reporter
from diffrl.training.runs import INIT, Runs, make_runs
from diffrl.training.slabs import open_rows, rows_per_slab
from diffrl.training.workdir import check_same, claimed, write_json
from diffrl.types import State


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        complete: False when a signal asked to stop; the state is saved, and calling again goes on.
        diverged: runs whose metrics stopped being finite.
    """

    complete: bool
    diverged: tuple[int, ...] = ()


def train(config: Config, workdir: Path, source: Source | None = None, evaluate: halving.MeanReturns | None = None) -> Outcome:
    """Train all runs of a config to the end, or until a signal asks to stop. Calling it again goes on where it stopped.

    Args:
        config: what to train.
        workdir: where everything goes.
        source: rows in memory (`data.arrays.from_arrays`) in place of those the config's dataset.id names.
        evaluate: asked by successive halving where its criterion is the episode return.

    Raises:
        ConfigError, DatasetError, WorkdirError, CheckpointError, DeviceError: with the reason and a remedy; but for a save that
            fails, before any training.
    """
    # ---------------------------------------------------------------- is there anything to do, and may we?
    if source is not None:
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, id=source.id))
    validate(config)
    runs = make_runs(config)
    workdir = Path(workdir).absolute()
    display = TrainingDisplay(runs.size, silent=not is_primary())
    if (workdir / "DONE").exists():
        check_same(workdir / "config.json", to_json(config))
        display.say(f"{workdir} is already trained to the end")
        return Outcome(True, tuple(json.loads((workdir / "DONE").read_text()).get("diverged", ())))

    # ---------------------------------------------------------------- data
    if source is None:
        source = load(config.dataset.id, download=config.dataset.download, env_id=config.dataset.env_id)
    source, unmatched = matched(source)
    dataset, spec, card = build(source, config.dataset)
    del source  # rows that go elsewhere must not stay in the host's memory too
    display.say(
        f"dataset {card.id}: {card.rows:,} rows, {card.episodes:,} episodes, "
        f"returns {card.return_min:.4g} … {card.return_mean:.4g} … {card.return_max:.4g}"
    )
    if unmatched:
        display.say(unmatched)
    if card.env_spec is None:
        display.say("the data name no environment, so the policies cannot be evaluated: dataset.env_id names one")

    # ---------------------------------------------------------------- the method: may it be trained so?
    try:
        algorithm = make(config.algorithm, spec)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    jax.config.update("jax_default_matmul_precision", None if config.precision == "default" else config.precision)
    mesh = make_mesh(runs.size, batch_devices=config.batch_devices)
    described = jax.eval_shape(lambda rows: columns.attach(rows, algorithm.columns), dataset)
    same = equal_runs(algorithm, runs, described)
    plan = segments(algorithm.stages, config.halving.rungs)
    ends = [max(segment.end for segment in plan if segment.index == i) for i in range(len(algorithm.stages))]
    halving.check(config, runs, same, ends, card.env_spec is not None and evaluate is not None)
    if config.halving.rungs and jax.process_count() > 1:
        raise ConfigError("halving.rungs takes one host: drop it, or --num_hosts")
    for stage in algorithm.stages:
        if stage.batch_size % config.batch_devices:
            raise ConfigError(f"batch_devices={config.batch_devices} does not divide {stage.name}'s batch of {stage.batch_size}")

    # ---------------------------------------------------------------- how far is it, in the directory it writes to?
    with claimed(workdir, config, spec, card):
        checkpoints = Checkpoints(workdir, write=True, max_to_keep=config.max_to_keep)
        steps = checkpoints.steps()
        step = steps[-1] if steps else 0
        metadata = checkpoints.metadata(step) if steps else {}
        diverged, dropped = ({int(run): at for run, at in metadata.get(kind, {}).items()} for kind in ("diverged", "dropped"))
        index = tuple(metadata.get("rows", range(runs.size)))

        # ---------------------------------------------------------------- data on all devices, whole or in slabs
        slab_rows = metadata.get("slab_rows", 0) if steps else rows_per_slab(config.dataset.slab_rows, described, mesh)
        if slab_rows:
            display.say(f"the data go to the devices in slabs of {slab_rows:,} rows; they are shuffled into {workdir} for that")
        data = open_rows(dataset, algorithm, slab_rows, mesh, workdir)
        del dataset

        # ---------------------------------------------------------------- restore everything, or start
        if steps:
            rows = checkpoints.restore_state(step, abstract_states(algorithm, runs, max(index) + 1, mesh))
            display.say(f"resuming at update {step:,}")
            population = None
        else:
            cohort = make_cohort(same[0], set())
            rows, population = None, Population(cohort, _fresh_states(algorithm, runs, cohort, mesh), None)
        save = Saver(checkpoints, algorithm, runs, mesh, {"slab_rows": slab_rows})
        report = Reporter(config, workdir, runs, display, step, diverged)

        # ---------------------------------------------------------------- segments, each a loop over chunks
        with watch_signals() as preemption, display, contextlib.closing(data):
            for segment in plan:
                if step >= segment.end:
                    continue
                if preemption.anywhere():
                    break
                if step == segment.begin and step in config.halving.rungs:
                    checkpoints.wait()
                    losers, why = halving.worst(config, workdir, runs, step, set(dropped), evaluate)
                    dropped |= dict.fromkeys(losers, step)
                    display.say(why)
                cohort = make_cohort(same[segment.index], set(dropped))
                if population is None or population.cohort != cohort:
                    if population is not None:
                        rows = jax.jit(rows_of, static_argnums=2)(*population[1:], population.cohort)
                        index = population.cohort.index
                    population = Population(cohort, *place_rows(rows, index, jax.device_get(runs.hparams), cohort, mesh))
                    rows = None
                loop = SegmentLoop(algorithm, segment, config, mesh, display, report, save, workdir, dropped)
                population, step = loop.run(population, step, runs.keys, data, preemption)
                if step < segment.end:
                    break
            checkpoints.close()
        report.close()

        # ---------------------------------------------------------------- end
        stopped = tuple(sorted(report.diverged.keys() - dropped.keys()))
        if step < plan[-1].end and len(stopped) + len(dropped) < runs.size:
            display.say(f"stopped by {preemption.signal} at update {step:,}; state saved, run the same command to go on")
            return Outcome(False, stopped)
        if is_primary():
            write_json(workdir / "DONE", {"step": step, "diverged": stopped})
        failed = f"; {len(stopped)} diverged" if stopped else ""
        display.say(f"done: {step:,} updates of {runs.size} runs in {workdir}{failed}")
        return Outcome(True, stopped)


def init_states(algorithm: Algorithm, runs: Runs) -> State:
    """Fresh states of all runs, `[R, ...]` per leaf."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys)
    return jax.jit(jax.vmap(algorithm.init))(keys, runs.hparams)


def abstract_states(algorithm: Algorithm, runs: Runs, rows: int, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of saved states `[rows, ...]`."""
    state = jax.eval_shape(algorithm.init, runs.keys[0], jax.tree.map(lambda x: x[0], runs.hparams))
    sharding = sharding_of(rows, mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype, sharding=sharding), state)


def _fresh_states(algorithm: Algorithm, runs: Runs, cohort: Cohort, mesh: Mesh) -> State:
    """Of the cohort's members, padded, each made on its own device."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys)
    args = place(jax.tree.map(lambda x: cohort.padded(x, mesh), (keys, runs.hparams)), mesh, RUN)
    return jax.jit(map_runs(jax.vmap(algorithm.init), mesh))(*args)
