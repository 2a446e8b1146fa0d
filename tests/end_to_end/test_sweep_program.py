"""launch/sweep.py as a user runs it: groups, sharing of early stages, going on, splitting by memory, reports and mistakes."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, TINY_BC, TINY_SRPO, collect, environment, run

SWEEP = ("launch/sweep.py", *TINY_SRPO, "--config.checkpoint_every=24", "--episodes=2")
WIDE = ("--sweep=algorithm.beta=0.1,0.2", "--sweep=seeds=0:2", "--sweep=policy_hidden_dims=(16,)")
AXES = (*WIDE[:2], "--sweep=policy_hidden_dims=(8,),(16,)")
GROUPS = ["policy_hidden_dims-8", "policy_hidden_dims-16"]
# Of a method that is trained in a moment.
CLONES = ("launch/sweep.py", *TINY_BC, "--config.checkpoint_every=24", "--episodes=2")
CLONED = ("--sweep=learning_rate=0.1,0.2", "--sweep=seeds=0:2", "--sweep=hidden_dims=(8,),(16,)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a dataset. Programs that run for moments are compiled quickly."""
    root = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        collect(root)
        yield root


@pytest.fixture(scope="module")
def swept(root: Path) -> tuple[Path, str]:
    """A sweep of 2 betas × 2 seeds × 2 widths that nothing disturbed, and what it printed."""
    done = run(root, *SWEEP, *AXES, f"--out={root / 'swept'}", timeout=250)
    return root / "swept", done.stdout


@pytest.fixture(scope="module")
def cloned(root: Path) -> tuple[Path, str]:
    """A sweep of 2 rates × 2 seeds × 2 widths that nothing disturbed, and what it printed."""
    done = run(root, *CLONES, *CLONED, f"--out={root / 'cloned'}", timeout=250)
    return root / "cloned", done.stdout


@pytest.fixture(scope="module")
def forecast(root: Path) -> dict[str, Any]:
    """What --dry_run says of the wide group of the same sweep."""
    path = root / "forecast.json"
    done = run(root, *SWEEP, *WIDE, f"--out={root / 'forecast'}", "--dry_run", f"--json={path}", timeout=250)
    assert "what the sweep will cost" in done.stdout
    assert not (root / "forecast").exists()
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_dry_run_says_what_is_trained_and_writes_nothing(forecast: dict[str, Any]) -> None:
    """Only the policy stage reads beta: before it two seeds stand for four runs, and half the states are held."""
    assert forecast["total_runs"] == 4
    assert forecast["total_seconds"] > 0
    (training,) = forecast["trainings"]
    assert training["label"] == GROUPS[1]
    assert [(each["stage"], each["runs"], each["distinct_runs"], each["updates"]) for each in training["stages"]] == [
        ("behavior", 4, 2, 18),
        ("critic", 4, 2, 16),
        ("policy", 4, 4, 24),
    ]
    _, critic, policy = training["stages"]
    # At least the dataset: 2,000 rows of 17 floats.
    assert policy["memory_bytes"] > critic["memory_bytes"] > 2000 * 17 * 4


@pytest.mark.slow
def test_stages_that_are_the_same_for_several_runs_are_trained_once(swept: tuple[Path, str]) -> None:
    out, printed = swept
    assert "saved at most" in printed
    timings = [json.loads(line) for line in (out / GROUPS[1] / "metrics" / "timings.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["runs"], line["distinct_runs"]) for line in timings] == [
        ("behavior", 4, 2),
        ("critic", 4, 2),
        ("policy", 4, 4),
    ]


def test_groups_are_trained_evaluated_and_reported(cloned: tuple[Path, str]) -> None:
    out, _ = cloned
    groups = ["hidden_dims-8", "hidden_dims-16"]
    assert sorted(path.parent.name for path in out.glob("*/DONE")) == sorted(groups)
    with (out / "report" / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    assert {(row["group"], row["learning_rate"], row["seed"]) for row in table} == {
        (group, rate, seed) for group in groups for rate in ("0.1", "0.2") for seed in ("0", "1")
    }
    page = (out / "report" / "sweep.md").read_text()
    assert "![learning_rate](learning_rate.png)" in page
    assert "## Time" in page
    assert (out / "report" / "learning_rate.png").stat().st_size > 10_000


def test_the_same_command_leaves_what_is_done_alone(root: Path, cloned: tuple[Path, str]) -> None:
    out, _ = cloned
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if "report" not in path.parts}
    again = run(root, *CLONES, *CLONED, f"--out={out}")
    assert again.stdout.count("is already trained to the end") == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if "report" not in path.parts} == before


@pytest.mark.slow
def test_a_group_is_a_training_command(root: Path, swept: tuple[Path, str], forecast: dict[str, Any]) -> None:
    """The command that a dry run names, in the directory of the sweep's own group, finds it done with the same settings."""
    command = forecast["trainings"][0]["command"]
    assert command[-1] == f"--workdir={root / 'forecast' / GROUPS[1]}"
    assert "is already trained to the end" in run(root, *command[:-1], f"--workdir={swept[0] / GROUPS[1]}").stdout


def test_another_sweep_is_refused_with_the_differences(root: Path, cloned: tuple[Path, str]) -> None:
    result = run(root, *CLONES, "--sweep=learning_rate=0.1,0.3", *CLONED[1:], f"--out={cloned[0]}", code=2)
    assert "holds another sweep" in result.stderr
    assert "axis algorithm.learning_rate: '0.1,0.2' there, '0.1,0.3' now" in result.stderr


@pytest.mark.slow
def test_what_does_not_fit_is_split_and_stays_split(root: Path, forecast: dict[str, Any], swept: tuple[Path, str]) -> None:
    """With less memory than its four runs need a group becomes two parts; the report puts them together again."""
    needed = max(stage["memory_bytes"] for stage in forecast["trainings"][0]["stages"])
    out = root / "split"
    done = run(root, *SWEEP, *WIDE, f"--out={out}", f"--memory_gb={0.99 * needed / 1e9}", timeout=250)
    assert "split into 2 parts: 1 seeds from 0, 1 seeds from 1" in done.stdout
    assert sorted(str(path.parent.relative_to(out)) for path in out.glob("**/DONE")) == [f"{GROUPS[1]}/part{i}" for i in (0, 1)]
    with (out / "report" / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    with (swept[0] / "report" / "sweep.csv").open() as file:
        unsplit = [row for row in csv.DictReader(file) if row["group"] == GROUPS[1]]
    assert [(row["beta"], row["seed"]) for row in table] == [(row["beta"], row["seed"]) for row in unsplit]
    again = run(root, *SWEEP, *WIDE, f"--out={out}")  # without --memory_gb
    assert again.stdout.count("is already trained to the end") == 2


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(root: Path) -> None:
    out = root / "signal"
    command = (*SWEEP, "--sweep=beta=0.1,0.2", "--sweep=seeds=0:1", "--config.algorithm.policy_updates=100000", f"--out={out}")
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 200
        while not (out / "all" / "checkpoints" / "58").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "0 of 1 trainings are complete; the same command goes on" in output
    assert not (out / "all" / "DONE").exists()
    assert not (out / "report").exists()


@pytest.mark.slow
def test_a_run_that_diverges_is_named_and_costs_no_other(root: Path) -> None:
    out = root / "diverged"
    axes = ("--sweep=learning_rate=0.001,1e30", "--sweep=seeds=3:4")
    done = run(root, *SWEEP, *axes, f"--out={out}", code=3)
    assert "diverged: all: run 1 (seed 3, learning_rate=1e+30)" in done.stdout
    page = (out / "report" / "sweep.md").read_text()
    assert "- all, learning_rate=1e+30, seed 3: diverged before" in page
    assert "| learning_rate=1e+30 | 1 | nan |" in page
    assert "| **learning_rate=0.001** |" in page
    # Nothing is left to do, and it is said again.
    assert run(root, *SWEEP, *axes, f"--out={out}", code=3).stdout.count("diverged: all") == 1


def test_jobs_are_what_is_not_done(root: Path) -> None:
    """Without sbatch on the path its files are written and the way to queue them is said."""
    out = root / "jobs"
    arguments = [*SWEEP, *AXES, f"--out={out}", "--submit=sbatch", "--slurm=time=60"]
    without_slurm = f"import os, runpy, sys; os.environ['PATH'] = ''; sys.argv = {arguments!r}; " + (
        "sys.path.insert(0, '.'); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = run(root, "-c", without_slurm)
    assert "no sbatch here" in result.stdout
    assert "2 of 2 trainings are jobs now" in result.stdout
    scripts = sorted((out / "jobs").glob("*.sbatch"))
    assert [path.stem for path in scripts] == sorted(GROUPS)
    text = scripts[1].read_text()
    assert f"--workdir={out / GROUPS[0]}" in text
    assert text.count("--workdir=") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep=betta=1,2"], "did you mean 'beta'"),
        (["--sweep=discount=0.9,1.5"], "algorithm.discount must be at most 1.0, got 1.5"),
        (["--sweep=weighting=vds,sigma"], "group weighting-sigma: algorithm.weighting 'sigma' is unknown"),
        pytest.param(
            ["--sweep=dataset=diffrl/pointmaze/umaze-fixedgoal-v0,diffrl/pointmaze/medium-fixedgoal-v0"],
            "is not on this machine",
            marks=pytest.mark.slow,
        ),
        (["--sweep=seeds=0:2", "--backend=mujoco"], "--backend=mujoco knows"),
        pytest.param(["--sweep=seeds=0:2", "--memory_gb=1e-6"], "a single run needs", marks=pytest.mark.slow),
        (["--sweep=seeds=0:2", "--config.halving.rungs=(50,)"], "needs several hyper-parameter points"),
        (["--sweep=seeds=0:2", "--slurm=time=4"], "--slurm goes with --submit"),
        (["--sweep=seeds=0:2", "--submit=slurm", "--slurm=tiem=4"], "did you mean 'time'"),
        (["--sweep=seeds=0:2", "--config=srpo_pointmaz"], "did you mean 'srpo_pointmaze'"),
        (["--sweep=seeds=0:2", "--config.algorithm.bta=1"], "did you mean 'algorithm.beta'"),
        ([], "--sweep is missing"),
    ],
)
def test_mistakes_are_named_before_anything_starts(root: Path, flags: list[str], message: str) -> None:
    result = run(root, *SWEEP, f"--out={root / 'mistake'}", *flags, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (root / "mistake").exists()


def test_help_explains(root: Path) -> None:
    text = run(root, "launch/sweep.py", "--help", code=None).stdout
    assert "loguniform(1e-4,1e-2)" in text
    assert "--memory_gb" in text
