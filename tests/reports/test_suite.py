import csv
import dataclasses
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from programs import run
from workdirs import card, describe

from diffrl.algorithms import bc, iql
from diffrl.config import Config, DatasetConfig
from diffrl.data.scores import OGBENCH, Reference
from diffrl.evaluation import results
from diffrl.evaluation.results import Result, Settings
from diffrl.reports import suite as suites
from diffrl.reports import suite_plots, suite_tables, tables
from diffrl.reports.suite import Suite, Task
from diffrl.reports.tables import ReportError

HUNDRED = Reference(0.0, 100.0, "made up")
JAX = Settings("jax", "a maze in JAX", episodes=2, seed=0)
METHODS = {"bc": bc.Config, "iql": iql.Config}


def evaluate(
    root: Path,
    dataset: str,
    method: str,
    returns: list,
    *,
    settings: Settings = JAX,
    reference: Reference | None = HUNDRED,
    step: int = 100,
    sweep: str = "",
    sha256: str = "a",
    name: str = "",
) -> Path:
    """A trained and evaluated workdir, root/dataset/method; `returns` is `[runs, episodes]`, two runs per point of a sweep."""
    workdir = root / dataset / (name or method)
    config = Config(METHODS[method](), DatasetConfig(id=f"tests/{dataset}-v0"), num_seeds=2, sweep=sweep)
    describe(workdir, config, card(id=f"tests/{dataset}-v0", sha256=sha256, comparable_return=7.0))
    array = np.array(returns, np.float64)
    rates = [float(rate) for rate in sweep.partition("=")[2].split(",") if rate]
    points = [{"learning_rate": rate} for rate in rates for _ in range(2)] or [{}] * len(array)
    result = Result(
        step=step,
        settings=dataclasses.replace(settings, episodes=array.shape[1]),
        reference=reference,
        reference_note="made up",
        seeds=[0, 1] * (len(array) // 2),
        hparams=points,
        returns=array,
        lengths=np.full(array.shape, 15, np.int32),
        successes=array > 50,
    )
    results.save(workdir, result, np.zeros((len(array), 0, 1, 1)))
    (workdir / "DONE").write_text("{}")
    return workdir


def two_by_two(root: Path) -> list[Path]:
    return [
        evaluate(root, "one", "bc", [[0, 20], [20, 40]]),  # 10, 30
        evaluate(root, "one", "iql", [[20, 20], [60, 60]]),  # 20, 60
        evaluate(root, "two", "bc", [[90, 90], [90, 90]]),
        evaluate(root, "two", "iql", [[50, 70], [70, 90]]),  # 60, 80
    ]


def read(workdirs: list[Path]) -> Suite:
    return suites.gather(tables.read(workdirs))


def test_the_table_by_hand(tmp_path: Path):
    suite = read(two_by_two(tmp_path))
    assert (suite.methods, [task.dataset for task in suite.tasks]) == (["bc", "iql"], ["tests/one-v0", "tests/two-v0"])
    header, rows = suite_tables.formatted(suite)
    assert header == ["dataset", "data", "bc", "iql"]
    assert rows[0] == ["one", "7.0", "20.0 [10.0, 30.0]", "**40.0** [20.0, 60.0]"]
    assert rows[1] == ["two", "7.0", "**90.0** [90.0, 90.0]", "70.0 [60.0, 80.0]"]
    # Means of dataset means; of two datasets of two runs the outermost resamples.
    assert rows[2] == ["mean of 2", "", "**55.0** [50.0, 60.0]", "**55.0** [40.0, 70.0]"]
    # The middle half of 10, 30, 90, 90 and of 20, 60, 60, 80; equal means are both bold.
    assert rows[3] == ["IQM of 2", "", "**60.0** [50.0, 60.0]", "**60.0** [40.0, 70.0]"]
    markdown = suite_tables.to_markdown(suite, ["suite-scores.png"])
    assert "| dataset | data | bc | iql |\n| --- | ---: | ---: | ---: |\n| one |" in markdown
    assert "2 runs per cell, 2 episodes per run, 100 updates." in markdown
    assert "Reference: 0 = 0, 100 = 100: made up." in markdown
    assert "![suite-scores](suite-scores.png)" in markdown
    assert "not evaluated" not in markdown


def test_improvement_by_hand(tmp_path: Path):
    suite = read(two_by_two(tmp_path))
    # One: 20 > 10, 20 < 30, 60 > both: ¾. Two: never.
    value, interval = suites.improvement(suite, "iql", "bc")
    assert value == pytest.approx(0.375)
    assert interval == (0.0, 0.5)
    header, rows = suite_tables.improvements(suite)
    assert header[1:] == ["bc", "iql"]
    assert rows == [["bc", "", "0.62 [0.50, 1.00]"], ["iql", "0.38 [0.00, 0.50]", ""]]


def test_missing_cells_and_returns_are_left_out_of_the_mean(tmp_path: Path):
    workdirs = two_by_two(tmp_path)
    workdirs.append(evaluate(tmp_path, "three", "iql", [[1, 1], [2, 2]]))
    workdirs += [evaluate(tmp_path, "raw", method, [[1000, 1000], [2000, 2000]], reference=None) for method in METHODS]
    suite = read(workdirs)
    assert [task.dataset for task in suite.shared] == ["tests/one-v0", "tests/two-v0"]
    _, rows = suite_tables.formatted(suite)
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["three"] == ["7.0", "–", "1.5 [1.0, 2.0]"]
    assert by_name["raw †"][1] == "**1500.0** [1000.0, 2000.0]"
    assert by_name["mean of 2"][1] == "**55.0** [50.0, 60.0]"
    lines = suite_tables.explanation(suite)
    assert "three counts in no mean over datasets: not evaluated with bc." in lines
    assert "raw † counts in no mean over datasets: it has no reference scores, so these are returns." in lines
    assert any("over the 2 datasets with scores of all methods" in line for line in lines)


def test_ways_of_acting_tried_on_some_datasets_are_left_out(tmp_path: Path):
    """One that was tried on all of them is a method of its own."""
    workdirs = two_by_two(tmp_path)
    tried = dataclasses.replace(JAX, act=(("num_candidates", "8"),))
    evaluate(tmp_path, "one", "iql", [[80, 80], [80, 80]], settings=tried)
    some = suites.gather(tables.read(workdirs))
    assert some.methods == ["bc", "iql"]
    assert len(some.shared) == 2
    assert any("num_candidates=8" in line for line in suite_tables.explanation(some))
    evaluate(tmp_path, "two", "iql", [[80, 80], [80, 80]], settings=tried)
    every = suites.gather(tables.read(workdirs))
    assert len(every.methods) == 3
    assert not every.left_out
    with pytest.raises(ReportError, match="without --act"):
        suites.gather(
            tables.read(
                [
                    evaluate(tmp_path / "b", "one", "bc", [[1, 2], [3, 4]], settings=tried),
                    evaluate(tmp_path / "b", "two", "bc", [[1, 2], [3, 4]], settings=dataclasses.replace(JAX, act=(("x", "1"),))),
                ]
            )
        )


def test_nothing_shared_is_said(tmp_path: Path):
    suite = read([evaluate(tmp_path, "one", "bc", [[1, 1], [2, 2]]), evaluate(tmp_path, "two", "iql", [[1, 1], [2, 2]])])
    assert suite.shared == []
    assert suite_plots.charts(suite, {}) == {}
    assert suite_plots.draw(suite, {}, {}, tmp_path) == []
    markdown = suite_tables.to_markdown(suite, [])
    assert "No mean over datasets" in markdown
    assert "Probability" not in markdown
    assert len(suite_tables.formatted(suite)[1]) == 2


def test_simulators_have_rows_of_their_own(tmp_path: Path):
    workdirs = two_by_two(tmp_path)
    other = dataclasses.replace(JAX, backend="mujoco", simulator="the original")
    evaluate(tmp_path, "one", "bc", [[0, 0], [1, 1]], settings=other)
    suite = read(workdirs)
    assert suite.tasks == [
        Task("tests/one-v0", "a maze in JAX"),
        Task("tests/one-v0", "the original"),
        Task("tests/two-v0", "a maze in JAX"),
    ]
    _, rows = suite_tables.formatted(suite)
    assert [row[0] for row in rows] == ["one (jax)", "one (mujoco)", "two", "mean of 2", "IQM of 2"]
    assert rows[0][2] == "20.0 [10.0, 30.0]"
    assert rows[1][2:] == ["0.5 [0.0, 1.0]", "–"]


def test_the_latest_evaluation_of_most_episodes_counts(tmp_path: Path):
    workdirs = two_by_two(tmp_path)
    evaluate(tmp_path, "one", "bc", [[80, 80, 80, 80], [80, 80, 80, 80]], step=50)
    evaluate(tmp_path, "one", "bc", [[30, 30, 30, 30], [30, 30, 30, 30]])
    suite = read(workdirs)
    last = suite.cells[suite.tasks[0], "bc"].last
    assert (last.step, last.settings.episodes, last.mean_returns.tolist()) == (100, 4, [30.0, 30.0])
    assert "2 to 4 episodes per run" in suite_tables.to_markdown(suite, [])


def test_what_cannot_stand_together_is_refused(tmp_path: Path):
    workdirs = two_by_two(tmp_path / "a")
    with pytest.raises(ReportError, match=r"iql \(iql\) on tests/one-v0 is in .* and in .*: name only one"):
        read([*workdirs, evaluate(tmp_path / "b", "one", "iql", [[1, 1], [1, 1]])])
    with pytest.raises(ReportError, match="different data of one name, tests/one-v0"):
        read([*workdirs, evaluate(tmp_path / "b", "one", "iql", [[1, 1], [1, 1]], name="again", sha256="b")])
    rescaled = Reference(0.0, 50.0, "made up")
    with pytest.raises(ReportError, match="different references of tests/one-v0: delete their evaluations"):
        read([*workdirs, evaluate(tmp_path / "b", "one", "iql", [[1, 1], [1, 1]], name="again", reference=rescaled)])
    # Another source of the same numbers is no other scale.
    renamed = dataclasses.replace(HUNDRED, source="elsewhere")
    read([workdirs[0], evaluate(tmp_path / "b", "one", "iql", [[1, 1], [1, 1]], reference=renamed)])


def test_a_diverged_run_is_never_left_out(tmp_path: Path):
    workdirs = two_by_two(tmp_path)
    evaluate(tmp_path, "one", "bc", [[0, 20], [np.nan, np.nan]])
    suite = read(workdirs)
    _, rows = suite_tables.formatted(suite)
    assert rows[0][2:] == ["diverged", "**40.0** [20.0, 60.0]"]
    assert rows[2][2] == rows[3][2] == "diverged"
    assert "bc on one: 1 of 2 runs diverged." in suite_tables.explanation(suite)
    share, interval = suites.distribution(suite, "bc", np.array([-1.0, 50.0]))
    np.testing.assert_allclose(share, [0.75, 0.5])  # not above the lowest threshold either
    assert interval is not None


def test_distribution_by_hand(tmp_path: Path):
    suite = read(two_by_two(tmp_path))
    assert suites.thresholds(suite)[[0, -1]].tolist() == [10.0, 90.0]
    share, interval = suites.distribution(suite, "iql", np.array([0.0, 20.0, 60.0, 80.0]))
    # 20, 60 on one dataset, 60, 80 on the other; above means above.
    np.testing.assert_allclose(share, [1.0, 0.75, 0.25, 0.0])
    assert interval is not None
    np.testing.assert_allclose(interval[0], [1.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(interval[1], [1.0, 1.0, 0.5, 0.0])


def test_budget_chooses_by_other_episodes_than_it_reports(tmp_path: Path):
    """Two points of a sweep and two seeds are four policies; even episodes rank them 0 … 3, odd ones the other way round."""
    even, odd = np.array([0.0, 10.0, 20.0, 30.0]), np.array([38.0, 26.0, 14.0, 2.0])
    returns = np.stack([even, odd, even, odd], axis=1)
    suite = read([evaluate(tmp_path, "one", "bc", returns.tolist(), sweep="learning_rate=0.1,0.2")])
    assert suite.methods == ["bc, learning_rate=0.1", "bc, learning_rate=0.2"]
    curve = suites.budget(suite, "bc")
    assert curve is not None
    assert curve[0] == pytest.approx(returns.mean())
    assert curve[-1] == pytest.approx((odd[3] + even[0]) / 2)
    # An odd episode out is dropped; of one episode there are no halves.
    more = evaluate(tmp_path, "two", "bc", [[1, 3, 99], [5, 7, 99]])
    curve = suites.budget(read([more]), "bc")
    np.testing.assert_allclose(curve, [4.0, 6.0])  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert suites.budget(read([evaluate(tmp_path, "three", "bc", [[1], [2]])]), "bc") is None


def test_budget_of_successes(tmp_path: Path):
    """Episodes count by their success, not by their return."""
    suite = read([evaluate(tmp_path, "one", "bc", [[51, 999], [0, 51]], reference=OGBENCH)])
    # The first succeeds always; the second only in odd episodes, so that even ones tell them apart and odd ones do not.
    np.testing.assert_allclose(suites.budget(suite, "bc"), [75.0, (100.0 + 50.0) / 2])  # pyright: ignore


def test_csv(tmp_path: Path):
    rows = list(csv.DictReader(io.StringIO(suite_tables.to_long_csv(read(two_by_two(tmp_path))))))
    cells = {(row["dataset"], row["series"], row["statistic"]): row for row in rows}
    assert len(cells) == len(rows) == 8
    one = cells["tests/one-v0", "iql", "mean"]
    assert (float(one["value"]), float(one["95% low"]), float(one["95% high"])) == (40.0, 20.0, 60.0)
    assert (one["runs"], one["episodes per run"], one["updates"], one["success rate"]) == ("2", "2", "100", "0.5")
    total = cells["all 2 shared", "bc", "mean"]
    assert (float(total["value"]), total["runs"]) == (55.0, "4")


def test_launcher(tmp_path: Path):
    two_by_two(tmp_path / "runs")
    out, launch = tmp_path / "report", partial(run, tmp_path, "launch/report.py")
    done = launch("--suite", str(tmp_path / "runs" / "**"), f"--out={out}")
    assert "90.0 [90.0, 90.0]" in done.stdout
    pictures = ["suite-budgets.png", "suite-distributions.png", "suite-scores.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*pictures, "report.html", "suite.csv", "suite.md"])
    markdown = (out / "suite.md").read_text()
    assert (out / "report.html").read_text().count(" data-chart=") == 2
    for name in pictures:
        assert f"({name})" in markdown
        picture = imread(out / name)[..., :3]
        assert picture.shape[1] > 600
        assert picture.std() > 0.02
    refused = launch("--suite", "--best", str(tmp_path / "runs" / "*" / "*"), code=2)
    assert "drop --best" in refused.stderr
