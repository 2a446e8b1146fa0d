"""Successive halving: who is dropped, that survivors do not notice, and that an interruption changes nothing."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from programs import TINY_SRPO, assert_same_checkpoints, collect, run
from support import runs_of

from diffrl.algorithms import srpo
from diffrl.config import Config, ConfigError, HalvingConfig
from diffrl.training import halving
from diffrl.training.checkpoint import Checkpoints

POINTS = ("--config.num_seeds=2", "--config.sweep=beta=0.1,0.2,0.4,8.0")
RUNGS = ("--config.halving.rungs=(42,50)",)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("halving")
    collect(root)
    return root


def metrics(workdir: Path) -> dict[tuple, float]:
    rows = map(json.loads, (workdir / "metrics/train.jsonl").read_text().splitlines())
    return {(row["run"], row["step"], row["name"]): row["value"] for row in rows}


@pytest.mark.slow
def test_points_are_dropped_by_a_metric(root: Path) -> None:
    """Four points, then two, then one: the choice follows the metric on disk; the rest train on as if nothing had been."""
    flags = ("launch/train.py", *TINY_SRPO, *POINTS)
    run(root, *flags, f"--workdir={root / 'all'}")
    output = run(root, *flags, *RUNGS, "--config.halving.criterion=-policy/loss", f"--workdir={root / 'half'}").stdout
    everything, halved = metrics(root / "all"), metrics(root / "half")
    means = {point: np.mean([everything[2 * point + seed, 42, "policy/loss"] for seed in (0, 1)]) for point in range(4)}
    kept = sorted(sorted(means, key=means.__getitem__)[:2])
    assert "at update 42 dropped 2 of 4 points by -policy/loss" in output
    assert {run for run, step, _ in halved if step == 46} == {2 * p + s for p in kept for s in (0, 1)}
    (winner,) = {run // 2 for run, step, _ in halved if step == 58}
    assert winner == min(kept, key=lambda p: np.mean([everything[2 * p + s, 50, "policy/loss"] for s in (0, 1)]))
    for (index, step, name), value in halved.items():
        np.testing.assert_allclose(value, everything[index, step, name], rtol=1e-3, atol=1e-4)

    checkpoints = Checkpoints(root / "half")
    dropped = checkpoints.progress(58).dropped
    assert sorted(dropped.values()) == [42] * 4 + [50] * 2
    assert checkpoints.progress(42).dropped == {}
    timings = [json.loads(line) for line in (root / "half/metrics/timings.jsonl").read_text().splitlines()]
    assert [t["runs"] for t in timings] == [8, 8, 8, 4, 2]

    killed = ("tests/resume/killed_trainer.py", "after", "7", *TINY_SRPO, *POINTS, *RUNGS)
    result = run(root, *killed, "--config.halving.criterion=-policy/loss", f"--workdir={root / 'killed'}", code=None)
    assert result.returncode == -signal.SIGKILL
    run(root, *flags, *RUNGS, "--config.halving.criterion=-policy/loss", f"--workdir={root / 'killed'}")
    assert_same_checkpoints(root / "killed", root / "half")


@pytest.mark.slow
def test_points_are_dropped_by_evaluation(root: Path) -> None:
    """The evaluation at the rung is kept as a result; dropped runs say so in later ones."""
    workdir = root / "evaluated"
    halve = ("--config.halving.rungs=(42,)", "--config.halving.episodes=2", "--config.sweep=beta=0.1,8.0", "--config.num_seeds=2")
    output = run(root, "launch/train.py", *TINY_SRPO, *halve, f"--workdir={workdir}").stdout
    assert "dropped 1 of 2 points by mean return of 2 episodes a run" in output
    (path,) = (workdir / "evaluations/42").glob("*.json")
    returns = np.array([each["returns"] for each in json.loads(path.read_text())["runs"]]).mean(axis=1).reshape(2, 2).mean(axis=1)
    loser = int(np.argmin(returns)) if returns[0] != returns[1] else 1
    assert sorted(Checkpoints(workdir).progress(58).dropped) == [2 * loser, 2 * loser + 1]
    run(root, "launch/evaluate.py", f"--workdir={workdir}", "--step=last", "--episodes=2")
    (path,) = (workdir / "evaluations/58").glob("*.json")
    assert json.loads(path.read_text())["runs"][2 * loser]["stopped"] == "dropped at update 42"


@pytest.mark.parametrize(
    ("rungs", "criterion", "sweep", "message"),
    [
        ((40,), "evaluation", "", "needs several hyper-parameter points"),
        ((40,), "evaluation", "expectile=0.6,0.7", "no policy to evaluate; the last stage begins at 60"),
        ((40,), "-policy/loss", "beta=0.1,0.2", "the points are still the same; they differ after 60"),
        ((100,), "-policy/loss", "beta=0.1,0.2", "must lie before the end of training at 100"),
    ],
)
def test_rungs_that_decide_nothing_are_refused(rungs: tuple[int, ...], criterion: str, sweep: str, message: str) -> None:
    """Of three stages that end at 30, 60 and 100 updates; expectile is read from the second on, β in the third."""
    config = Config(algorithm=srpo.Config(), halving=HalvingConfig(rungs=rungs, criterion=criterion))
    runs = runs_of(srpo.Config(), 2, sweep=sweep)
    apart, together = list(range(runs.size)), [0, 1] * (runs.size // 2)
    same = [together, apart if sweep.startswith("exp") else together, apart]
    with pytest.raises(ConfigError, match=message):
        halving.check(config, runs, same, [30, 60, 100], can_evaluate=True)
    halving.check(Config(algorithm=srpo.Config()), runs, same, [30, 60, 100], can_evaluate=False)
