"""The programs as a user runs them: collect, train, evaluate, report; and what they say to a mistake."""

import csv
import json
import time
from pathlib import Path

import pytest
from programs import TINY_SRPO, collect, run

TINY_BC = (
    "--config=experiments/bc_pointmaze.py:umaze",
    "--config.num_seeds=2",
    "--config.sweep=learning_rate=1e-3,1e-2",
    "--config.updates_per_chunk=100",
    "--config.checkpoint_every=100",
    "--config.algorithm.hidden_dims=(16,)",
    "--config.algorithm.num_updates=200",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("programs")
    collect(root)
    return root


def test_from_data_to_table(root: Path) -> None:
    """A sweep of 2 seeds x 2 learning rates: metrics per run, results per run, a table with a row per learning rate."""
    workdir = root / "bc"
    run(root, "launch/train.py", *TINY_BC, f"--workdir={workdir}")
    rows = [json.loads(line) for line in (workdir / "metrics" / "train.jsonl").read_text().splitlines()]
    losses = {(row["run"], row["step"]): row for row in rows if row["name"] == "policy/loss"}
    assert sorted(losses) == [(r, step) for r in range(4) for step in (100, 200)]
    assert [losses[r, 200]["seed"] for r in range(4)] == [0, 1, 0, 1]
    assert [losses[r, 200]["hparams"] for r in (0, 3)] == [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]
    assert all(losses[r, 200]["value"] < losses[r, 100]["value"] for r in range(4))

    run(root, "launch/evaluate.py", f"--workdir={workdir}", "--episodes=3")
    again = run(root, "launch/evaluate.py", f"--workdir={workdir}", "--episodes=3")
    results = sorted((workdir / "evaluations").glob("*/*.json"))
    assert [path.parent.name for path in results] == ["100", "200"]
    result = json.loads(results[-1].read_text())
    assert [len(each["returns"]) for each in result["runs"]] == [3] * 4
    assert "JAX" in again.stdout

    run(root, "launch/report.py", str(workdir), f"--out={root / 'report'}")
    with (root / "report" / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2
    assert (root / "report" / "results.md").read_text().count("![") == 2


@pytest.mark.slow
def test_simulator_of_the_data_evaluates_too(root: Path) -> None:
    """The C simulator, restored from the dataset's own card, plays whole episodes of a trained checkpoint."""
    workdir = root / "bc_gymnasium"
    run(root, "launch/train.py", *TINY_BC, "--config.num_seeds=1", "--config.sweep=", f"--workdir={workdir}")
    run(root, "launch/evaluate.py", f"--workdir={workdir}", "--episodes=2", "--backend=gymnasium", "--step=last")
    (path,) = (workdir / "evaluations" / "200").glob("*.json")
    assert json.loads(path.read_text())["runs"][0]["lengths"] == [300, 300]


TINY_SUITE = """
from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig

METHODS = ("narrow", "wide")


def get_config(cell):
    method, dataset = cell.split(",")
    algorithm = bc.Config(hidden_dims=(8 if method == "narrow" else 16,), num_updates=20, batch_size=8)
    return Config(algorithm=algorithm, dataset=DatasetConfig(id=f"diffrl/{dataset}-v0"), num_seeds=2, updates_per_chunk=10)
"""


@pytest.mark.slow
def test_suite_trains_and_evaluates_every_cell_once(root: Path) -> None:
    """Methods x datasets in one process; a second call finds everything done; what is missing is named before any cell runs."""
    experiment, out = root / "tiny_suite.py", root / "suite"
    experiment.write_text(TINY_SUITE)
    command = ("launch/suite.py", f"--experiment={experiment}", f"--out={out}", "--episodes=2", "--budget=2")
    run(root, *command, "--datasets=pointmaze/umaze-fixedgoal")
    cells = sorted(path.parent for path in out.glob("*/*/DONE"))
    assert [cell.name for cell in cells] == ["narrow", "wide"]
    (path,) = (cells[0] / "evaluations" / "40").glob("*.json")  # twice the experiment's 20 updates
    written = path.stat().st_mtime_ns
    again = run(root, *command, "--datasets=pointmaze/umaze-fixedgoal", "--methods=narrow")
    assert "already trained to the end" in again.stdout
    assert path.stat().st_mtime_ns == written

    missing = run(root, *command, "--datasets=hopper/*", code=2)
    assert "not on this machine: hopper/random, hopper/medium" in missing.stderr
    assert "--recipe=hopper/random-v0" in missing.stderr
    assert "'narow' is not in" in run(root, *command, "--methods=narow", code=2).stderr
    assert "no dataset of the suite small matches 'hoper/*'" in run(root, *command, "--datasets=hoper/*", code=2).stderr
    assert "lists no METHODS" in run(root, "launch/suite.py", "--experiment=bc_pointmaze", code=2).stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.algorithm.betta=1"], "did you mean 'algorithm.beta'"),
        (["--config.num_seeds=0"], "num_seeds must be at least 1"),
        (["--config.num_seeds=three"], "num_seeds must be int"),
        (["--config.algorithm.policy_updates=-5"], "policy_updates must be at least 1"),
        (["--config.algorithm.discount=1.5"], "discount must be at most 1.0"),
        (["--config.algorithm.weighting=sigma"], "weighting 'sigma' is unknown"),
        (["--config.sweep=policy_updates=10,20"], "cannot be swept in one"),
        (["--config.sweep=betta=1,2"], "did you mean 'beta'"),
        (["--config.sweep=discount=0.9,1.5"], "discount must be at most 1.0"),
        (["--config.dataset.id=diffrl/pointmaze/nowhere-v0"], "diffrl/pointmaze/nowhere-v0"),
        (["--config.dataset.reward_scale=double"], "reward_scale 'double' is unknown"),
        (["--config=srpo_pointmaz"], "did you mean 'srpo_pointmaze'"),
        (["--workdir=/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["leftover"], "unexpected argument 'leftover'"),
    ],
)
def test_mistakes_are_named_before_anything_starts(root: Path, flags: list[str], message: str) -> None:
    workdir = root / "mistake"
    result = run(root, "launch/train.py", *TINY_SRPO, f"--workdir={workdir}", *flags, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (workdir / "checkpoints").exists()


def test_download_without_network_says_what_to_do(root: Path) -> None:
    """Whether the name cannot be resolved, the connection is refused or nobody answers: seconds, not retries."""
    began = time.monotonic()
    result = run(root, "launch/collect.py", "--download=D4RL/pointmaze/umaze-v2", code=2, offline=True)
    assert "cannot be downloaded" in result.stderr
    assert "Traceback" not in result.stderr
    assert time.monotonic() - began < 30


def test_help_explains(root: Path) -> None:
    for program, word in (
        ("collect", "--recipe"),
        ("train", "--workdir"),
        ("evaluate", "--watch"),
        ("report", "--out"),
        ("benchmark", "--runs"),
        ("suite", "--methods"),
    ):
        assert word in run(root, f"launch/{program}.py", "--help", code=None).stdout
