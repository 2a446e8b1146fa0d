"""Published numbers and ours: what is kept of a workdir, how it is held against a table, and the page that comes of it."""

from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, run
from workdirs import card, describe, tiny_config

from diffrl import records
from diffrl.data.scores import Reference
from diffrl.evaluation import results
from diffrl.evaluation.results import Result, Settings
from diffrl.reports import reproduction
from diffrl.reports.reproduction import Level, Outcome, Target, Targets
from diffrl.reports.tables import ReportError
from diffrl.studies import imitation
from diffrl.training.workdir import TIMINGS, Timing

LEVEL = Level(value=40.0, spread=3.0, seeds=4, episodes=100, updates=200, source="A table, 2025")
TARGET = Target("some-row", "SRPO", "umaze", "normalised score", 200, "srpo_pointmaze.py:umaze", "--recipe=x", 0.5, LEVEL)
PLANNED = Target(
    "other-row", "IQL", "umaze", "success in %", 200, "iql_pointmaze.py:umaze", "--recipe=x", 2.0, LEVEL, note="Later."
)


def evaluated(path: Path, returns: dict[int, list[float]], seeds: list[int]) -> Path:
    """Two episodes of each run; a score is five times a return."""
    describe(path, tiny_config(sweep=""), card(sha256=path.name))
    settings = Settings("jax", "PointMaze_UMaze-v3 as rewritten in JAX", episodes=2, seed=0)
    for step, each in returns.items():
        array = np.repeat(np.array(each)[:, None], 2, axis=1)
        result = Result(
            step=step,
            settings=settings,
            reference=Reference(0.0, 20.0, "made up"),
            reference_note="made up",
            seeds=seeds,
            hparams=[{}] * len(seeds),
            returns=array,
            lengths=np.full(array.shape, 15, np.int32),
            successes=array > 10,
        )
        results.save(path, result, np.zeros((len(seeds), 0, 16, 6), np.float32))
    records.append(path / TIMINGS, Timing("srpo", "updates", 0, 200, 2, 2, 5.0, 90.0, 2.0))
    (path / "DONE").write_text("{}")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    records.write(path / "targets.json", Targets([TARGET, PLANNED]))
    return path


def test_what_is_kept_of_workdirs(folder: Path, tmp_path: Path) -> None:
    """All runs at all checkpoints, in the row's unit; the row counts the last that every workdir has."""
    first = evaluated(tmp_path / "a", {100: [1.0, 2.0], 200: [8.0, 9.0]}, [0, 1])
    second = evaluated(tmp_path / "b", {200: [7.0, np.nan], 300: [6.0, 6.0]}, [0, 1])
    path = reproduction.keep("some-row", [first, second], folder)
    trials = records.read(path, Outcome).trials
    assert [trial.curve for trial in trials] == [
        [(100, [5.0, 10.0]), (200, [40.0, 45.0])],
        [(200, [35.0, None]), (300, [30.0, 30.0])],
    ]
    assert [trial.dataset for trial in trials] == [("umaze-v0", "a"), ("umaze-v0", "b")]
    assert [(trial.seeds, trial.episodes, trial.minutes) for trial in trials] == [([0, 1], 2, 1.5)] * 2
    updates, values = reproduction.pooled(trials)
    assert updates == 200
    np.testing.assert_array_equal(values, [40.0, 45.0, 35.0, np.nan])


def test_successes_are_counted_in_percent(folder: Path, tmp_path: Path) -> None:
    workdir = evaluated(tmp_path / "a", {200: [8.0, 12.0]}, [0, 1])
    (trial,) = records.read(reproduction.keep("other-row", [workdir], folder), Outcome).trials
    assert trial.curve == [(200, [0.0, 100.0])]


def test_what_cannot_be_kept(folder: Path, tmp_path: Path) -> None:
    workdir = evaluated(tmp_path / "a", {200: [8.0, 12.0]}, [0, 1])
    with pytest.raises(ReportError, match=r"no such row; .* has some-row, other-row"):
        reproduction.keep("a-row", [workdir], folder)
    with pytest.raises(ReportError, match="named twice"):
        reproduction.keep("some-row", [workdir, workdir], folder)
    assert reproduction.found(TARGET, folder) == []


@pytest.mark.parametrize(
    ("updates", "values", "said"),
    [
        (200, [42.0, 44.0, 46.0], "within: +4.0, 1.1 deviations"),  # spread sqrt(3² + 2²)
        (200, [50.0, 52.0, 54.0], "above: +12.0, 3.3 deviations"),
        (200, [20.0, 20.0], "below: -20.0, 6.7 deviations"),
        (200, [41.0], "within (one run): +1.0, 0.3 deviations"),
        (100, [41.0, 41.0], "not comparable: 50% of the updates"),
        (200, [41.0, np.nan], "a run diverged"),
    ],
)
def test_verdicts(updates: int, values: list[float], said: str) -> None:
    assert reproduction.verdict(TARGET, updates, np.array(values)) == said


def test_the_authors_code_on_the_same_data_counts_before_a_table(folder: Path) -> None:
    official = Level(value=20.0, spread=None, seeds=1, episodes=64, updates=200, source="their code")
    both = Target("some-row", "SRPO", "umaze", "normalised score", 200, "x.py", "", 0.5, LEVEL, official)
    assert reproduction.verdict(both, 200, np.array([20.0, 24.0])) == "within: +2.0, 0.5 deviations"  # theirs spreads as ours
    neither = Target("some-row", "SRPO", "umaze", "normalised score", 200, "x.py", "", 0.5)
    assert reproduction.verdict(neither, 200, np.array([20.0])) == "nothing to compare with"
    assert reproduction.draw(folder, folder / "picture.png") is None  # nothing was run


def test_the_page(folder: Path, tmp_path: Path) -> None:
    """Kept and written by the program; what was not run is planned."""
    workdir = evaluated(tmp_path / "a", {200: [8.0, 9.0]}, [0, 1])
    run(tmp_path, "launch/report.py", "--keep=some-row", str(workdir), f"--results={folder}")
    run(tmp_path, "launch/report.py", "--reproduction", f"--results={folder}", f"--out={tmp_path}")
    page = (tmp_path / "reproduction.md").read_text()
    row = (
        "| SRPO | umaze | normalised score | 40 ± 3 (4 seeds) | – | 42.5 [40.0, 45.0] | 2 × 2 | 200 | 2 | "
        "within: +2.5, 0.5 deviations |"
    )
    assert row in page.replace("\\", "")
    commands = page[page.index("### SRPO, umaze") : page.index("## Planned")].splitlines()
    assert commands[3:7] == [
        "python launch/collect.py --recipe=x",
        "python launch/train.py --config=experiments/srpo_pointmaze.py:umaze --workdir=W",
        "python launch/evaluate.py --workdir=W --episodes=2",
        "python launch/report.py --keep=some-row W",
    ]
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    planned = page[page.index("## Planned") :].replace("\\", "")
    assert "| IQL | umaze | 40 ± 3 (4 seeds) | 200 | 2 | iql_pointmaze.py:umaze | Later. |" in planned
    assert "SRPO" not in planned
    assert (tmp_path / "reproduction.png").stat().st_size > 5_000
    wrong = run(tmp_path, "launch/report.py", "--keep=none", str(workdir), f"--results={folder}", code=2)
    assert "no such row" in wrong.stderr


def test_the_rows_of_the_repository() -> None:
    """The files fit, names are unique, and each experiment file exists or is said to be missing."""
    root = Path(__file__).parents[2]
    rows = reproduction.targets(root / "docs" / "results")
    assert len({one.name for one in rows}) == len(rows) >= 12
    for one in rows:
        assert (root / "experiments" / one.config.partition(":")[0]).exists() or "to be written" in one.note, one.config
        for trial in reproduction.found(one, root / "docs" / "results"):
            assert trial.curve
    kept = {path.stem for path in (root / "docs" / "results").glob("*.json")} - {"targets"}
    assert kept <= {one.name for one in rows}


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    """And every row of the imitation page is one of its studies."""
    assert (ROOT / "docs/reproduction.md").read_text() == reproduction.to_markdown(ROOT / "docs/results", picture=True)
    studies = [imitation.read(path) for path in sorted((ROOT / "docs/results/imitation").glob("*.json"))]
    assert len(studies) == 4
    page = (ROOT / "docs/imitation.md").read_text().splitlines()
    rows = [line for line in imitation.to_markdown(studies).splitlines() if line.startswith("| ")]
    assert set(rows) <= set(page)
