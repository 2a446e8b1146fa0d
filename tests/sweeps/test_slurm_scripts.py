"""Jobs for Slurm where there is none: options, names, and the script's way with signals, run by bash with stand-ins for Slurm."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffrl.config import ConfigError
from diffrl.sweeps import slurm

OPTIONS = {"time": "10", "partition": "gpu"}
# Says what it does in a log; stops at the signals that the trainer stops at, after a while, as one that saves.
TRAINING = """
import os, pathlib, signal, sys, time
log, workdir, code = open(sys.argv[1], "a", 1), pathlib.Path(sys.argv[-1].removeprefix("--workdir=")), int(sys.argv[2])
def stop(number, _):
    os.write(log.fileno(), f"{signal.Signals(number).name}\\n".encode())  # print would fail where it interrupts itself
    globals()["stopped"] = True
stopped = False
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, stop)
print("start", file=log)
if code < 0:
    while not stopped:
        time.sleep(0.02)
    time.sleep(0.3)
elif code != 2:
    workdir.mkdir(exist_ok=True)
    (workdir / "DONE").touch()
print("end", file=log)
sys.exit(max(code, 0))
"""


def job(folder: Path, *arguments: str) -> slurm.Job:
    return slurm.Job("a job", arguments, folder / "work dir")


def test_script_says_what_slurm_is_asked_for(tmp_path: Path) -> None:
    """Every option under Slurm's name, quoted; arguments reach the program as they are."""
    arguments = ("--config=experiments/x.py:a b", "--config.sweep=beta=0.1,0.2 tau=0.5", "it's $HOME")
    options = {**OPTIONS, "cpus-per-task": "4", "gres": "gpu:1", "comment": "two words", "grace": "60", "exclusive": ""}
    script = slurm.sbatch_script(job(tmp_path, *arguments), options, tmp_path)
    lines = script.splitlines()
    for line in (
        *("--job-name='a job'", "--partition=gpu", "--time=10", "--cpus-per-task=4", "--gres=gpu:1", "--comment='two words'"),
        *("--requeue", "--exclusive", "--open-mode=append", "--signal=B:USR1@60", f"--output={tmp_path}/a_job-%j.log"),
    ):
        assert f"#SBATCH {line}" in lines
    (command,) = [line for line in lines if "train.py" in line or "diffrl.launch" in line]
    words = shlex.split(command)
    assert words[0] == sys.executable
    assert words[-5:] == [*arguments, f"--workdir={tmp_path / 'work dir'}", "&"]
    assert "srun" not in script


@pytest.mark.parametrize("tasks", [{"nodes": "2"}, {"ntasks_per_node": "2"}, {"ntasks": "4"}])
def test_several_tasks_are_started_by_srun(tmp_path: Path, tasks: dict[str, str]) -> None:
    assert f"\nsrun --kill-on-bad-exit=1 {sys.executable}" in slurm.sbatch_script(job(tmp_path), OPTIONS | tasks)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("240", 14400), ("90:30", 5430), ("4:00:00", 14400), ("1-12", 129600), ("1-0:30", 88200), ("0-0:0:5", 5)],
)
def test_times_are_slurms(time: str, seconds: int) -> None:
    assert slurm.seconds(time) == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "10", "partitoin": "gpu"}, "did you mean 'partition'"),
        ({"time": "10", "job_name": "x"}, "set by diffrl itself"),
        ({"time": "10", "no-requeue": ""}, "set by diffrl itself"),
        ({"time": "10", "nodes": "two"}, "whole number"),
        ({"time": "10", "cpus_per_task": "0"}, "whole number"),
        ({"time": "10", "qos": ""}, "no value"),
        ({"time": "10", "comment": "x\n#SBATCH --uid=0"}, "no value that can be written"),
        ({"partition": "gpu"}, "'time' is missing"),
        ({"time": "4h"}, "none of minutes"),
        ({"time": "1:2:3:4"}, "none of minutes"),
        ({"time": "0"}, "no limit"),
        ({"time": "2"}, "does not fit"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_impossible_options_are_refused_at_once(tmp_path: Path, options: dict[str, str], message: str, plain: bool) -> None:
    with pytest.raises(ConfigError, match=message):
        slurm.submit([job(tmp_path)], tmp_path / "jobs", options, plain=plain)
    assert not (tmp_path / "jobs").exists()


def test_names_must_differ_as_files(tmp_path: Path) -> None:
    jobs = [slurm.Job(name, (), tmp_path) for name in ("a b", "a/b")]
    with pytest.raises(ConfigError, match="names that differ"):
        slurm.submit(jobs, tmp_path, OPTIONS, plain=True)


def test_files_are_written_where_there_is_no_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert slurm.submit([job(tmp_path), slurm.Job("b", (), tmp_path)], tmp_path / "jobs", OPTIONS, plain=True) == []
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a_job.sbatch", "b.sbatch"]
    assert f"for s in {tmp_path}/jobs/*.sbatch; do sbatch" in capsys.readouterr().out


def test_what_sbatch_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = 'if [[ -e "$2.refuse" ]]; then echo -e "error: no such\\npartition" >&2; exit 1; fi'
    program(tmp_path / "bin" / "sbatch", f'{refuse}\necho "17;here"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert slurm.submit([job(tmp_path)], tmp_path, OPTIONS, plain=True) == ["17"]
    (tmp_path / "a_job.sbatch.refuse").touch()
    with pytest.raises(ConfigError, match=r"sbatch refused .*a_job.sbatch: error: no such partition"):
        slurm.submit([job(tmp_path)], tmp_path, OPTIONS, plain=True)


def test_without_submitit_or_slurm_there_is_a_plain_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"srun is not on the path"):
        slurm.submit([job(tmp_path)], tmp_path, OPTIONS)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffrl\[slurm\]'"):
        slurm.submit([job(tmp_path)], tmp_path, OPTIONS)


# ---------------------------------------------------------------- the script's behaviour
class Started:
    """The script of a stand-in training under bash, with stand-ins for squeue and scontrol."""

    def __init__(self, folder: Path, code: int, state: str = "RUNNING", restarts: int = 0, limit: int = 100) -> None:
        self.log, self.workdir = folder / "log", folder / "work dir"
        bin_folder = folder / "bin"
        program(bin_folder / "squeue", f"echo {state}")
        program(bin_folder / "scontrol", f'echo "$@" >> {shlex.quote(str(self.log))}')
        (folder / "training.py").write_text(TRAINING)
        script = slurm.sbatch_script(job(folder), {**OPTIONS, "max_requeues": str(limit)}, folder)
        stand_in = shlex.join([sys.executable, str(folder / "training.py"), str(self.log), str(code)])
        real = shlex.join(slurm.command(job(folder))[:-1])
        assert real in script
        (folder / "job.sbatch").write_text(script.replace(real, stand_in))
        environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts)}
        self.process = subprocess.Popen(
            ["bash", str(folder / "job.sbatch")], env=os.environ | environment, start_new_session=True, stdout=subprocess.PIPE
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def when_started(self) -> int:
        """The process, once the training runs."""
        deadline = time.monotonic() + 30
        while "start" not in self.lines():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.process.pid

    def end(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("code", [0, 3])
def test_a_complete_training_ends_the_job_with_its_code(tmp_path: Path, code: int) -> None:
    started = Started(tmp_path, code)
    assert started.end() == code
    assert started.lines() == ["start", "end"]


def test_a_users_mistake_is_not_tried_again(tmp_path: Path) -> None:
    started = Started(tmp_path, 2)
    assert started.end() == 2
    assert started.lines() == ["start", "end"]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_the_warning_goes_on_to_the_training_and_requeues(tmp_path: Path, state: str) -> None:
    """Also where the save outlasts the time limit, and Slurm's SIGTERM comes into it."""
    started = Started(tmp_path, -1, state)
    os.kill(started.when_started(), signal.SIGUSR1)
    time.sleep(0.15)
    os.killpg(started.process.pid, signal.SIGTERM)
    assert started.end() == 143
    lines = started.lines()
    assert lines[:2] == ["start", "SIGUSR1"]
    assert "SIGTERM" in lines
    assert lines[-2:] == ["end", "requeue 17"]


def test_sigterm_to_the_shell_alone_reaches_the_training(tmp_path: Path) -> None:
    started = Started(tmp_path, -1)
    os.kill(started.when_started(), signal.SIGTERM)
    assert started.end() == 143
    assert started.lines() == ["start", "SIGUSR1", "end", "requeue 17"]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", ""])
def test_sigterm_to_all_processes_is_waited_for(tmp_path: Path, state: str) -> None:
    """As preemption, requeue and cancellation send it; where Slurm itself is ending the job, nothing is queued again."""
    started = Started(tmp_path, -1, state)
    os.killpg(started.when_started(), signal.SIGTERM)
    assert started.end() == 143
    assert started.lines().count("SIGTERM") == 1
    assert "end" in started.lines()
    assert ("requeue 17" in started.lines()) == (state == "RUNNING")


def test_a_limit_to_requeues(tmp_path: Path) -> None:
    started = Started(tmp_path, -1, restarts=5, limit=5)
    os.kill(started.when_started(), signal.SIGUSR1)
    assert started.end() == 143
    assert "requeue 17" not in started.lines()
