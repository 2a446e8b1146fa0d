"""The trainer: one linear host loop around compiled chunks. Read this first, then chunk.py."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError, to_json, validate
from diffrl.data import columns
from diffrl.data.dataset import Dataset, Source, build
from diffrl.data.load import load
from diffrl.logging.console import TrainingDisplay, duration
from diffrl.registry import make
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.chunk import make_chunk, make_prepare
from diffrl.training.devices import RUN, SHARED, make_mesh, pad, padded_size, place
from diffrl.training.preemption import Preemption, watch_signals
from diffrl.training.reporting import Reporter, passes
from diffrl.training.runs import INIT, Runs, make_runs
from diffrl.training.workdir import append_json, check_same, claim, write_json
from diffrl.types import Metrics, Policy, State


def train(config: Config, workdir: Path, source: Source | None = None) -> bool:
    """Train all runs of a config to the end, or until a signal asks to stop. Calling it again goes on where it stopped.

    Args:
        config: what to train.
        workdir: where everything goes.
        source: rows in memory (`data.arrays.from_arrays`) in place of those the config's dataset.id names.

    Returns:
        True when training is complete, False when it was preempted (state saved).

    Raises:
        ConfigError, DatasetError, WorkdirError, CheckpointError: before any training, with the reason and a remedy.
    """
    # ---------------------------------------------------------------- is there anything to do, and may we?
    if source is not None:
        config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, id=source.id))
    validate(config)
    runs = make_runs(config)
    workdir = Path(workdir).absolute()
    display = TrainingDisplay(runs.size)
    if (workdir / "DONE").exists():
        check_same(workdir / "config.json", to_json(config))
        display.say(f"{workdir} is already trained to the end")
        return True

    # ---------------------------------------------------------------- data
    if source is None:
        source = load(config.dataset.id, download=config.dataset.download, env_id=config.dataset.env_id)
    dataset, spec, card = build(source, config.dataset)
    display.say(
        f"dataset {card.id}: {card.rows:,} rows, {card.episodes:,} episodes, "
        f"returns {card.return_min:.4g} … {card.return_mean:.4g} … {card.return_max:.4g}"
    )
    if card.env_spec is None:
        display.say("the data name no environment, so the policies cannot be evaluated: dataset.env_id names one")

    # ---------------------------------------------------------------- the method, and the directory it writes to
    try:
        algorithm = make(config.algorithm, spec)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    claim(workdir, config, spec, card)
    jax.config.update("jax_default_matmul_precision", None if config.precision == "default" else config.precision)

    # ---------------------------------------------------------------- placement: runs over devices, data on all of them
    mesh = make_mesh(runs.size)
    size = padded_size(runs.size, mesh)
    keys = place(pad(runs.keys, size), mesh, RUN)
    dataset = place(columns.attach(dataset, algorithm.columns), mesh, SHARED)

    # ---------------------------------------------------------------- restore everything, or start
    checkpoints = Checkpoints(workdir, write=True, max_to_keep=config.max_to_keep)
    steps = checkpoints.steps()
    step = steps[-1] if steps else 0
    if steps:
        states = checkpoints.restore_state(step, jax.eval_shape(lambda: init_states(algorithm, runs)))
        display.say(f"resuming at update {step:,}")
    else:
        states = init_states(algorithm, runs)
    states = place(pad(states, size), mesh, RUN)
    save = _Saver(checkpoints, algorithm, runs.size, mesh)
    report = Reporter(config, workdir, runs, display, step)

    # ---------------------------------------------------------------- stages, each a loop over chunks
    stage_start = 0
    with watch_signals() as preemption, display:
        for index, stage in enumerate(algorithm.stages):
            stage_end = stage_start + stage.num_updates
            if step < stage_end:
                loop = _StageLoop(algorithm, index, stage_start, config, mesh, display, report, save, workdir)
                states, step = loop.run(states, step, keys, dataset, preemption)
            stage_start = stage_end
            if preemption:
                break
    checkpoints.close()
    report.close()

    # ---------------------------------------------------------------- end
    if step < stage_start or preemption:
        display.say(f"stopped by {preemption.signal} at update {step:,}; state saved, run the same command to go on")
        return False
    write_json(workdir / "DONE", {"step": step})
    display.say(f"done: {step:,} updates of {runs.size} runs in {workdir}")
    return True


def init_states(algorithm: Algorithm, runs: Runs) -> State:
    """Fresh states of all runs, `[R, ...]` per leaf."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, INIT))(runs.keys)
    return jax.jit(jax.vmap(algorithm.init))(keys, runs.hparams)


class _Saver:
    """Saves the first R runs of the padded states. Chunks donate their state, so the checkpointer gets a copy."""

    def __init__(self, checkpoints: Checkpoints, algorithm: Algorithm, num_runs: int, mesh: Mesh) -> None:
        self.checkpoints = checkpoints

        def snapshot(states: State) -> tuple[State, Policy]:
            copies = jax.tree.map(lambda x: jnp.copy(x[:num_runs]), states)
            return copies, jax.tree.map(jnp.copy, jax.vmap(algorithm.policy)(copies))

        sharding = NamedSharding(mesh, RUN if num_runs % mesh.shape["run"] == 0 else SHARED)
        self.snapshot = jax.jit(snapshot, out_shardings=sharding)

    def __call__(self, step: int, states: State, metadata: dict[str, Any]) -> None:
        state, policy = self.snapshot(states)
        self.checkpoints.save(step, state, policy, {"step": step, **metadata})


class _StageLoop:
    """The chunks of one stage."""

    def __init__(
        self,
        algorithm: Algorithm,
        index: int,
        start: int,
        config: Config,
        mesh: Mesh,
        display: TrainingDisplay,
        report: Reporter,
        save: _Saver,
        workdir: Path,
    ) -> None:
        self.stage = algorithm.stages[index]
        self.start = start
        self.config, self.mesh, self.display, self.report, self.save = config, mesh, display, report, save
        self.metadata = {"stage": self.stage.name, "stage_index": index, "num_stages": len(algorithm.stages)}
        self.timings = workdir / "metrics" / "timings.jsonl"

    def run(self, states: State, step: int, keys: jax.Array, dataset: Dataset, preemption: Preemption) -> tuple[State, int]:
        """From update `step` to the end of the stage or the first signal; returns the states and the step reached."""
        stage, per_chunk = self.stage, self.config.updates_per_chunk
        end = self.start + stage.num_updates
        self.display.start(stage.name, step - self.start, stage.num_updates)
        began, first = time.monotonic(), step
        prepared = make_prepare(stage, self.mesh)(states, keys, dataset)
        chunks: dict[int, Any] = {}
        pending: tuple[int, Metrics] | None = None
        with jax.transfer_guard("disallow"):
            while step < end and not preemption:
                length = min(per_chunk - (step - self.start) % per_chunk, end - step)
                if length not in chunks:
                    chunks[length] = make_chunk(stage, length, self.mesh).lower(states, keys, prepared, dataset).compile()
                    if len(chunks) == 1:
                        compiled = time.monotonic()
                states, metrics = chunks[length](states, keys, prepared, dataset)
                # The device works on this chunk while the host reports the one before.
                self._report(pending)
                step += length
                pending = (step, metrics)
                if step == end or passes(step - self.start, length, self.config.checkpoint_every):
                    pending = self._commit(pending, states)
            self._commit(pending, states)
        jax.block_until_ready(states)
        if step > first:
            seconds = time.monotonic() - compiled
            append_json(
                self.timings,
                {
                    "stage": stage.name,
                    "from": first,
                    "to": step,
                    "runs": self.report.runs.size,
                    "compile_seconds": round(compiled - began, 3),
                    "seconds": round(seconds, 3),
                    "updates_per_second": round((step - first) / seconds, 3),
                },
            )
            self.display.say(
                f"{stage.name}: {step - first:,} updates in {duration(seconds)}, compiled in {compiled - began:.1f}s"
            )
        return states, step

    def _commit(self, pending: tuple[int, Metrics] | None, states: State) -> None:
        """Metrics, then the checkpoint: what it lets a resumed run skip must be on disk already."""
        if pending is not None:
            self._report(pending)
            self.save(pending[0], states, self.metadata)

    def _report(self, pending: tuple[int, Metrics] | None) -> None:
        if pending is not None:
            step, metrics = pending
            self.display.advance(step - self.start, self.report(step, self.stage.name, metrics))
