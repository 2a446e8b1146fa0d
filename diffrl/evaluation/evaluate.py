"""Evaluate the checkpoints of a workdir, beside the trainer that writes them or after it. Restores `policy` items only."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffrl.algorithm import Algorithm
from diffrl.config import ConfigError
from diffrl.data import scores
from diffrl.envs import make as environments
from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.errors import UserError
from diffrl.evaluation import results, rollout, terminal
from diffrl.evaluation.results import Result, Settings
from diffrl.records import RecordError
from diffrl.training import checkpoint
from diffrl.training.checkpoint import CheckpointError
from diffrl.training.trained import Act, Trained
from diffrl.training.workdir import WorkdirError
from diffrl.types import Spec

MAX_RECORDED_EPISODES = 8  # per run
MAX_RECORDED_OBSERVATION = 64  # longer observations make no picture
MAX_RECORDED_FLOATS = 8_000_000  # of one result; fewer episodes are recorded beyond it
REMOVAL_SECONDS = 2


class EvaluationError(UserError, ValueError):
    """The workdir cannot be evaluated as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate and how.

    Attributes:
        episodes: per run.
        step: a checkpoint's number, "last", or None for all checkpoints of the last stage (earlier ones do not train the
            policy that acts).
        backend: one of `envs.make.BACKENDS`; "auto" takes the fastest that has the environment exactly.
        seed: evaluation seed; start states and action noise depend on it.
        act: `name=value` or `name=v1,v2,...`; all combinations are evaluated on each checkpoint.
        watch: go on with new checkpoints until training has ended.
        force: evaluate again what has a result.
        poll_seconds: between two looks for new checkpoints.
    """

    episodes: int = 64
    step: int | str | None = None
    backend: str = "auto"
    seed: int = 0
    act: tuple[str, ...] = ()
    watch: bool = False
    force: bool = False
    poll_seconds: float = 5.0


def mean_returns(workdir: Path, *, episodes: int, step: int) -> dict[int, float]:
    """Mean episode return of each run at the checkpoint of this step; an existing evaluation is read, not repeated.

    Raises:
        EvaluationError: as of `evaluate_workdir`.
    """
    (result,) = evaluate_workdir(workdir, Options(episodes=episodes, step=step))
    return dict(enumerate(result.mean_returns.tolist()))


def evaluate_workdir(workdir: Path, options: Options, console: Console | None = None) -> list[Result]:
    """Evaluate what has no result yet, print a table, and return the results of the chosen checkpoints by step.

    Safe to repeat (equal settings are not evaluated again) and to run beside the trainer.

    Raises:
        EvaluationError: no workdir, checkpoint or environment, or an option does not fit.
    """
    console = console or Console()
    _check(options)
    if options.watch:
        _await_files(workdir, options, console)
    try:
        evaluator = _Evaluator(workdir, options, console)
    except CheckpointError as error:
        raise EvaluationError(f"{error}; --watch waits for them") from error
    except (ConfigError, WorkdirError, RecordError, BackendError) as error:
        raise EvaluationError(str(error)) from error
    found: dict[tuple[int, str], Result] = {}
    skipped: set[int] = set()
    try:
        while True:
            # In this order: a checkpoint written between the two looks is found in the next round.
            done = (workdir / "DONE").exists() or not options.watch
            evaluator.checkpoints.reload()
            steps = [
                step for step in evaluator.steps() if step not in skipped and (step, evaluator.variants[0].label) not in found
            ]
            for step in steps:
                new = evaluator.evaluate(step)
                if not new:
                    skipped.add(step)
                found.update({(step, result.settings.label): result for result in new})
            if done and not (options.watch and steps):
                break
            if not steps:
                time.sleep(options.poll_seconds)
    except results.ResultError as error:
        raise EvaluationError(str(error)) from error
    finally:
        evaluator.close()
    if not found:
        raise EvaluationError(_nothing_found(evaluator, options))
    ordered = [found[key] for key in sorted(found, key=lambda key: key[0])]
    terminal.print_table([result for result in ordered if result.step == ordered[-1].step], console)
    return ordered


@dataclasses.dataclass(frozen=True)
class _Variant:
    """One way of acting: an Algorithm built from the config with overrides, and its compiled rollout."""

    settings: Settings
    algorithm: Algorithm

    @property
    def label(self) -> str:
        return self.settings.label


class _Evaluator:
    """Everything that is built once and serves all checkpoints. Environments are made when the first one is rolled out."""

    def __init__(self, workdir: Path, options: Options, console: Console):
        self.workdir, self.options, self.console = workdir, options, console
        self.trained = Trained.open(workdir)
        self.runs, card = self.trained.runs, self.trained.card
        if card.env_spec is None:
            raise EvaluationError(f"{card.id!r} names no environment to act in: train with --config.dataset.env_id=…")
        self.reference = scores.reference_for(card)
        self.note = self.reference.source if self.reference else scores.why_no_reference(card)
        self.backend = environments.choose(options.backend, card.env_spec, card.observation_keys, card.action_repeat)
        self.host_envs: Any = None
        self.variants = [self._variant(act) for act in parse_act(options.act)]
        self.rollouts: dict[str, rollout.RolloutFn] = {}
        self.checkpoints = self.trained.checkpoints

    def _variant(self, act: Act) -> _Variant:
        settings = Settings(self.backend.name, self.backend.simulator, self.options.episodes, self.options.seed, act)
        return _Variant(settings, self.trained.acting(act).algorithm)

    def steps(self) -> list[int]:
        """The checkpoints to evaluate that exist now."""
        steps = sorted(self.checkpoints.steps())
        if isinstance(self.options.step, int):
            return [step for step in steps if step == self.options.step]
        chosen = [step for step in steps if self._in_last_stage(step)]
        return chosen[-1:] if self.options.step == "last" else chosen

    def _in_last_stage(self, step: int) -> bool:
        try:
            return self.trained.is_of_last_stage(step)
        except (CheckpointError, OSError) as error:
            if not self._is_gone(step):
                raise EvaluationError(str(error)) from error  # one before it must not pass for the last
            return False

    def evaluate(self, step: int) -> list[Result]:
        """Results of one checkpoint, one per variant; none if it is gone."""
        existing = {variant.label: self._existing(step, variant.settings) for variant in self.variants}
        policies, progress = {}, None
        missing = [variant for variant in self.variants if existing[variant.label] is None]
        if missing:
            results.make_folder(self.workdir, step)  # says before the episodes, not after them, that it cannot
            try:
                policies = self._policies(step, missing)
                progress = self.checkpoints.progress(step)
            except (CheckpointError, OSError) as error:
                if not self._is_gone(step):
                    raise EvaluationError(f"checkpoint {step} cannot be restored: {error}") from error
                self.console.print(f"update {step}: the checkpoint is gone (the trainer keeps only some); skipped")
                return []
        found = []
        for variant in self.variants:
            result = existing[variant.label]
            if result is not None:
                self.console.print(f"update {step}: {variant.label} exists, skipped (--force evaluates again)", highlight=False)
            else:
                assert progress is not None
                result = self._roll_out(step, variant, policies[variant.label], progress)
                self.console.print(f"update {step}: {terminal.one_line(result)}", highlight=False)
            found.append(result)
        return found

    def _policies(self, step: int, variants: list[_Variant]) -> dict[str, Any]:
        """By variant; those that act on the same share it."""
        restored: dict[Any, Any] = {}
        policies = {}
        for variant in variants:
            leaves, tree = jax.tree.flatten(self.trained.acts_on(variant.algorithm))
            needed = tree, tuple(leaves)
            if needed not in restored:
                restored[needed] = self.trained.restore(step, variant.algorithm)
            policies[variant.label] = restored[needed]
        return policies

    def _existing(self, step: int, settings: Settings) -> Result | None:
        path = results.path_of(self.workdir, step, settings)
        if self.options.force or not path.exists():
            return None
        try:
            result = results.load(path)
        except RecordError:
            return None  # not ours or damaged: evaluate again
        same = result.settings == settings and result.seeds == list(self.runs.seeds) and result.hparams == list(self.runs.points)
        return result if same else None

    def _is_gone(self, step: int) -> bool:
        """Whether retention removes the checkpoint, which takes it a moment, file by file."""
        for _ in range(REMOVAL_SECONDS * 10):
            self.checkpoints.reload()
            if step not in self.checkpoints.steps():
                return True
            time.sleep(0.1)
        return False

    def _roll_out(self, step: int, variant: _Variant, policies: Any, progress: checkpoint.Progress) -> Result:
        env = self.backend.device if self.backend.device is not None else self._host_envs()
        if variant.label not in self.rollouts:
            self.rollouts[variant.label] = make_rollout(
                variant.algorithm, env, self.trained.spec, self.runs.size, self.options.episodes
            )
        seeds = list(self.runs.seeds)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(f"update {step}, acting {variant.settings.acting}", total=env.max_episode_steps)
            with jax.default_matmul_precision(self.trained.config.matmul_precision):
                rolled = self.rollouts[variant.label](policies, seeds, self.options.seed, lambda n: bar.advance(task, n))
        returns = rolled.returns.astype(np.float64)
        stopped = [""] * len(seeds)
        for run, at in progress.dropped.items():
            stopped[run] = f"dropped at update {at}"
        for run, at in progress.diverged.items():
            stopped[run] = f"diverged before {at}"
            returns[run] = np.nan  # its last finite policy is no result of the method
        result = Result(
            step=step,
            settings=variant.settings,
            reference=self.reference,
            reference_note=self.note,
            seeds=seeds,
            hparams=list(self.runs.points),
            returns=returns,
            lengths=rolled.lengths * self.trained.card.action_repeat,
            successes=rolled.successes,
            stopped=tuple(stopped),
        )
        results.save(self.workdir, result, rolled.observations)
        return result

    def _host_envs(self) -> Any:
        if self.host_envs is None:
            assert self.backend.host is not None
            try:
                self.host_envs = self.backend.host(self.runs.size * self.options.episodes)
            except BackendError as error:
                raise EvaluationError(str(error)) from error
        return self.host_envs

    def close(self) -> None:
        self.trained.close()
        if self.host_envs is not None:
            self.host_envs.close()


def make_rollout(
    algorithm: Algorithm, envs: DeviceEnvironment | HostEnvironments, spec: Spec, num_runs: int, episodes: int
) -> rollout.RolloutFn:
    """The rollout that scores: on either kind of environment, with as many episodes recorded as a result file may hold."""
    per_episode = num_runs * (envs.max_episode_steps + 1) * spec.observation_dim
    recorded = min(MAX_RECORDED_EPISODES, MAX_RECORDED_FLOATS // per_episode)
    recorded = recorded if spec.observation_dim <= MAX_RECORDED_OBSERVATION else 0
    if isinstance(envs, HostEnvironments):
        return rollout.host_rollout(algorithm, envs, episodes, recorded)
    return rollout.device_rollout(algorithm, envs, episodes, recorded)


def parse_act(act: tuple[str, ...]) -> list[Act]:
    """All combinations of `name=v1,v2` overrides, each as ((name, value), ...) sorted by name; [()] for none.

    Raises:
        EvaluationError: an override is not of the form name=value.
    """
    choices: dict[str, list[str]] = {}
    for text in act:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not (name and equals and values):
            raise EvaluationError(f"--act={text!r} is not of the form name=value or name=v1,v2")
        choices.setdefault(name, []).extend(value.strip() for value in values.split(","))
    names = sorted(choices)
    combinations = itertools.product(*(dict.fromkeys(choices[name]) for name in names))
    return [tuple(zip(names, values, strict=True)) for values in combinations]


def _check(options: Options) -> None:
    if options.episodes < 1:
        raise EvaluationError(f"--episodes={options.episodes} must be at least 1")
    if options.backend not in environments.BACKENDS:
        raise EvaluationError(f"--backend={options.backend} is unknown; choose one of {', '.join(environments.BACKENDS)}")
    if not (options.step is None or options.step == "last" or isinstance(options.step, int)):
        raise EvaluationError(f"--step={options.step} is neither a number of updates nor 'last'")
    if not 0 <= options.seed < 2**32:
        raise EvaluationError(f"--seed={options.seed} must lie between 0 and {2**32 - 1}")
    if options.watch and options.step is not None:
        raise EvaluationError("--watch evaluates all checkpoints as they appear; it does not go with --step")


def _await_files(workdir: Path, options: Options, console: Console) -> None:
    """Wait for the trainer to write what describes the runs."""
    announced = False
    while missing := [
        name for name in ("config.json", "spec.json", "dataset.json", "checkpoints") if not (workdir / name).exists()
    ]:
        if not announced:
            console.print(f"waiting for {workdir / missing[0]}")
            announced = True
        time.sleep(options.poll_seconds)


def _nothing_found(evaluator: _Evaluator, options: Options) -> str:
    steps = sorted(evaluator.checkpoints.steps())
    if not steps:
        return f"{evaluator.workdir} has no checkpoints yet; --watch waits for them"
    if isinstance(options.step, int):
        return f"no checkpoint at update {options.step}; there are {', '.join(map(str, steps))}"
    if options.watch or not (evaluator.workdir / "DONE").exists():
        return f"no checkpoint of the last stage yet, which trains the policy; --step={steps[-1]} evaluates one of another stage"
    return f"the checkpoints went away while they were read, as a trainer with max_to_keep has it; there are {steps}: repeat"
