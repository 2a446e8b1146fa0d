"""The chunks of a segment: dispatch, report, save. What train.py repeats for every stage, on data and by interaction alike."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from diffrl import records
from diffrl.algorithm import Algorithm, Stage
from diffrl.config import Config
from diffrl.logging.console import TrainingDisplay, duration
from diffrl.training.checkpoint import Checkpoints, Origin, Progress
from diffrl.training.cohort import Cohort, place_rows, rows_of
from diffrl.training.devices import fetch, is_primary, sharding_of
from diffrl.training.pace import Pace
from diffrl.training.preemption import Preemption
from diffrl.training.profiling import Profiler
from diffrl.training.reporting import Reporter, passes
from diffrl.training.runs import Runs
from diffrl.training.workdir import TIMINGS, Timing
from diffrl.types import Metrics, Policy, State

ONLINE = "online"  # the name of a training's part by interaction
RETURNS, ENDED = "_returns", "_ended"  # sums over a chunk: of the returns of episodes that ended in it, and of these episodes


class Segment(NamedTuple):
    """Steps `begin` … `end` of the whole training: all in one stage, with the same runs, and of the same program.

    Steps are counted through: first the updates on data, then the steps of a run's environments.

    Attributes:
        name: of the stage, or ONLINE.
        index: of the stage.
        start, total: the step at which the stage, or the interaction, started, and how many steps it has.
        turn: steps that are taken together, and what chunks are counted in: one update, or a decision in each environment.
        online: whether by interaction.
    """

    name: str
    index: int
    start: int
    total: int
    begin: int
    end: int
    turn: int = 1
    online: bool = False

    @property
    def unit(self) -> str:
        return "steps" if self.online else "updates"

    def turns(self, step: int) -> int:
        """How many lie before a step."""
        return (step - self.start) // self.turn


def segments(stages: tuple[Stage, ...], config: Config) -> list[Segment]:
    """Stages in order, cut where runs may be dropped, for a dataset; then the interaction, cut where learning begins."""
    found, start = [], 0
    if config.dataset.id:
        for index, stage in enumerate(stages):
            end = start + stage.num_updates
            cuts = [start, *(rung for rung in config.halving.rungs if start < rung < end), end]
            found += [Segment(stage.name, index, start, stage.num_updates, a, b) for a, b in itertools.pairwise(cuts)]
            start = end
    if config.online.env_id:
        turn, turns = config.online.turn, config.online.num_env_steps // config.online.turn
        warmup = config.online.warmup_steps // turn
        cuts = [start, *([start + warmup * turn] if 0 < warmup < turns else []), start + turns * turn]
        found += [Segment(ONLINE, 0, start, turns * turn, a, b, turn, True) for a, b in itertools.pairwise(cuts)]
    return found


class Population(NamedTuple):
    """The states of all runs: those of a cohort's members, padded and placed, and those parked."""

    cohort: Cohort
    states: State
    parked: State | None

    @classmethod
    def of_rows(cls, rows: State, index: tuple[int, ...], cohort: Cohort, runs: Runs, mesh: Mesh) -> "Population":
        """From saved states `[rows, ...]`, of which run r's is `index[r]`."""
        return cls(cohort, *place_rows(rows, index, jax.device_get(runs.hparams), cohort, mesh))

    def regrouped(self, cohort: Cohort, runs: Runs, mesh: Mesh) -> "Population":
        """The same states as another cohort holds them."""
        if cohort == self.cohort:
            return self
        rows = jax.jit(rows_of, static_argnums=2)(self.states, self.parked, self.cohort)
        return Population.of_rows(rows, self.cohort.index, cohort, runs, mesh)


class Saver:
    """Saves a population. Chunks donate their state, so the checkpointer gets a copy.

    States are saved once for runs that are still the same, policies for every run: the evaluator need not know.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        algorithm: Algorithm,
        runs: Runs,
        mesh: Mesh,
        slab_rows: int = 0,
        init_from: Origin | None = None,
    ) -> None:
        self.checkpoints, self.algorithm, self.runs, self.mesh = checkpoints, algorithm, runs, mesh
        self.slab_rows, self.init_from = slab_rows, init_from
        self.snapshots: dict[Cohort, Any] = {}

    def __call__(self, population: Population, progress: Progress, beside: Any = None) -> None:
        """`beside` is a tree `[R, ...]`, padded, that is saved with the states: the environments of an interaction."""
        cohort = population.cohort
        if cohort not in self.snapshots:
            self.snapshots[cohort] = self._snapshot(cohort)
        rows, policies = self.snapshots[cohort](population.states, population.parked, beside)
        known = {"rows": tuple(cohort.index), "slab_rows": self.slab_rows, "init_from": self.init_from}
        self.checkpoints.save(rows, policies, dataclasses.replace(progress, **known))

    def _snapshot(self, cohort: Cohort) -> Any:
        index, hparams = np.array(cohort.index), jax.device_get(self.runs.hparams)

        def snapshot(states: State, parked: State | None, beside: Any) -> tuple[Any, Policy]:
            rows = rows_of(states, parked, cohort)
            of_runs = dataclasses.replace(jax.tree.map(lambda x: x[index], rows), hparams=hparams)
            policies = jax.vmap(self.algorithm.policy)(of_runs)
            return rows if beside is None else (rows, rows_of(beside, None, cohort)), policies

        shardings = sharding_of(cohort.rows, self.mesh), sharding_of(self.runs.size, self.mesh)
        return jax.jit(snapshot, out_shardings=shardings)


class Programs:
    """Compiled programs by what they depend on; `seconds` is what tracing and compiling them took."""

    def __init__(self) -> None:
        self.lowered: dict[Any, Any] = {}
        self.compiled: dict[Any, Any] = {}
        self.seconds = 0.0

    def __call__(self, key: tuple, make: Callable[..., Any], *args: Any) -> Any:
        """Run the program of this key; the first time `make(*key)`, a function under `jit`, is compiled for these arguments."""
        if (make, key) not in self.compiled:
            lowered = self._lower(key, make, *args)
            began = time.monotonic()
            self.compiled[make, key] = lowered.compile()
            self.seconds += time.monotonic() - began
            self.lowered.clear()
        return self.compiled[make, key](*args)

    def flops(self, key: tuple, make: Callable[..., Any], *args: Any) -> float:
        """Arithmetic of the program of this key as XLA counts it, which is one pass of each of its loops; nothing is compiled."""
        return (self._lower(key, make, *args).cost_analysis() or {}).get("flops", 0.0)

    def _lower(self, key: tuple, make: Callable[..., Any], *args: Any) -> Any:
        if (make, key) not in self.lowered:
            began = time.monotonic()
            self.lowered[make, key] = make(*key).lower(*args)
            self.seconds += time.monotonic() - began
        return self.lowered[make, key]


@runtime_checkable
class Phase(Protocol):
    """Holds the states of a segment's runs and moves them on: `OfflinePhase`, `OnlinePhase`."""

    @property
    def programs(self) -> Programs:
        """What was compiled."""
        ...

    @property
    def population(self) -> Population:
        """All runs, as they are now."""
        ...

    def advance(self, step: int, turns: int) -> Metrics:
        """Dispatch so many turns from a step on; metrics `[M, ...]` are those of the cohort's members, padded.

        They are means over the turns, but for names that begin with "_", which are sums (see `means`).
        """
        ...

    def pace(self, step: int, per_chunk: int, most: int) -> Pace:
        """How many turns to dispatch at a time from a step on; the first dispatch has at most `most`."""
        ...

    def save(self, progress: Progress) -> None:
        """Start saving a checkpoint; the runs' rows in it are added."""
        ...


class Piece(NamedTuple):
    """What was dispatched at once: `turns` turns up to `step`, the end of a chunk or not; when, and how long that took."""

    step: int
    turns: int
    metrics: Metrics
    whole: bool
    dispatched: float
    dispatching: float


def means(pieces: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Metrics of a chunk from those of its pieces, each with its number of turns.

    `episode_return` is made here of its sums, since it is of no number where no episode ended: a NaN that is meant.
    """
    turns = sum(count for count, _ in pieces)
    metrics = pieces[0][1]
    if len(pieces) > 1:
        # In float64: the share of finite updates must be 1 where all were, whatever the pieces.
        counts = np.array([count for count, _ in pieces], np.float64)[:, None]
        stacked = {name: np.stack([found[name] for _, found in pieces]) for name in metrics}
        metrics = {
            name: (values.sum(axis=0) if name.startswith("_") else (counts * values).sum(axis=0) / turns).astype(np.float32)
            for name, values in stacked.items()
        }
    found = {name: value for name, value in metrics.items() if not name.startswith("_")}
    if ENDED in metrics:
        ended = metrics[ENDED]
        found["episode_return"] = np.where(ended > 0, metrics[RETURNS] / np.maximum(ended, 1.0), np.nan)
    return found


class Loop:
    """The chunks of one segment after another."""

    def __init__(
        self,
        config: Config,
        num_stages: int,
        mesh: Mesh,
        display: TrainingDisplay,
        report: Reporter,
        workdir: Path,
        preemption: Preemption,
        dropped: dict[int, int],
        profiler: Profiler | None = None,
    ) -> None:
        self.config, self.num_stages, self.mesh, self.display, self.report = config, num_stages, mesh, display, report
        self.workdir, self.preemption, self.dropped, self.profiler = workdir, preemption, dropped, profiler

    def run(self, segment: Segment, phase: Phase, step: int) -> int:
        """From `step` to the segment's end, the first signal, or the divergence of all runs; returns the step reached."""
        self.segment, self.phase = segment, phase
        per_chunk, every = self.config.updates_per_chunk, self.config.checkpoint_every
        cohort = phase.population.cohort
        self.standing = cohort.standing()
        self.member = np.array([cohort.index[run] for run in self.standing])
        self.display.start(segment.name, step - segment.start, segment.total, segment.unit)
        first, began, compiling, self.fetched = step, time.monotonic(), phase.programs.seconds, 0.0
        pending: Piece | None = None
        profiler = self.profiler if is_primary() else None
        self.pieces: list[tuple[int, dict[str, np.ndarray]]] = []
        with jax.transfer_guard("disallow"):
            done, all_turns = segment.turns(step), segment.turns(segment.end)
            pace = self.pace = phase.pace(step, per_chunk, min(per_chunk - done % per_chunk, all_turns - done))
            while step < segment.end and not self.preemption.anywhere() and not self._all_diverged():
                done = segment.turns(step)
                turns = min(pace.turns, per_chunk - done % per_chunk, all_turns - done)
                before = self._clock()
                if profiler is None or step == first:
                    metrics = phase.advance(step, turns)
                    dispatched = self._clock()
                else:
                    metrics, profiler = self._traced(profiler, step, turns), None
                    before = dispatched = self._clock()  # a trace's own time says nothing of the pace
                # The device works on this piece while the host fetches and reports the one before.
                self._fetch(pending)
                step += turns * segment.turn
                done += turns
                whole = step == segment.end or done % per_chunk == 0
                pending = Piece(step, turns, metrics, whole, dispatched, dispatched - before)
                if whole and (step == segment.end or passes(done, (done - 1) % per_chunk + 1, every)):
                    pending = self._commit(pending)
            self._commit(pending)
        if profiler is not None and step > first:
            self.display.say(f"no trace of {segment.name}, which was one dispatch: a smaller config.updates_per_chunk makes more")
        jax.block_until_ready(phase.population.states)
        if step > first and is_primary():
            compiling = phase.programs.seconds - compiling
            self._time(first, step, compiling, time.monotonic() - began - compiling, len(cohort.members))
        return step

    def _traced(self, profiler: Profiler, step: int, turns: int) -> Metrics:
        """One dispatch alone on the device, traced."""
        jax.block_until_ready(self.phase.population.states)
        with profiler.trace(self.segment.name) as path:
            metrics = jax.block_until_ready(self.phase.advance(step, turns))
        count = f"{turns * self.segment.turn:,} {self.segment.unit}"
        self.display.say(f"a trace of {count} of {self.segment.name} is in {path}: open it at ui.perfetto.dev")
        return metrics

    def _clock(self) -> float:
        """Seconds that pass, but for those of compiling."""
        return time.monotonic() - self.phase.programs.seconds

    def _all_diverged(self) -> bool:
        """Whether no run is left to train."""
        return all(run in self.report.diverged for run in self.standing)

    def _commit(self, pending: "Piece | None") -> None:
        """Metrics, then the checkpoint: what it lets a resumed run skip must be on disk already."""
        if pending is not None:
            self._fetch(pending._replace(whole=True))
            segment, stopped = self.segment, (dict(self.report.diverged), dict(self.dropped))
            self.phase.save(Progress(pending.step, segment.name, segment.index, self.num_stages, (), *stopped))

    def _fetch(self, piece: "Piece | None") -> None:
        """Wait for a piece; where it is its chunk's last, report metrics of all runs that stand.

        Equal runs have those of the one that is trained for them.
        """
        if piece is None:
            return
        found = {name: np.asarray(value)[self.member] for name, value in fetch(piece.metrics, self.mesh).items()}
        now = self._clock()
        # Where the host steps a simulator the work is done by the end of its dispatch, and what passed since was the next one's.
        waited = 0.0 if self.pace.any_length else now - max(piece.dispatched, self.fetched)
        self.pace.measured(piece.turns, max(piece.dispatching, waited))
        self.fetched = now
        self.pieces.append((piece.turns, found))
        if piece.whole:
            metrics = means(self.pieces)
            self.pieces = []
            self.report(piece.step, self.segment.name, metrics, self.standing)
            self.display.advance(piece.step - self.segment.start, metrics)

    def _time(self, first: int, step: int, compiling: float, seconds: float, distinct: int) -> None:
        name, unit = self.segment.name, self.segment.unit
        rate = round((step - first) / seconds, 3)
        timing = Timing(name, unit, first, step, len(self.standing), distinct, round(compiling, 3), round(seconds, 3), rate)
        records.append(self.workdir / TIMINGS, timing, self.workdir)
        trained = f"{distinct} different of {len(self.standing)}" if distinct < len(self.standing) else f"{distinct}"
        self.display.say(
            f"{name}: {step - first:,} {unit} of {trained} runs in {duration(seconds)}, compiled in {compiling:.1f}s"
        )
