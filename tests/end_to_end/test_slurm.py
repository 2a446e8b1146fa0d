"""Trainings as jobs of a real Slurm: warned, preempted, requeued, cancelled; in the end what an undisturbed training gives."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import ROOT, TINY_SRPO, collect, environment, run
from resume.test_resume import assert_same_training
from slurm_cluster import INSTALL, Cluster, cluster, wanted

from diffrl.sweeps import slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not wanted(), reason=f"Slurm is not installed; {INSTALL}=1 installs Debian's packages, as `make test-slurm` does"
    ),
]

# Nothing but signals and the ends of stages makes checkpoints.
TRAINING = (
    *TINY_SRPO,
    "--config.updates_per_chunk=20",
    "--config.checkpoint_every=1000000",
    "--config.algorithm.policy_hidden_dims=(256,256)",
    "--config.algorithm.policy_batch_size=256",
    "--cpu_devices=1",
)
BEFORE_POLICY = 18 + 16
PATIENCE = 300  # seconds, for whatever takes a few when the machine is idle
WAYS = pytest.mark.parametrize("plain", [True, False], ids=["sbatch", "submitit"])


@pytest.fixture(scope="module")
def slurmed() -> Iterator[Cluster]:
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, slurmed: Cluster) -> Iterator[Path]:
    """A folder with a dataset; this process submits to the cluster, from the repository's root."""
    root = tmp_path_factory.mktemp("slurm")
    collect(root)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment(root) | slurmed.environment).items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        yield root


@pytest.fixture(scope="module")
def rate(root: Path) -> float:
    """Updates per second of this machine."""
    run(root, "launch/train.py", *TRAINING, "--config.algorithm.policy_updates=500", f"--workdir={root / 'rate'}")
    timings = (root / "rate" / "metrics" / "timings.jsonl").read_text().splitlines()
    return json.loads(timings[-1])["per_second"]


def training(seconds: float, rate: float) -> tuple[str, ...]:
    """A training that takes about that long when it has the machine to itself."""
    return (*TRAINING, f"--config.algorithm.policy_updates={int(seconds * rate)}")


@pytest.fixture(scope="module")
def arguments(rate: float) -> tuple[str, ...]:
    """More than fits into the time limit of two minutes, of which Slurm's warning leaves at most 75 s."""
    return training(75, rate)


@pytest.fixture(scope="module")
def uninterrupted(root: Path, arguments: tuple[str, ...]) -> Path:
    """The workdir of a training that nothing disturbed."""
    run(root, "launch/train.py", *arguments, f"--workdir={root / 'uninterrupted'}", timeout=600)
    return root / "uninterrupted"


class Submitted:
    """A training's job."""

    def __init__(self, root: Path, name: str, arguments: tuple[str, ...], plain: bool, **options: str) -> None:
        name = f"{name} {'sbatch' if plain else 'submitit'}"
        self.workdir = root / name
        self.folder = root / "jobs" / name
        (self.id,) = slurm.submit([slurm.Job(name, arguments, self.workdir)], self.folder, options, plain=plain)

    def log(self) -> str:
        """What the job and its training printed."""
        return "\n".join(path.read_text() for path in self.folder.rglob(f"*{self.id}*") if path.suffix in (".log", ".out"))

    def updates(self) -> int:
        """How far the metrics on disk reach."""
        path = self.workdir / "metrics" / "train.jsonl"
        return json.loads(path.read_text().splitlines()[-1])["step"] if path.exists() and path.read_text() else 0

    def resumed(self) -> list[int]:
        """Where trainings went on."""
        words = self.log().replace(",", "").split("resuming at update ")
        return [int(text.split()[0]) for text in words[1:]]


def test_time_limit(slurmed: Cluster, root: Path, arguments: tuple[str, ...], uninterrupted: Path) -> None:
    """A time limit of two minutes, of which Slurm, looking twice a minute, leaves 45 to 75 s: warned, saved, queued again."""
    jobs = [Submitted(root, "limit", arguments, plain, time="2", grace="45") for plain in (True, False)]
    for job in jobs:
        end = slurmed.wait(job.id, 900)
        print(job.workdir.name, end["Restarts"], job.resumed())
        assert (end["JobState"], end["ExitCode"]) == ("COMPLETED", "0:0"), job.log()
        assert int(end["Restarts"]) >= 1, job.log()
        assert job.resumed(), job.log()
        assert max(job.resumed()) > BEFORE_POLICY, job.log()
        assert "stopped by SIGUSR1" in job.log()
        assert "TIME LIMIT" not in job.log()
        assert_same_training(job.workdir, uninterrupted)


def test_requeue_by_hand_and_preemption(slurmed: Cluster, root: Path, arguments: tuple[str, ...], uninterrupted: Path) -> None:
    """Slurm's SIGTERM, for an administrator's requeue and for a job of a partition that comes first."""
    jobs = [Submitted(root, "mishaps", arguments, plain, time="60") for plain in (True, False)]
    for job in jobs:
        slurmed.until(lambda job=job: job.updates() > BEFORE_POLICY, PATIENCE)
    slurmed.call("scontrol", "requeue", ",".join(job.id for job in jobs))
    for job in jobs:
        slurmed.until(lambda job=job: len(job.resumed()) == 1, PATIENCE)
        first = job.resumed()[0]
        assert first > BEFORE_POLICY
        slurmed.until(lambda job=job, first=first: job.updates() > first, PATIENCE)
    urgent = slurmed.call(
        "sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    ).strip()
    assert slurmed.wait(urgent, PATIENCE)["JobState"] == "COMPLETED"
    for job in jobs:
        end = slurmed.wait(job.id, 600)
        print(job.workdir.name, end["Restarts"], job.resumed())
        assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("COMPLETED", "0:0", "2"), job.log()
        assert BEFORE_POLICY < job.resumed()[0] < job.resumed()[1]
        assert "DUE TO JOB REQUEUE" in job.log()
        assert "DUE TO PREEMPTION" in job.log()
        assert_same_training(job.workdir, uninterrupted)


@WAYS
def test_cancelled_saves_and_stays_so(slurmed: Cluster, root: Path, arguments: tuple[str, ...], plain: bool) -> None:
    job = Submitted(root, "cancelled", arguments, plain, time="60")
    slurmed.until(lambda: job.updates() > BEFORE_POLICY, PATIENCE)
    slurmed.call("scancel", job.id)
    slurmed.until(lambda: not slurmed.call("squeue", "--noheader", f"--jobs={job.id}"), 60)
    end = slurmed.job(job.id)
    assert (end["JobState"], end["Restarts"]) == ("CANCELLED", "0")
    assert "state saved" in job.log()
    again = Submitted(root, "cancelled", arguments, plain, time="60")
    slurmed.until(lambda: len(again.resumed()) == 1, PATIENCE)
    assert again.resumed()[0] > BEFORE_POLICY
    slurmed.call("scancel", again.id)


@WAYS
def test_a_mistake_is_told_once(slurmed: Cluster, root: Path, plain: bool) -> None:
    """The program's exit code is the job's, and nobody tries again."""
    job = Submitted(root, "mistake", (*TRAINING, "--config.algorithm.bata=1"), plain, time="60")
    end = slurmed.wait(job.id, PATIENCE)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "2:0", "0")
    assert job.log().count("did you mean 'algorithm.beta'?") == 1


@WAYS
def test_several_tasks_are_warned_together(slurmed: Cluster, root: Path, rate: float, plain: bool) -> None:
    """Two processes, one training; the warning is Slurm's, sent by hand: to the script, or to submitit's tasks."""
    job = Submitted(root, "tasks", training(20, rate), plain, time="60", ntasks_per_node="2")
    slurmed.until(lambda: job.updates() > BEFORE_POLICY, PATIENCE)
    slurmed.call("scancel", *(["--batch", "--signal=USR1"] if plain else ["--signal=USR2"]), job.id)
    end = slurmed.wait(job.id, 300)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("COMPLETED", "0:0", "1"), job.log()
    assert job.resumed()[0] > BEFORE_POLICY
