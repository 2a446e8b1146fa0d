"""The chunks of a stage: dispatch, report, save. What train.py repeats for every stage."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import Config
from diffrl.logging.console import TrainingDisplay, duration
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.chunk import make_chunk, make_prepare
from diffrl.training.cohort import Cohort, rows_of
from diffrl.training.devices import RUN, SHARED, fetch, is_primary, place, sharding_of
from diffrl.training.preemption import Preemption
from diffrl.training.reporting import Reporter, passes
from diffrl.training.runs import Runs
from diffrl.training.slabs import Slabs, Whole
from diffrl.training.workdir import append_json
from diffrl.types import Metrics, Policy, State


class Segment(NamedTuple):
    """Updates `begin` … `end` of the whole training, all in one stage and with the same runs.

    Attributes:
        index: of the stage.
        start: the update at which the stage started.
    """

    index: int
    start: int
    begin: int
    end: int


def segments(stages: tuple[Stage, ...], rungs: tuple[int, ...]) -> list[Segment]:
    """Stages in order, cut where runs may be dropped."""
    found, start = [], 0
    for index, stage in enumerate(stages):
        end = start + stage.num_updates
        cuts = [start, *(rung for rung in rungs if start < rung < end), end]
        found += [Segment(index, start, a, b) for a, b in itertools.pairwise(cuts)]
        start = end
    return found


class Population(NamedTuple):
    """The states of all runs: those of a cohort's members, padded and placed, and those parked."""

    cohort: Cohort
    states: State
    parked: State | None


class Saver:
    """Saves a population. Chunks donate their state, so the checkpointer gets a copy.

    States are saved once for runs that are still the same, policies for every run: the evaluator need not know.
    """

    def __init__(
        self, checkpoints: Checkpoints, algorithm: Algorithm, runs: Runs, mesh: Mesh, metadata: dict[str, Any] | None = None
    ) -> None:
        self.checkpoints, self.algorithm, self.runs, self.mesh = checkpoints, algorithm, runs, mesh
        self.metadata = metadata or {}
        self.snapshots: dict[Cohort, Any] = {}

    def __call__(self, step: int, population: Population, metadata: dict[str, Any]) -> None:
        cohort = population.cohort
        if cohort not in self.snapshots:
            self.snapshots[cohort] = self._snapshot(cohort)
        rows, policies = self.snapshots[cohort](population.states, population.parked)
        self.checkpoints.save(step, rows, policies, {"step": step, "rows": list(cohort.index), **self.metadata, **metadata})

    def _snapshot(self, cohort: Cohort) -> Any:
        index, hparams = np.array(cohort.index), jax.device_get(self.runs.hparams)

        def snapshot(states: State, parked: State | None) -> tuple[State, Policy]:
            rows = rows_of(states, parked, cohort)
            of_runs = dataclasses.replace(jax.tree.map(lambda x: x[index], rows), hparams=hparams)
            return rows, jax.vmap(self.algorithm.policy)(of_runs)

        shardings = sharding_of(cohort.rows, self.mesh), sharding_of(self.runs.size, self.mesh)
        return jax.jit(snapshot, out_shardings=shardings)


class SegmentLoop:
    """The chunks of one segment."""

    def __init__(
        self,
        algorithm: Algorithm,
        segment: Segment,
        config: Config,
        mesh: Mesh,
        display: TrainingDisplay,
        report: Reporter,
        save: Saver,
        workdir: Path,
        dropped: dict[int, int],
    ) -> None:
        self.stage, self.segment = algorithm.stages[segment.index], segment
        self.config, self.mesh, self.display, self.report, self.save = config, mesh, display, report, save
        self.metadata = {"stage": self.stage.name, "stage_index": segment.index, "num_stages": len(algorithm.stages)}
        self.timings, self.dropped = workdir / "metrics" / "timings.jsonl", dropped

    def run(
        self, population: Population, step: int, keys: Array, data: Whole | Slabs, preemption: Preemption
    ) -> tuple[Population, int]:
        """From update `step` to the segment's end, the first signal, or the divergence of all runs.

        Args:
            keys: of all R runs.
            data: that the stage's batches are drawn from.

        Returns:
            the population and the step reached.
        """
        stage, start, end, per_chunk = self.stage, self.segment.start, self.segment.end, self.config.updates_per_chunk
        cohort, states = population.cohort, population.states
        self.standing = cohort.standing()
        self.member = np.array([cohort.index[run] for run in self.standing])
        diverged = np.array([run in self.report.diverged for run in range(len(cohort.index))])
        alive = place(cohort.padded(~diverged, self.mesh), self.mesh, RUN)
        keys = place(cohort.padded(keys, self.mesh), self.mesh, RUN)
        self.display.start(stage.name, step - start, stage.num_updates)
        began, first = time.monotonic(), step
        data.begin(stage, per_chunk)
        prepared = make_prepare(stage, self.mesh)(states, keys, data.at(step - start))
        chunks: dict[int, Any] = {}
        pending: tuple[int, Metrics] | None = None
        with jax.transfer_guard("disallow"):
            while step < end and not preemption.anywhere() and not self.all_diverged():
                rows, count = data.at(step - start), place(np.int32(step), self.mesh, SHARED)
                length = min(per_chunk - (step - start) % per_chunk, end - step)
                if length not in chunks:
                    chunk = make_chunk(stage, length, self.mesh)
                    chunks[length] = chunk.lower(states, alive, keys, prepared, rows, count).compile()
                    if len(chunks) == 1:
                        compiled = time.monotonic()
                states, alive, metrics = chunks[length](states, alive, keys, prepared, rows, count)
                # The device works on this chunk while the host reports the one before.
                self._report(pending)
                step += length
                pending = (step, metrics)
                if step == end or passes(step - start, length, self.config.checkpoint_every):
                    pending = self._commit(pending, population._replace(states=states))
            population = population._replace(states=states)
            self._commit(pending, population)
        jax.block_until_ready(states)
        if step > first and is_primary():
            self._time(first, step, compiled - began, time.monotonic() - compiled, len(cohort.members))
        return population, step

    def all_diverged(self) -> bool:
        """Whether no run is left to train."""
        return all(run in self.report.diverged for run in self.standing)

    def _commit(self, pending: tuple[int, Metrics] | None, population: Population) -> None:
        """Metrics, then the checkpoint: what it lets a resumed run skip must be on disk already."""
        if pending is not None:
            self._report(pending)
            stopped = {"diverged": self.report.diverged, "dropped": self.dropped}
            named = {kind: {str(run): step for run, step in runs.items()} for kind, runs in stopped.items()}
            self.save(pending[0], population, self.metadata | named)

    def _report(self, pending: tuple[int, Metrics] | None) -> None:
        """Metrics of all runs that stand: equal runs have those of the one that is trained for them."""
        if pending is not None:
            step, device_metrics = pending
            metrics = {name: np.asarray(value)[self.member] for name, value in fetch(device_metrics, self.mesh).items()}
            self.report(step, self.stage.name, metrics, self.standing)
            self.display.advance(step - self.segment.start, metrics)

    def _time(self, first: int, step: int, compiling: float, seconds: float, distinct: int) -> None:
        append_json(
            self.timings,
            {
                "stage": self.stage.name,
                "from": first,
                "to": step,
                "runs": len(self.standing),
                "distinct_runs": distinct,
                "compile_seconds": round(compiling, 3),
                "seconds": round(seconds, 3),
                "updates_per_second": round((step - first) / seconds, 3),
            },
        )
        trained = f"{distinct} different of {len(self.standing)}" if distinct < len(self.standing) else f"{distinct}"
        self.display.say(
            f"{self.stage.name}: {step - first:,} updates of {trained} runs in {duration(seconds)}, compiled in {compiling:.1f}s"
        )
