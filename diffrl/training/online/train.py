"""Training by interaction: a run's transitions come from its own environments, and the same `Stage.update` learns from them.

Read train.py first, then interaction.py. Where the environment is a function on the device, a chunk of iterations is one compiled
program for all runs; where a simulator steps it on the host, one compiled call an iteration inserts, updates and chooses the next
actions, for all runs as well.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import Config, ConfigError, to_json, validate
from diffrl.data import replay as replays
from diffrl.data.dataset import Card
from diffrl.data.env_id import env_spec_of
from diffrl.data.replay import Replay
from diffrl.envs import make as environments
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.logging.console import TrainingDisplay, duration
from diffrl.registry import make
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.devices import RUN, make_mesh, pad, padded_size, place
from diffrl.training.online.interaction import DeviceLoop, HostLoop, Life, RunState, init_all, interact
from diffrl.training.preemption import Preemption, watch_signals
from diffrl.training.reporting import Reporter, passes
from diffrl.training.runs import Runs, make_runs
from diffrl.training.train import Outcome
from diffrl.training.workdir import append_json, check_same, claimed, write_json
from diffrl.types import Metrics, Spec, State


def train_online(config: Config, workdir: Path) -> Outcome:
    """Train all runs of a config in its environment, or until a signal asks to stop. Calling it again goes on where it stopped.

    With an environment on the device resuming is exact. A host simulator's state is not saved: there the episodes under way are
    given up, and everything else is as it was.

    Raises:
        ConfigError, DatasetError, BackendError, WorkdirError, CheckpointError, ReplayError: with the reason and a remedy.
    """
    # ---------------------------------------------------------------- is there anything to do, and may we?
    validate(config)
    if jax.process_count() > 1 or config.batch_devices > 1:
        raise ConfigError("training by interaction takes one host and one device for each run: drop batch_devices or --num_hosts")
    online, runs = config.online, make_runs(config)
    workdir = Path(workdir).absolute()
    display = TrainingDisplay(runs.size)
    if (workdir / "DONE").exists():
        check_same(workdir / "config.json", to_json(config))
        display.say(f"{workdir} is already trained to the end")
        return Outcome(True, tuple(json.loads((workdir / "DONE").read_text()).get("diverged", ())))

    # ---------------------------------------------------------------- the environment and the method
    env_spec = env_spec_of(online.env_id)
    backend = environments.choose(online.backend, env_spec, None)
    mesh = make_mesh(runs.size)
    size = padded_size(runs.size, mesh)
    envs = backend.device if backend.host is None else backend.host(size * online.num_envs)
    assert envs is not None
    spec, card = describe(envs, online.env_id, env_spec)
    display.say(f"environment {online.env_id}: {backend.simulator}; episodes of {envs.max_episode_steps} steps")
    try:
        algorithm = make(config.algorithm, spec, config.action_chunk)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    stage = stage_of(algorithm)
    with claimed(workdir, config, spec, card):
        return _train(config, workdir, algorithm, stage, runs, envs, spec, mesh, display)


def _train(
    config: Config,
    workdir: Path,
    algorithm: Algorithm,
    stage: Stage,
    runs: Runs,
    envs: DeviceEnvironment | HostEnvironments,
    spec: Spec,
    mesh: Mesh,
    display: TrainingDisplay,
) -> Outcome:
    online, size = config.online, padded_size(runs.size, mesh)
    jax.config.update("jax_default_matmul_precision", None if config.precision == "default" else config.precision)

    # ---------------------------------------------------------------- restore everything, or start
    on_device = None if isinstance(envs, HostEnvironments) else envs
    keys = place(pad(runs.keys, size), mesh, RUN)
    checkpoints = Checkpoints(workdir, write=True, max_to_keep=config.max_to_keep)
    steps = checkpoints.steps()
    start = steps[-1] // online.num_envs if steps else 0
    diverged = {int(run): at for run, at in checkpoints.metadata(steps[-1]).get("diverged", {}).items()} if steps else {}

    def fresh() -> tuple[State, Life]:
        return init_all(algorithm, on_device, spec, runs, online.num_envs)

    if steps:
        saved = checkpoints.restore_state(steps[-1], jax.eval_shape(fresh))
        display.say(f"resuming at step {steps[-1]:,}")
    else:
        saved = fresh()
    empty = Replay.empty(online.num_envs, online.buffer_size // online.num_envs, spec.observation_dim, spec.action_dim)
    rows = replays.restored(jnp.zeros((runs.size, *empty.rows.shape)), workdir / "replay", start)
    state, life = saved
    alive = jnp.array([run not in diverged for run in range(runs.size)])
    run_states = RunState(algorithm=state, life=life, replay=dataclasses.replace(empty, rows=rows), alive=alive)
    run_states = place(pad(run_states, size), mesh, RUN)

    # ---------------------------------------------------------------- a loop over chunks
    report = Reporter(config, workdir, runs, display, start * online.num_envs, diverged)
    interaction = interact(algorithm, stage, spec, config, envs.max_episode_steps)
    if isinstance(envs, HostEnvironments):
        advance: Any = HostLoop(interaction, envs, config, runs, size, mesh)
    else:
        advance = DeviceLoop(interaction, envs, config, mesh)
    save = _Saver(checkpoints, algorithm, runs.size, online.num_envs, workdir / "replay", start)
    loop = _Loop(config, stage, display, report, save, advance, workdir)
    with watch_signals() as preemption, display:
        done = loop.run(run_states, start, keys, preemption)
        checkpoints.close()
    report.close()
    if isinstance(envs, HostEnvironments):
        envs.close()

    # ---------------------------------------------------------------- end
    stopped = tuple(sorted(report.diverged))
    if done < loop.end:
        display.say(
            f"stopped by {preemption.signal} at step {done * online.num_envs:,}; state saved, run the same command to go on"
        )
        return Outcome(False, stopped)
    write_json(workdir / "DONE", {"step": done * online.num_envs, "diverged": stopped})
    display.say(f"done: {done * online.num_envs:,} steps of {runs.size} runs in {workdir}")
    return Outcome(True, stopped)


def describe(envs: DeviceEnvironment | HostEnvironments, env_id: str, env_spec: str) -> tuple[Spec, Card]:
    """What a method may know of an environment, and what the evaluator needs to make it again. Nothing is normalised."""
    if isinstance(envs, HostEnvironments):
        observation_dim = envs.reset(list(range(envs.num_envs))).shape[-1]
    else:
        observation_dim = jax.eval_shape(envs.reset, jax.random.key(0))[1].shape[-1]
    low, high = (tuple(np.asarray(bound, np.float64).tolist()) for bound in (envs.action_low, envs.action_high))
    plain = Spec.plain(observation_dim, len(low))
    spec = dataclasses.replace(plain, action_low=low, action_high=high, observation_min=(), observation_max=())
    card = Card(
        id=env_id,
        rows=0,
        episodes=0,
        return_min=0.0,
        return_mean=0.0,
        return_max=0.0,
        sha256="",
        action_low=low,
        action_high=high,
        env_spec=env_spec,
        description="trained by interaction; its transitions lie in replay/",
    )
    return spec, card


def stage_of(algorithm: Algorithm) -> Stage:
    """The one stage of a method that can learn by interaction.

    Raises:
        ConfigError: it has several, prepares columns, or derives columns that need whole episodes.
    """
    if len(algorithm.stages) != 1 or algorithm.stages[0].prepare is not None:
        raise ConfigError("this method learns in stages or prepares its data; it cannot be trained by interaction: use a dataset")
    if algorithm.columns is not None and algorithm.lookahead is None:
        raise ConfigError("this method needs whole episodes; it cannot be trained by interaction: use a dataset")
    return algorithm.stages[0]


class _Saver:
    """State and environments as a checkpoint, and the transitions since the one before as a file beside it."""

    def __init__(
        self, checkpoints: Checkpoints, algorithm: Algorithm, num_runs: int, num_envs: int, path: Path, saved: int
    ) -> None:
        self.checkpoints, self.path, self.saved = checkpoints, path, saved
        self.num_runs, self.num_envs = num_runs, num_envs

        def snapshot(runs: RunState) -> Any:
            state, life = jax.tree.map(lambda x: jnp.copy(x[:num_runs]), (runs.algorithm, runs.life))
            return (state, life), jax.tree.map(jnp.copy, jax.vmap(algorithm.policy)(state))

        self.snapshot = jax.jit(snapshot)

    def __call__(self, iteration: int, runs: RunState, stage: str, diverged: dict[int, int]) -> None:
        # The rows first: a checkpoint that is there has its transitions.
        replays.save_rows(self.path, runs.replay.rows[: self.num_runs], self.saved, iteration)
        self.saved = iteration
        metadata = {"step": iteration * self.num_envs, "stage": stage, "stage_index": 0, "num_stages": 1}
        metadata["diverged"] = {str(run): step for run, step in diverged.items()}
        state, policy = self.snapshot(runs)
        self.checkpoints.save(iteration * self.num_envs, state, policy, metadata)


class _Loop:
    """Chunks of iterations, first of uniform actions without learning, with reports and checkpoints between them."""

    def __init__(
        self, config: Config, stage: Stage, display: TrainingDisplay, report: Reporter, save: _Saver, advance: Any, workdir: Path
    ) -> None:
        self.config, self.stage, self.display, self.report, self.save, self.advance = (
            config,
            stage,
            display,
            report,
            save,
            advance,
        )
        self.timings = workdir / "metrics" / "timings.jsonl"
        self.end = config.online.num_env_steps // config.online.num_envs
        self.warmup = config.online.warmup_steps // config.online.num_envs

    def run(self, runs: RunState, start: int, keys: Array, preemption: Preemption) -> int:
        """From iteration `start` to the end or the first signal; returns the iteration reached."""
        num_envs, per_chunk = self.config.online.num_envs, self.config.updates_per_chunk
        done, pending = start, None
        began, marked = time.monotonic(), (time.monotonic(), start)
        self.display.start(self.stage.name, start * num_envs, self.end * num_envs, "steps")
        while done < self.end and not preemption:
            learning = done >= self.warmup
            border = self.end if learning else min(self.warmup, self.end)
            length = min(per_chunk - done % per_chunk, border - done)
            runs, metrics = self.advance(runs, keys, done, length, learning)
            # The device works on this chunk while the host reports the one before.
            self._report(pending)
            if marked[1] == start:
                marked = (time.monotonic(), done + length)
            done += length
            pending = (done, metrics)
            if done == self.end or passes(done, length, self.config.checkpoint_every):
                pending = self._commit(pending, runs)
        self._commit(pending, runs)
        seconds = time.monotonic() - marked[0]
        if done > marked[1]:
            rate = (done - marked[1]) * num_envs / seconds
            entry = {"stage": self.stage.name, "from": start, "to": done, "runs": self.report.runs.size, "steps_per_second": rate}
            append_json(self.timings, entry | {"seconds": round(time.monotonic() - began, 3)})
            self.display.say(
                f"{self.stage.name}: {(done - start) * num_envs:,} steps in {duration(time.monotonic() - began)}, "
                f"{rate:,.0f} steps/s of each of {self.report.runs.size} runs after the first chunk"
            )
        return done

    def _commit(self, pending: tuple[int, Metrics] | None, runs: RunState) -> None:
        """Metrics, then the checkpoint: what it lets a resumed run skip must be on disk already."""
        if pending is not None:
            self._report(pending)
            self.save(pending[0], runs, self.stage.name, self.report.diverged)

    def _report(self, pending: tuple[int, Metrics] | None) -> None:
        if pending is not None:
            step = pending[0] * self.config.online.num_envs
            size = self.report.runs.size
            metrics = {name: np.asarray(value)[:size] for name, value in jax.device_get(pending[1]).items()}
            self.report(step, self.stage.name, metrics)
            self.display.advance(step, metrics)
