"""Trainings as jobs of Slurm: one job each, which requeues itself until its training is complete.

`submit` hands them to submitit or writes plain sbatch files. Either way Slurm's warning, some time before the time limit, makes
the training save and stop, and the job queue again under the same number; the same command then goes on where it stopped.

The warning reaches one process of the job and goes on to the training as SIGUSR1, because srun kills its tasks when it gets a
SIGTERM. Slurm's own SIGTERM, at a preemption, a requeue or a cancellation, reaches every process; the trainer takes both alike.
"""

import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import diffrl
from diffrl import files
from diffrl.config import ConfigError

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# Slurm's own names for what a user may ask for, and two of ours. The rest of sbatch's options would break the promise above.
OPTIONS = (
    *("account", "begin", "comment", "constraint", "cpus_per_gpu", "cpus_per_task", "dependency", "exclude", "exclusive"),
    *("gpus", "gpus_per_node", "gpus_per_task", "gres", "hint", "licenses", "mail_type", "mail_user", "mem", "mem_per_cpu"),
    *("mem_per_gpu", "nice", "nodelist", "nodes", "ntasks", "ntasks_per_node", "partition", "prefer", "priority", "qos"),
    *("reservation", "switches", "time", "tmp", "wckey", "grace", "max_requeues"),
)
OURS = ("job_name", "output", "error", "open_mode", "requeue", "no_requeue", "signal", "array", "chdir", "wrap")
COUNTS = ("cpus_per_gpu", "cpus_per_task", "nodes", "ntasks", "ntasks_per_node", "grace", "max_requeues")
DEFAULTS = {"grace": "120", "max_requeues": "100"}
# How a training ends that was stopped: with its state saved, or by a signal that came before it had any.
STOPPED = (0, 128 + signal.SIGUSR1, 128 + signal.SIGTERM)


class Job(NamedTuple):
    """One training.

    Attributes:
        name: of the job and of its files.
        arguments: of launch/train.py, without --workdir.
        workdir: where it trains; seen by every node.
    """

    name: str
    arguments: tuple[str, ...]
    workdir: Path


def submit(jobs: Sequence[Job], folder: Path, options: Mapping[str, str], *, plain: bool = False) -> list[str]:
    """Queue one job per training.

    Args:
        jobs: the trainings.
        folder: where scripts and logs go; seen by every node.
        options: of sbatch, by their long names: {"partition": "gpu", "time": "240", "gres": "gpu:1"}; `time` is needed. And
            `grace`, the seconds before the time limit at which the training is told to save (120), and `max_requeues` (100).
        plain: write `folder/<name>.sbatch` and leave submitit alone; where sbatch is not found, say how to submit them.

    Returns:
        The jobs' ids; none where there is no sbatch.

    Raises:
        ConfigError: an option that cannot be, two jobs of one name, no submitit, no Slurm, or one that refuses the job.
    """
    options = check(options)
    names = [file_name(job) for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two jobs would write to {name!r}: give them names that differ")
    folder = Path(folder).absolute()
    if not plain:
        return [_submitit(job, folder, options) for job in jobs]
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [folder / f"{name}.sbatch" for name in names]
    for script, job in zip(scripts, jobs, strict=True):
        files.write(script, sbatch_script(job, options, folder).encode())
    if shutil.which("sbatch") is None:
        print(f'no sbatch here; where there is one: for s in {shlex.quote(str(folder))}/*.sbatch; do sbatch "$s"; done')
        return []
    return [_sbatch(script) for script in scripts]


def check(options: Mapping[str, str]) -> dict[str, str]:
    """Options under the names of `OPTIONS`, with defaults.

    Raises:
        ConfigError: an unknown name or a value that Slurm could not mean.
    """
    checked = dict(DEFAULTS)
    for key, value in options.items():
        name = key.lstrip("-").replace("-", "_")
        if name in OURS:
            raise ConfigError(f"Slurm option {key!r} is set by diffrl itself: leave it out")
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(OPTIONS)}"
            raise ConfigError(f"unknown Slurm option {key!r}; {hint}")
        if not value.isprintable() or (not value and name != "exclusive"):
            raise ConfigError(f"Slurm option {key!r} has no value that can be written: {value!r}")
        if name in COUNTS and not re.fullmatch(r"0*[1-9]\d*", value):
            raise ConfigError(f"Slurm option {key!r} must be a whole number of at least 1, got {value!r}")
        checked[name] = value
    if "time" not in checked:
        raise ConfigError("Slurm option 'time' is missing: name a time limit, as in time=240 (minutes) or time=4:00:00")
    if int(checked["grace"]) >= seconds(checked["time"]):
        raise ConfigError(f"a warning {checked['grace']} s before the end does not fit a time limit of {checked['time']}")
    return checked


def seconds(time: str) -> int:
    """Slurm's minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]] as seconds.

    Raises:
        ConfigError: none of these, or nothing.
    """
    days, dash, clock = time.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ConfigError(f"time {time!r} is none of minutes, minutes:seconds, hours:minutes:seconds, days-hours:minutes:seconds")
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    total = 86_400 * int(days or 0) + sum(unit * int(part) for unit, part in zip(units, parts, strict=False))
    if total == 0:
        raise ConfigError("time 0 is no limit to Slurm, but a job without one is never warned: name one")
    return total


def file_name(job: Job) -> str:
    """The job's name as a file's."""
    return re.sub(r"[^\w.=,+-]+", "_", job.name)


def command(job: Job) -> list[str]:
    """What trains, on whatever node: this Python, and the program of this checkout or of the installed package."""
    package = Path(diffrl.__file__).parent
    beside = package.parent / "launch" / "train.py"
    program = ["-m", "diffrl.launch.train"] if (package / "launch").is_dir() else [str(beside)]
    return [sys.executable, *program, *job.arguments, f"--workdir={job.workdir.absolute()}"]


# ---------------------------------------------------------------- plain sbatch files
SCRIPT = """\
#!/bin/bash
{directives}

stop() {{ stopping=1; kill -USR1 $! 2>/dev/null; }}
warned= stopping=
# Slurm's warning reaches this shell alone.
trap 'warned=1; stop' USR1
trap stop TERM
{command} &
[[ -z $stopping ]] || stop
# A trapped signal ends `wait` before the training ends.
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
code=$?

# 0 and no DONE: stopped, state saved. 138 and 143: stopped before there was anything to save. The rest is for the user to see.
if [[ -e {workdir}/DONE || ! " {stopped} " == *" $code "* ]]; then exit $code; fi
# Without a warning Slurm may be ending the job: after a preemption it requeues by itself, and after scancel nobody wants it.
if [[ -n $warned || $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
    if (( ${{SLURM_RESTART_COUNT:-0}} < {max_requeues} )); then
        scontrol requeue "$SLURM_JOB_ID" && echo "stopped before its end, queued again"
    else
        echo "stopped before its end, not queued again after {max_requeues} times"
    fi
fi
exit 143
"""


def sbatch_script(job: Job, options: Mapping[str, str], folder: Path = Path()) -> str:
    """A file for sbatch that trains one job, by srun where it has several tasks.

    Args:
        job: the training.
        options: as in `submit`.
        folder: where its log goes.

    Raises:
        ConfigError: an option that cannot be.
    """
    options = check(options)
    log = str(folder.absolute() / f"{file_name(job)}-").replace("%", "%%") + "%j.log"
    directives = {
        "job-name": job.name,
        "output": log,
        "chdir": str(Path.cwd()),
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:USR1@{options['grace']}",
        **_directives(options),
    }
    tasks = [int(options.get(name, "1")) for name in ("nodes", "ntasks", "ntasks_per_node")]
    srun = ["srun", "--kill-on-bad-exit=1"] if max(tasks) > 1 else []
    lines = [f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "") for name, value in directives.items()]
    return SCRIPT.format(
        directives="\n".join(lines),
        command=shlex.join([*srun, *command(job)]),
        workdir=shlex.quote(str(job.workdir.absolute())),
        stopped=" ".join(map(str, STOPPED)),
        max_requeues=options["max_requeues"],
    )


def _directives(options: Mapping[str, str]) -> dict[str, str]:
    """The options that are sbatch's."""
    return {name.replace("_", "-"): value for name, value in options.items() if name not in DEFAULTS}


def _sbatch(script: Path) -> str:
    result = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    if result.returncode:
        raise ConfigError(f"sbatch refused {script}: {' '.join(result.stderr.split())}")
    return result.stdout.strip().partition(";")[0]


# ---------------------------------------------------------------- submitit
def _submitit(job: Job, folder: Path, options: Mapping[str, str]) -> str:
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise ConfigError("submitit is not installed: pip install 'diffrl[slurm]', or write plain sbatch files") from None
    if shutil.which("srun") is None:
        raise ConfigError("no Slurm here: srun is not on the path; plain sbatch files can be written without it")
    executor = SlurmExecutor(folder / file_name(job), max_num_timeout=int(options["max_requeues"]))
    directives = {"requeue": True, "signal": f"USR2@{options['grace']}", **_directives(options)}
    directives |= {name: True for name, value in directives.items() if value == ""}
    executor.update_parameters(
        job_name=job.name,
        time=-(-seconds(options["time"]) // 60),
        stderr_to_stdout=True,
        setup=["export SUBMITIT_PREEMPT_SIGNAL=USR2"],
        srun_args=["--kill-on-bad-exit=1"],
        additional_parameters=directives,
    )
    try:
        return executor.submit(Training(job)).job_id
    except (FailedJobError, FailedSubmissionError) as error:
        raise ConfigError(f"sbatch refused {job.name!r}: {' '.join(str(error).split())}") from error


class Training:
    """What submitit runs in every task of a job: the training as a child process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pid = 0

    def __call__(self) -> NoReturn:
        """Train; ends the task with the training's exit code, or queues the job again where something stopped it."""
        if os.environ.get("SLURM_PROCID", "0") != "0":
            # Slurm warns every task; submitit acts in the first alone.
            signal.signal(signal.SIGUSR2, lambda *_: self._stop())
        arguments = command(self.job)
        # Slurm sends its warning to all processes, and of this one a training that knows nothing of it would die.
        self.pid = os.posix_spawn(arguments[0], arguments, os.environ, setsigmask=[signal.SIGUSR2])
        code = self._wait()
        if not self._stopped(code):
            sys.exit(code)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            _requeue_unless_ending()
            sys.exit(128 + signal.SIGTERM)
        sys.exit(0)

    def checkpoint(self) -> "DelayedSubmission":
        """Slurm's warning, as submitit passes it on: stop the training and say what to run next; submitit requeues the job."""
        from submitit.core.utils import DelayedSubmission

        if self.pid:
            self._stop()
            code = self._wait()
            if not self._stopped(code):
                sys.exit(code)
        return DelayedSubmission(Training(self.job))

    def _stop(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGUSR1)

    def _wait(self) -> int:
        """The exit code. The child is never reaped: a signal handler may wait, too, in the middle of it."""
        end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        return end.si_status if end.si_code == os.CLD_EXITED else 128 + end.si_status

    def _stopped(self, code: int) -> bool:
        return code in STOPPED and not (self.job.workdir / "DONE").exists()


def _requeue_unless_ending() -> None:
    """After a SIGTERM: Slurm itself requeues a preempted job, and after scancel nobody wants it."""
    job_id = os.environ["SLURM_JOB_ID"]
    state = subprocess.run(["squeue", "--noheader", f"--jobs={job_id}", "--format=%T"], capture_output=True, text=True).stdout
    if state.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", job_id], check=True)
