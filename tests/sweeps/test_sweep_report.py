"""Reports of sweeps: parts put together, the best point and its caveat, pictures, and what was saved."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from programs import run
from rich.console import Console
from workdirs import card, describe

from diffrl import records
from diffrl.algorithms import diffusion_bc
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.data.scores import Reference
from diffrl.evaluation import results
from diffrl.evaluation.results import Result, Settings
from diffrl.reports.tables import ReportError
from diffrl.sweeps import plot, record, report
from diffrl.sweeps import results as sweep_results
from diffrl.sweeps.parts import Part, split_group, whole
from diffrl.sweeps.plan import plan
from diffrl.training.runs import points_of
from diffrl.training.workdir import TIMINGS, Timing

SETTINGS = Settings("jax", "PointMaze_UMaze-v3 as rewritten in JAX", episodes=2, seed=0)


def load(name: str) -> Config:
    algorithm = diffusion_bc.Config(hidden_dim=8, num_blocks=1)
    return Config(algorithm, DatasetConfig(id=name.partition(":")[2] or "tests/pointmaze/umaze-v0"))


def score_of(seed: int, point: dict[str, float], wide: bool) -> float:
    """Best where the learning rate is 0.01 and the network wide; a point of spread between neighbouring seeds."""
    return 50.0 - 20.0 * abs(np.log10(point["learning_rate"]) + 2.0) + seed + 10.0 * wide


def evaluate(workdir: Path, config: Config, settings: Settings = SETTINGS, stopped: dict[int, str] | None = None) -> None:
    """A result with `score_of` as return of both episodes; `stopped` names runs by their index."""
    points = points_of(config)
    seeds = list(range(config.first_seed, config.first_seed + config.num_seeds))
    runs = [(seed, point) for point in points for seed in seeds]
    wide = config.algorithm.hidden_dim > 8
    returns = np.array([[score_of(seed, point, wide)] * settings.episodes for seed, point in runs])
    result = Result(
        step=200,
        settings=settings,
        reference=Reference(0.0, 100.0, "made up"),
        reference_note="made up",
        seeds=[seed for seed, _ in runs],
        hparams=[point for _, point in runs],
        returns=returns,
        lengths=np.full(returns.shape, 15, np.int32),
        successes=returns > 50,
    )
    path = results.save(workdir, result, np.zeros((0, 0, 0, 0), np.float32))
    values = json.loads(path.read_text())
    for number, why in (stopped or {}).items():
        values["runs"][number]["stopped"] = why
    path.write_text(json.dumps(values))


def make_sweep(out: Path, *sweeps: str, parts: int = 1) -> None:
    """A sweep whose groups are trained and evaluated; the first is split by seeds into so many parts."""
    found = plan("x", [], list(sweeps), out, load, num_points=4)
    split = {group.label: [whole(group)] for group in found.groups}
    first = found.groups[0]
    size = first.config.num_seeds // parts
    split[first.label] = [Part(first.config.first_seed + i * size, size, first.points) for i in range(parts)]
    record.save(out, found, split)
    for group in found.groups:
        for one in split_group(group, split[group.label]):
            describe(one.workdir, one.config, card(id=one.config.dataset.id))
            acts = [text.partition("=") for text in found.act]
            for name, _, values in acts:
                for value in values.split(","):
                    evaluate(one.workdir, one.config, dataclasses.replace(SETTINGS, act=((name, value),)))
            if not acts:
                evaluate(one.workdir, one.config)
            runs = one.num_runs
            for stage, *numbers in (("critic", 2, 1.0, 3.0), ("critic", 2, 1.0, 1.0), ("policy", runs, 0.0, 5.0)):
                timing = Timing(stage, "updates", 0, 10, runs, *numbers, 10.0)
                records.append(one.workdir / TIMINGS, timing, one.workdir)
            (one.workdir / "DONE").write_text("{}")


GRID = ("learning_rate=0.001,0.01,0.1", "seeds=0:4", "hidden_dim=8,16")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """3 learning rates × 4 seeds × 2 widths; the narrow group is in two parts."""
    make_sweep(tmp_path / "sweep", *GRID, parts=2)
    return tmp_path / "sweep"


def test_parts_of_a_group_are_one_table(sweep: Path) -> None:
    found = sweep_results.read(sweep)
    assert {label: len(cells) for label, cells in found.groups.items()} == {"hidden_dim-8": 3, "hidden_dim-16": 3}
    narrow = found.groups["hidden_dim-8"][1]
    assert narrow.point == {"learning_rate": 0.01}
    assert narrow.result.seeds == [0, 1, 2, 3]
    np.testing.assert_array_equal(narrow.values, [50.0, 51.0, 52.0, 53.0])
    assert narrow.summary.mean == 51.5
    header, rows = report.formatted(found.groups["hidden_dim-16"])
    assert header == ["point", "runs", "score", "return", "IQM", "95 % interval", "success"]
    assert rows[1][:5] == ["learning_rate=0.01", "4", "61.50", "61.50", "61.50"]
    assert rows[1][-1] == "100 %"
    table = list(csv.DictReader(report.to_csv(found.cells).splitlines()))
    assert len(table) == 24
    assert table[5] | {"group": "hidden_dim-8", "learning_rate": "0.01", "seed": "1", "score": "51.0", "stopped": ""} == table[5]


def test_the_best_point_stands_out_with_its_caveat(sweep: Path) -> None:
    found = sweep_results.read(sweep)
    assert [report.best_of(cells) for cells in found.groups.values()] == [1, 1]
    page = report.to_markdown(found, ["learning_rate.png"])
    assert "| **learning_rate=0.01** | **4** | **61.50** |" in page
    assert "its score is optimistic" in page
    assert "![learning_rate](learning_rate.png)" in page


def test_a_tie_has_no_best(sweep: Path) -> None:
    found = sweep_results.read(sweep)
    cells = found.groups["hidden_dim-8"]
    assert report.best_of([cells[0], cells[2]]) is None  # 30 + seed on either side
    assert report.best_of(cells[:1]) is None


def test_stopped_runs_are_named_and_never_best(sweep: Path) -> None:
    wide = record.load(sweep).groups[1]
    config = dataclasses.replace(load("x"), num_seeds=4, sweep="learning_rate=0.001,0.01,0.1")
    config.algorithm.hidden_dim = 16
    evaluate(sweep / wide.label, config, stopped={5: "dropped at update 2000", 9: "diverged before update 300"})
    found = sweep_results.read(sweep)
    assert found.groups["hidden_dim-16"][1].stopped == ["", "dropped at update 2000", "", ""]
    assert report.best_of(found.groups["hidden_dim-16"]) == 0
    lines = report.explanation(found)
    assert "hidden_dim-16, learning_rate=0.01, seed 1: dropped at update 2000." in lines
    assert "hidden_dim-16, learning_rate=0.1, seed 1: diverged before update 300." in lines


def test_time_and_what_shared_stages_saved(sweep: Path) -> None:
    """The narrow group is two trainings of 6 runs, each with a critic of two starts: 4 s, in which 2 stood for 6."""
    times = {(time.group, time.stage): time for time in sweep_results.read(sweep).times}
    narrow = times["hidden_dim-8", "critic"]
    assert (narrow.runs, narrow.distinct_runs) == (12, 4)
    assert (narrow.seconds, narrow.compile_seconds, narrow.saved_seconds) == (8.0, 4.0, 8.0 * (6 / 2 - 1))
    assert times["hidden_dim-16", "critic"].saved_seconds == 4.0 * (12 / 2 - 1)
    # Lines from before runs were shared do not say how many there were.
    assert times["hidden_dim-16", "policy"][2:] == (12, 12, 5.0, 0.0, 0.0)
    _, rows = report.formatted_times(list(times.values()))
    assert rows[-1] == ["sum", "", "", "", "27.0", "6.0", "36.0"]


def test_what_is_missing_or_cannot_be_compared_is_said(sweep: Path) -> None:
    evaluate(
        sweep / "hidden_dim-16",
        dataclasses.replace(load("x"), num_seeds=4, sweep="learning_rate=0.001,0.01,0.1"),
        dataclasses.replace(SETTINGS, episodes=5),
    )
    for path in (sweep / "hidden_dim-8" / "part1").glob("evaluations/*/*"):
        path.unlink()
    (sweep / "hidden_dim-8" / "part0" / "DONE").unlink()
    found = sweep_results.read(sweep)
    assert "other evaluations are left out: 5 episodes in jax with seed 0" in found.notes
    assert "not evaluated: hidden_dim-8/part1" in found.notes
    assert "hidden_dim-8/part0: training has not ended" in found.notes
    assert found.groups["hidden_dim-8"][0].result.seeds == [0, 1]
    for path in sweep.glob("**/evaluations/*/*"):
        path.unlink()
    with pytest.raises(ReportError, match=r"nothing of .* has been evaluated"):
        sweep_results.read(sweep)
    with pytest.raises(ConfigError, match=r"holds no sweep"):
        sweep_results.read(sweep.parent)


# ---------------------------------------------------------------- pictures
def test_a_line_for_each_width_and_seed_by_seed_dots(sweep: Path, tmp_path: Path) -> None:
    cells = sweep_results.read(sweep).cells
    lines = plot.lines_of(cells, "learning_rate")
    assert [line.label for line in lines] == ["hidden_dim=8", "hidden_dim=16"]
    assert [line.x for line in lines] == [[0.001, 0.01, 0.1]] * 2
    assert not any(line.scattered for line in lines)
    (picture,) = plot.draw(plot.charts(cells), tmp_path)
    assert picture.name == "learning_rate.png"
    assert imread(picture)[..., :3].std() > 0.02


def test_points_drawn_at_random_make_dots(tmp_path: Path) -> None:
    make_sweep(tmp_path, "learning_rate=loguniform(0.001,0.1)", "weight_decay=uniform(0,1)", "seeds=0:2")
    cells = sweep_results.read(tmp_path).cells
    (line,) = plot.lines_of(cells, "weight_decay")
    assert line.scattered
    assert line.x == sorted(cell.point["weight_decay"] for cell in cells)
    assert [path.name for path in plot.draw(plot.charts(cells), tmp_path)] == ["learning_rate.png", "weight_decay.png"]


def test_datasets_are_panels_and_choices_when_acting_are_numbers_too(tmp_path: Path) -> None:
    make_sweep(tmp_path, "learning_rate=0.01", "seeds=0:2", "argument=a,b", "act.num_denoising_steps=5,10")
    cells = sweep_results.read(tmp_path).cells
    assert {cell.card.id for cell in cells} == {"a", "b"}
    assert [cell.words for cell in cells[:2]] == [
        "learning_rate=0.01, num_denoising_steps=5",
        "learning_rate=0.01, num_denoising_steps=10",
    ]
    (picture,) = plot.draw(plot.charts(cells), tmp_path)
    assert picture.name == "act.num_denoising_steps.png"
    height, width = imread(picture).shape[:2]
    assert width > 2 * height  # two panels


# ---------------------------------------------------------------- programs
def test_all_files_are_written(sweep: Path) -> None:
    with (sweep / "log").open("w") as file:
        report.write(sweep, sweep / "report", Console(file=file, width=140))
    assert sorted(path.name for path in (sweep / "report").iterdir()) == [
        *("learning_rate.png", "report.html", "sweep.csv", "sweep.md"),
    ]
    printed = (sweep / "log").read_text()
    assert "learning_rate=0.01" in printed
    assert "saved at most" in printed


def test_launcher(sweep: Path) -> None:
    launch = partial(run, sweep.parent, "launch/report.py")
    launch(f"--sweep={sweep}")
    assert (sweep / "report" / "sweep.md").exists()
    assert "holds no sweep" in launch(f"--sweep={sweep.parent}", code=2).stderr
    assert "--sweep needs no workdir" in launch(f"--sweep={sweep}", "some/workdir", code=2).stderr
