"""The trainer: one linear host program around compiled chunks. Read this first, then loop.py and chunk.py.

Batches come from a dataset, from the runs' own interaction with an environment (`online/`), or first from the one and then from
both; each is a phase that the same loop moves on.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from diffrl import files, records
from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError, validate
from diffrl.data import columns
from diffrl.data.build import build
from diffrl.data.dataset import Source
from diffrl.data.environment import matched
from diffrl.logging.console import TrainingDisplay
from diffrl.registry import make
from diffrl.training import halving, init_from
from diffrl.training.checkpoint import Checkpoints, Progress
from diffrl.training.cohort import Cohort, equal_runs, make_cohort
from diffrl.training.devices import RUN, is_primary, make_mesh, map_runs, padded_size, place
from diffrl.training.in_words import in_words
from diffrl.training.loop import Loop, Population, Saver, segments
from diffrl.training.offline import OfflinePhase, forecast_prepared
from diffrl.training.online.environment import opened, stage_of
from diffrl.training.online.phase import OnlinePhase, abstract_environments
from diffrl.training.preemption import watch_signals
from diffrl.training.profiling import Profiler
from diffrl.training.reporting import Reporter
from diffrl.training.runs import INIT, Runs, abstract_states, make_runs
from diffrl.training.slabs import open_rows, rows_per_slab
from diffrl.training.workdir import Done, check_same, claimed
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


def train(
    config: Config,
    workdir: Path,
    source: Source | None = None,
    evaluate: halving.MeanReturns | None = None,
    profiler: Profiler | None = None,
) -> Outcome:
    """Train all runs of a config to the end, or until a signal asks to stop. Calling it again goes on where it stopped.

    Resuming is exact; but a host simulator's state is not saved: there the episodes under way are given up, and everything else
    is as it was.

    Args:
        config: what to train.
        workdir: where everything goes.
        source: rows in memory (`data.arrays.from_arrays`) in place of those the config's dataset.id names.
        evaluate: asked by successive halving where its criterion is the episode return.
        profiler: traces a dispatch of every stage.

    Raises:
        ConfigError, DatasetError, BackendError, WorkdirError, CheckpointError, ReplayError, DeviceError: with the reason and a
            remedy; but for a save that fails, before any training.
    """
    # ---------------------------------------------------------------- is there anything to do, and may we?
    if source is not None:
        if config.dataset.mix:
            raise ConfigError("dataset.mix is of data by name, and rows in memory were given: mix them by data.mix.mixed")
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, id=source.id))
    validate(config)
    runs, online = make_runs(config), config.online
    workdir = files.directory(workdir).absolute()
    display = TrainingDisplay(runs.size, silent=not is_primary())
    if (workdir / "DONE").exists():
        check_same(workdir / "config.json", config)
        ended = records.read(workdir / "DONE", Done, "delete it, and the same command goes on from the last checkpoint")
        display.say(f"{workdir} is already trained to the end")
        return Outcome(True, ended.diverged)
    if online.env_id and (jax.process_count() > 1 or config.batch_devices > 1):
        raise ConfigError("training by interaction takes one host and one device for each run: drop batch_devices or --num_hosts")
    if config.halving.rungs and jax.process_count() > 1:
        raise ConfigError("halving.rungs takes one host: drop it, or --num_hosts")

    with contextlib.ExitStack() as stack:
        # ---------------------------------------------------------------- what is learnt from: data, an environment, or both
        dataset = spec = card = world = None
        if config.dataset.id:
            if source is None:
                source = config.dataset.source()
            source, unmatched = matched(source)
            dataset, spec, card = build(source, config.dataset)
            del source  # rows that go elsewhere must not stay in the host's memory too
            if unmatched:
                display.say(unmatched)
            returns = f"returns {card.return_min:.4g} … {card.return_mean:.4g} … {card.return_max:.4g}"
            returns = returns if card.has_returns else "no rewards"
            display.say(f"dataset {card.id}: {card.rows:,} rows, {card.episodes:,} episodes, {returns}")
            display.say(in_words(config.dataset, spec, card))
        mesh = make_mesh(runs.size, batch_devices=config.batch_devices)
        if online.env_id:
            world = stack.enter_context(opened(online, padded_size(runs.size, mesh) * online.num_envs, spec, card))
            spec, card = world.spec, world.card
            display.say(f"environment {online.env_id}: {world.simulator}; episodes of {world.envs.max_episode_steps} steps")
        assert spec is not None
        assert card is not None
        if card.env_spec is None:
            display.say("the data name no environment, so the policies cannot be evaluated: dataset.env_id names one")

        # ---------------------------------------------------------------- the method: may it be trained so?
        try:
            algorithm = make(config.algorithm, spec, config.action_chunk)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if world is not None:
            stage_of(algorithm)
        for stage in algorithm.stages:
            if stage.batch_size % config.batch_devices:
                raise ConfigError(
                    f"batch_devices={config.batch_devices} does not divide {stage.name}'s batch of {stage.batch_size}"
                )
        jax.config.update("jax_default_matmul_precision", config.matmul_precision)
        plan, unit = segments(algorithm.stages, config), "update" if world is None else "step"
        all_different = list(range(runs.size))
        same, described = [all_different], dataset
        if dataset is not None:
            described = jax.eval_shape(lambda rows: columns.attach(rows, algorithm.columns), dataset)
            if described.columns:
                display.say(f"columns derived from the rows: {', '.join(described.columns)}")
            for what in forecast_prepared(algorithm, described, runs, mesh):
                display.say(what)
            same = equal_runs(algorithm, runs, described)
            ends = [max(segment.end for segment in plan if segment.index == i) for i in range(len(algorithm.stages))]
            halving.check(config, runs, same, ends, card.env_spec is not None and evaluate is not None)

        given = init_from.read(config, spec, algorithm, runs, mesh, workdir)

        # ---------------------------------------------------------------- how far is it, in the directory it writes to?
        stack.enter_context(claimed(workdir, config, spec, card))
        checkpoints = Checkpoints(workdir, write=True, max_to_keep=config.max_to_keep)
        steps = checkpoints.steps()
        step = steps[-1] if steps else 0
        saved = checkpoints.progress(step) if steps else Progress(0, "", 0, len(algorithm.stages))
        diverged, dropped = dict(saved.diverged), dict(saved.dropped)

        # ---------------------------------------------------------------- data on all devices, whole or in slabs
        data, slab_rows = None, 0
        if dataset is not None and described is not None:
            slab_rows = saved.slab_rows if steps else rows_per_slab(config.dataset.slab_rows, described, mesh)
            if slab_rows and world is not None:
                raise ConfigError(
                    f"interaction needs all the data on the device, and here they would come in slabs of {slab_rows:,} rows: use "
                    f"fewer rows, or --config.dataset.slab_rows={dataset.size}"
                )
            if slab_rows:
                display.say(
                    f"the data go to the devices in slabs of {slab_rows:,} rows; they are shuffled into {workdir} for that"
                )
            data = stack.enter_context(contextlib.closing(open_rows(dataset, algorithm, slab_rows, mesh, workdir)))
            del dataset

        # ---------------------------------------------------------------- restore everything, or start
        population = rows = environments = None
        index: tuple[int, ...] = ()
        if not steps:
            cohort = make_cohort(same[0], set())
            states = _fresh_states(algorithm, runs, cohort, mesh)
            if given is not None:
                states = given.into(states, cohort, mesh)
                display.say(f"starting from {', '.join(given.fields)} of {given.origin.workdir}, update {given.origin.step:,}")
            population = Population(cohort, states, None)
        else:
            index = checkpoints.rows(step, runs.size)
            shapes = abstract_states(algorithm, runs, max(index) + 1, mesh)
            if world is not None and world.on_device and step > plan[-1].start:
                both = shapes, abstract_environments(algorithm, world, online, shapes, runs, mesh)
                rows, environments = checkpoints.restore_state(step, both)
            else:
                rows = checkpoints.restore_state(step, shapes)
            display.say(f"resuming at {unit} {step:,}")
        save = Saver(checkpoints, algorithm, runs, mesh, slab_rows, saved.init_from if given is None else given.origin)
        del given
        report = Reporter(config, workdir, runs, display, step, diverged)

        # ---------------------------------------------------------------- segments, each a loop over chunks
        with watch_signals() as preemption, display, contextlib.closing(report):
            loop = Loop(config, len(algorithm.stages), mesh, display, report, workdir, preemption, dropped, profiler)
            phase = None
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
                cohort = make_cohort(all_different if segment.online else same[segment.index], set(dropped))
                if population is None:
                    population = Population.of_rows(rows, index, cohort, runs, mesh)
                population, rows = population.regrouped(cohort, runs, mesh), None
                if data is not None and not segment.online:
                    phase = None  # with what it prepared
                    phase = OfflinePhase(algorithm, segment, step, config, runs, population, report.diverged, data, mesh, save)
                elif world is not None and not isinstance(phase, OnlinePhase):
                    before = None if data is None else data.at(0)
                    going_on = population, environments, report.diverged, before
                    phase = OnlinePhase(algorithm, segment, step, config, world, runs, *going_on, mesh, save, workdir)
                assert phase is not None
                step = loop.run(segment, phase, step)
                population = phase.population
                if step < segment.end:
                    break
            checkpoints.close()

        # ---------------------------------------------------------------- end
        stopped = tuple(sorted(report.diverged.keys() - dropped.keys()))
        if step < plan[-1].end and len(stopped) + len(dropped) < runs.size:
            display.say(f"stopped by {preemption.signal} at {unit} {step:,}; state saved, run the same command to go on")
            return Outcome(False, stopped)
        if is_primary():
            interacted = 0 if world is None else max(step - plan[-1].start, 0)
            records.write(workdir / "DONE", Done(step, stopped, interacted))
        failed = f"; {len(stopped)} diverged" if stopped else ""
        display.say(f"done: {step:,} {unit}s of {runs.size} runs in {workdir}{failed}")
        return Outcome(True, stopped)


def init_states(algorithm: Algorithm, runs: Runs) -> State:
    """Fresh states of all runs, `[R, ...]` per leaf."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys)
    return _once(jax.vmap(algorithm.init))(keys, runs.hparams)


def _fresh_states(algorithm: Algorithm, runs: Runs, cohort: Cohort, mesh: Mesh) -> State:
    """Of the cohort's members, padded, each made on its own device."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys)
    args = place(jax.tree.map(lambda x: cohort.padded(x, mesh), (keys, runs.hparams)), mesh, RUN)
    return _once(map_runs(jax.vmap(algorithm.init), mesh))(*args)


def _once(function: Callable[..., State]) -> Callable[..., State]:
    """Compiled for a single call. On a CPU that costs more than the call: of SRPO's start 15 s of processor time, so 3."""
    cheap = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=cheap if jax.default_backend() == "cpu" else None)
