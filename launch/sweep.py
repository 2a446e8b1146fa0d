r"""Train and evaluate a method for many seeds, hyper-parameters, datasets and sizes, and say which was best.

    python launch/sweep.py --config=srpo_pointmaze:umaze --sweep algorithm.beta=0.01,0.02,0.05 --sweep seeds=0:8 --out=runs/beta
    python launch/sweep.py --config=swg_pointmaze --sweep seeds=0:4 --sweep act.guidance_scale=0,1,2,5 --out=runs/guidance
    python launch/sweep.py --config=srpo_pointmaze --sweep beta=0.1,0.2 --sweep seeds=0:4 --sweep argument=umaze,medium \
        --sweep 'policy_hidden_dims=(64,64),(128,128)' --out=runs/width
    python launch/sweep.py --config=iql_mujoco --sweep seeds=0:2 --sweep 'expectile=uniform(0.5,0.95)' \
        --sweep 'learning_rate=loguniform(1e-4,1e-2)' --num_points=24 --out=runs/random
    python launch/sweep.py … --dry_run                       # groups, runs, memory and time; trains nothing
    python launch/sweep.py … --submit=slurm --slurm=time=240 --slurm=gres=gpu:1       # a job per group

Where an axis leads depends on its name: float hyper-parameters of the method and seeds share one program; other settings
(dataset, widths, numbers) make groups, one training each, in OUT/<group>; choices made when acting (act.…) are evaluated on the
same policies. `argument=a,b` replaces the word after the colon of --config. Axes are crossed; beta:discount=0.1:0.99,0.2:0.995
ties two. Commas inside brackets do not separate. Runs that do not fit into memory are split by themselves.

Everything is checked before anything is trained. The same command goes on where it stopped. Exit code 0 also after a signal, with
everything saved (then OUT/report is missing), 2 for what the user can mend, 3 where the sweep is complete but runs diverged.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from rich.console import Console

from diffrl import cli, completion, files, program, records
from diffrl.config import ConfigError
from diffrl.envs.make import BACKENDS
from diffrl.training import devices

if TYPE_CHECKING:
    from diffrl.evaluation.evaluate import Options
    from diffrl.sweeps.forecast import Forecast
    from diffrl.sweeps.parts import Part
    from diffrl.sweeps.plan import Group, Plan

CONFIG = flags.DEFINE_string(
    "config", None, "Experiment file, optionally with :argument; --config.name=value sets a field in all groups."
)
SWEEP = flags.DEFINE_multi_string("sweep", [], "name=v1,v2 or seeds=first:end or name=loguniform(low,high). Repeatable.")
OUT = flags.DEFINE_string("out", None, "Directory of the sweep: sweep.json, a workdir per group, report.")
NUM_POINTS = flags.DEFINE_integer(
    "num_points", 16, "Points drawn from uniform(…) and loguniform(…) axes together.", lower_bound=1
)
SEARCH_SEED = flags.DEFINE_integer("search_seed", 0, "Of these draws.", lower_bound=0)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what the sweep would cost; train and write nothing.")
JSON = flags.DEFINE_string("json", "", "With --dry_run: also write it to this file.")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb",
    0.0,
    "Memory of a device (of the host where its cores are the devices) that a group may use; 0 for nine tenths of what there is.",
    lower_bound=0.0,
)
SUBMIT = flags.DEFINE_enum(
    "submit", None, ("slurm", "sbatch"), "Queue a job per group: through submitit, or by plain sbatch files, written to OUT/jobs."
)
SLURM = flags.DEFINE_multi_string("slurm", [], "With --submit: an option of sbatch, name=value, as in time=240. Repeatable.")
EVALUATE = flags.DEFINE_bool("evaluate", True, "Evaluate each group's last checkpoint when it is trained, and write OUT/report.")
EPISODES = flags.DEFINE_integer("episodes", 64, "Evaluation episodes per run.", lower_bound=1)
BACKEND = flags.DEFINE_enum("backend", "auto", BACKENDS, "Simulator to evaluate in, as in launch/evaluate.py.")
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "As in launch/train.py.", lower_bound=0)


def plan_of_flags(overrides: list[str]) -> "Plan":
    """The groups of the command line. Exits with 2 where a flag is missing.

    Raises:
        ConfigError: see `sweeps.plan.plan`.
    """
    from diffrl.sweeps.plan import plan

    if not CONFIG.value:
        program.fail(f"--config=EXPERIMENT is missing; the package has: {', '.join(completion.experiments())}")
    if not SWEEP.value:
        program.fail("--sweep is missing: name what to vary, as in --sweep seeds=0:8; --help has examples")
    if not OUT.value:
        program.fail("--out=DIRECTORY is missing: where the sweep goes")
    if JSON.value and not DRY_RUN.value:
        program.fail("--json goes with --dry_run")
    if SLURM.value and not SUBMIT.value:
        program.fail("--slurm goes with --submit")
    return plan(
        CONFIG.value,
        overrides,
        SWEEP.value,
        files.directory(OUT.value).absolute(),
        cli.load_experiment,
        num_points=NUM_POINTS.value,
        search_seed=SEARCH_SEED.value,
        extra=(f"--cpu_devices={CPU_DEVICES.value}",) if CPU_DEVICES.value else (),
    )


def look_ahead(
    plan: "Plan", parts: dict[str, list["Part"]] | None, options: "Options", console: Console
) -> tuple[dict[str, list["Part"]], list["Forecast"]]:
    """How each group is split (as it was, if the sweep has begun), and with --dry_run what it costs; checks all groups.

    Raises:
        ConfigError, DatasetError, BackendError, EvaluationError: what is wrong, and in which group.
    """
    from diffrl.sweeps import costs, subjects
    from diffrl.sweeps.forecast import Forecast
    from diffrl.sweeps.parts import Part, whole

    limit = costs.limit_of(MEMORY_GB.value)
    found: dict[str, list[Part]] = {}
    forecasts: list[Forecast] = []
    for group, subject in subjects.subjects(plan.groups):
        subjects.check_training(group, subject)
        if EVALUATE.value:
            subjects.check_evaluation(group, subject, options)
        if parts is not None:
            found[group.label] = parts[group.label]
        elif SUBMIT.value and not MEMORY_GB.value:
            found[group.label] = [whole(group)]  # this machine's memory says nothing of that of the jobs'
        else:
            found[group.label] = costs.fit(group, subject, limit, costs.SHORT if DRY_RUN.value else None)
        if len(found[group.label]) > 1:
            shares = ", ".join(f"{part.num_seeds} seeds from {part.first_seed}" for part in found[group.label])
            console.print(
                f"{group.label}: {group.num_runs} runs need more than {limit.bytes / 1e9:.3g} GB ({limit.source}); "
                f"split into {len(found[group.label])} parts: {shares}",
                highlight=False,
                soft_wrap=True,
            )
        if DRY_RUN.value:
            forecasts += [Forecast(*each) for each in costs.predict(group, found[group.label], subject, limit)]
    return found, forecasts


def show(forecasts: list["Forecast"], console: Console) -> None:
    """Print what the sweep would cost, and write it to --json."""
    from diffrl.sweeps import costs, forecast

    limit = costs.limit_of(MEMORY_GB.value)
    console.print(forecast.table(forecasts))
    for line in forecast.explanation(forecasts, limit):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    if JSON.value:
        try:
            records.write(Path(JSON.value), forecast.to_json(forecasts, limit))
        except OSError as error:
            raise ConfigError(f"cannot write --json={JSON.value}: {error.strerror}") from error


def submit(trainings: list["Group"], options: dict[str, str], console: Console) -> None:
    """Queue what is not done yet.

    Raises:
        ConfigError: an option or Slurm refuses.
    """
    from diffrl.sweeps import slurm

    jobs = []
    for one in trainings:
        if not (one.workdir / "DONE").exists():
            arguments = tuple(text for text in one.arguments if not text.startswith("--workdir="))
            jobs.append(slurm.Job(one.label, arguments, one.workdir))
    ids = slurm.submit(jobs, files.directory(OUT.value or "").absolute() / "jobs", options, plain=SUBMIT.value == "sbatch")
    numbers = f": {', '.join(ids)}" if ids else ""
    console.print(
        f"{len(jobs)} of {len(trainings)} trainings are jobs now{numbers}. When they are done, the same command without --submit "
        "evaluates them and writes the report",
        highlight=False,
        soft_wrap=True,
    )


def run_all(trainings: list["Group"], options: "Options", console: Console) -> int:
    """Train and evaluate one after another; the exit code."""
    import jax

    from diffrl.evaluation.evaluate import evaluate_workdir, mean_returns
    from diffrl.sweeps import report
    from diffrl.training.runs import in_words, make_runs
    from diffrl.training.train import train

    started, diverged = time.monotonic(), []
    for number, one in enumerate(trainings):
        began = time.monotonic()
        console.rule(f"{number + 1}/{len(trainings)}  {one.label}, {began - started:,.0f} s so far", align="left")
        outcome = train(one.config, one.workdir, evaluate=mean_returns)
        if not outcome.complete:
            console.print(f"{number} of {len(trainings)} trainings are complete; the same command goes on", highlight=False)
            return 0
        runs = make_runs(one.config, one.points)
        for run in outcome.diverged:
            point = ", ".join(filter(None, [f"seed {runs.seeds[run]}", in_words(runs.points[run])]))
            diverged.append(f"{one.label}: run {run} ({point})")
        if EVALUATE.value:
            evaluate_workdir(one.workdir, options, console)
        jax.clear_caches()  # a hundred programs would fill the memory
    if EVALUATE.value:
        out = files.directory(OUT.value or "")
        report.write(out, out / "report", console)
    console.print(f"{len(trainings)} trainings in {(time.monotonic() - started) / 60:.1f} min", highlight=False)
    for line in diverged:
        console.print(f"diverged: {line}", highlight=False, markup=False, soft_wrap=True)
    return program.DIVERGED if diverged else 0


def main(argv: list[str], overrides: list[str]) -> int:
    """See the top of this file for exit codes."""
    program.no_more_arguments(argv)
    plan = plan_of_flags(overrides)
    if SUBMIT.value:
        from diffrl.sweeps import slurm

        for text in SLURM.value:
            if "=" not in text:
                raise ConfigError(f"--slurm={text} is not of the form name=value")
        queueing = slurm.check(dict(text.split("=", 1) for text in SLURM.value))
    devices.configure(CPU_DEVICES.value)
    from diffrl.evaluation.evaluate import Options
    from diffrl.reports.tables import ReportError
    from diffrl.sweeps import record

    console = program.console()
    out = files.directory(OUT.value or "")
    options = Options(episodes=EPISODES.value, step="last", backend=BACKEND.value, act=plan.act)
    parts = record.resume(out, plan)
    if parts is None or DRY_RUN.value:
        parts, forecasts = look_ahead(plan, parts, options, console)
        if DRY_RUN.value:
            show(forecasts, console)
            return 0
        record.save(out, plan, parts)
    trainings = record.trainings(plan.groups, parts)
    if SUBMIT.value:
        submit(trainings, queueing, console)
        return 0
    try:
        return run_all(trainings, options, console)
    except ReportError as error:
        program.fail(str(error))


def run() -> None:
    """Entry point of `diffrl-sweep`."""
    overrides, sys.argv[1:] = cli.take_overrides(sys.argv[1:])
    program.run(lambda argv: main(argv, overrides))


if __name__ == "__main__":
    run()
