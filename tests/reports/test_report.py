import csv
import dataclasses
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from programs import run
from workdirs import MAZE, card, describe, tiny_config

from diffrl.data import minari
from diffrl.data.dataset import Source
from diffrl.data.episodes import recorded
from diffrl.data.scores import OGBENCH, Reference
from diffrl.evaluation import results
from diffrl.evaluation.results import Result, Settings
from diffrl.records import RecordError
from diffrl.reports import plots, tables
from diffrl.reports.maze import maze_of

SETTINGS = Settings("jax", "PointMaze_UMaze-v3 as rewritten in JAX", episodes=2, seed=0)
REFERENCE = Reference(0.0, 20.0, "made up")


def write_result(
    workdir: Path,
    step: int,
    returns: list[list[float]],
    settings: Settings = SETTINGS,
    reference: Reference = REFERENCE,
) -> None:
    """Runs: two seeds × two points; an episode succeeds with a return above 10."""
    array = np.array(returns)
    result = Result(
        step=step,
        settings=settings,
        reference=reference,
        reference_note="made up",
        seeds=[0, 1, 0, 1],
        hparams=[{"learning_rate": rate} for rate in (0.1, 0.1, 0.2, 0.2)],
        returns=array,
        lengths=np.full(array.shape, 15, np.int32),
        successes=array > 10,
    )
    walk = np.cumsum(np.random.default_rng(step).normal(0, 0.05, (4, 2, 16, 6)), axis=2).astype(np.float32)
    walk[..., 4:] = (0.5, -1.0)
    walk[..., -4:, :] = np.nan
    results.save(workdir, result, walk)


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "a"
    describe(path, tiny_config(), card())
    write_result(path, 100, [[19, 19], [19, 19], [0, 0], [0, 0]])
    write_result(path, 200, [[2, 4], [6, 8], [8, 12], [16, 20]])
    (path / "DONE").write_text("{}")
    return path


def test_numbers_of_the_table(evaluated: Path):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(tables.rows(tables.read([evaluated]), best=True)))))
    assert [row["hyper-parameters"] for row in rows] == ["learning_rate=0.1", "learning_rate=0.2"]
    first, second = rows
    assert (first["updates"], first["runs"], first["dataset"]) == ("200", "2", "tests/pointmaze/umaze-v0")
    assert float(first["return mean"]) == 5.0
    assert float(first["score mean"]) == 25.0
    assert float(first["IQM"]) == 25.0
    assert (float(first["95% low"]), float(first["95% high"])) == (15.0, 35.0)
    assert float(first["success rate"]) == 0.0
    assert float(second["return mean"]) == 14.0
    assert float(second["success rate"]) == 0.75
    assert float(first["data return mean"]) == 5.0
    assert first["reference"] == "0 = 0, 100 = 20: made up"
    assert first["notes"] == ""
    # The best checkpoint was the first, and only the labelled column says so.
    assert float(first["best mean over training (optimistic)"]) == 95.0


def test_results_round_trip(evaluated: Path):
    (first, last) = results.load_all(evaluated)
    assert (first.step, last.step) == (100, 200)
    assert last.settings == SETTINGS
    np.testing.assert_array_equal(last.returns[2], [8, 12])
    path = evaluated / "evaluations" / "100" / "x.json"
    path.write_text('{"step": 1}')
    with pytest.raises(RecordError, match="lacks field settings; delete it and evaluate again"):
        results.load(path)


def test_scores_that_count_successes(tmp_path: Path):
    """OGBench: the score is the rate of success in per cent, whatever the returns; the data have no such number."""
    describe(tmp_path, tiny_config(), card())
    write_result(tmp_path, 200, [[2, 4], [np.nan, 8], [8, 12], [16, 20]], reference=OGBENCH)
    first, second = tables.read([tmp_path])
    np.testing.assert_array_equal(tables.values_of(first.last), [0.0, np.nan])
    np.testing.assert_array_equal(tables.values_of(second.last), [50.0, 100.0])
    assert tables.data_value(second) is None
    _, cells = tables.formatted([second])
    assert cells[-1][0] == "(the data)"
    assert cells[-1].count("5.00") == 1
    assert "100 = 1 of the rate of success" in tables.to_markdown([second])
    assert plots.learning_curves(plots.curves([second], {second.name: "#000000"}), tmp_path / "curves.png").exists()


def test_data_stand_beside_results_only_where_they_are_comparable(tmp_path: Path):
    """Ways to targets, as maze2d's data have them, beside episodes of 15 steps: counted alike, or left out with a reason."""
    said = {
        "alike": (12.0, 3, "The data's own mean return is 12.00: of 3 times 15 consecutive rows, or fewer up to a terminal"),
        "short": (None, 0, "are not compared: their 10 episodes as recorded, of mean return 2.00, are for the most part cut"),
        "older": (None, None, "are those of an evaluation is not known"),
    }
    for name, (comparable, episodes, words) in said.items():
        the_card = card(return_mean=2.0, comparable_return=comparable, comparable_episodes=episodes)
        describe(tmp_path / name, tiny_config(), the_card)
        write_result(tmp_path / name, 200, [[2, 4], [6, 8], [8, 12], [16, 20]])
        series = tables.read([tmp_path / name])
        text, (row, *_) = tables.to_markdown(series), csv.DictReader(io.StringIO(tables.to_csv(tables.rows(series))))
        assert words in text
        assert ("(the data)" in text) == (comparable is not None)
        assert tables.data_value(series[0]) == (None if comparable is None else 60.0)
        assert row["data return mean"] == ("" if comparable is None else "12.0")


def test_notes_tell_what_the_numbers_hide(evaluated: Path):
    (evaluated / "DONE").unlink()
    (evaluated / "checkpoints" / "300").mkdir(parents=True)
    write_result(evaluated, 200, [[2, 4], [np.nan, 8], [8, 12], [16, 20]])
    first, second = tables.rows(tables.read([evaluated]))
    assert first["notes"] == (
        "training has not ended; the checkpoint at 300 updates has not been evaluated; 1 of 2 runs diverged"
    )
    assert np.isnan(first["score mean"])
    assert second["score mean"] == 70.0


def test_series_are_told_apart_and_never_mixed(evaluated: Path, tmp_path: Path):
    other = tmp_path / "runs" / "b"
    describe(other, tiny_config(), card())
    write_result(other, 200, [[2, 4], [6, 8], [8, 12], [16, 20]])
    write_result(other, 200, [[1, 1]] * 4, dataclasses.replace(SETTINGS, backend="gymnasium", simulator="the original"))
    write_result(other, 200, [[1, 1]] * 4, dataclasses.replace(SETTINGS, act=(("num_denoising_steps", "5"),)))
    series = tables.read([evaluated, other])
    groups = tables.by_setting(series)
    assert [len(group) for group in groups.values()] == [6, 2]
    assert len({one.name for one in series if one.last.settings.backend == "jax"}) == 6
    assert any("num_denoising_steps=5" in one.name for one in series)
    colours = plots.colours(series)
    assert len(set(colours.values())) == len(colours)
    markdown = tables.to_markdown(series)
    assert markdown.count("\n## ") == 2
    assert "Simulator: the original." in markdown
    improvements = {(one, other): p for one, other, p in tables.improvements(groups[series[0].setting])}
    assert improvements[series[1].name, series[0].name] == 1.0


def test_maze_of_point_and_ant():
    maze = maze_of(card(), 6)
    assert maze is not None
    assert (maze.position, maze.goal) == (slice(0, 2), slice(4, 6))
    assert maze.extent == (-2.5, 2.5, -2.5, 2.5)
    np.testing.assert_array_equal(maze.walls, [[cell == 1 for cell in row] for row in MAZE])
    np.testing.assert_allclose(maze.goal_cells, [[1.0, -1.0]])
    ant_spec = (
        '{"id": "AntMaze_UMaze-v4", "entry_point": "g.ant_maze_v4:AntMazeEnv", "kwargs": {"maze_map": [[1, 1, 1], [1, 0, 1]]}}'
    )
    ant = maze_of(card(env_spec=ant_spec, observation_keys=("achieved_goal", "desired_goal", "observation")), 31)
    assert ant is not None
    assert (ant.position, ant.goal, ant.cell) == (slice(0, 2), slice(2, 4), 4.0)
    assert maze_of(card(env_spec=ant_spec, observation_keys=("observation",)), 27) is None
    assert maze_of(card(env_spec='{"id": "Hopper-v5"}'), 11) is None
    assert maze_of(card(env_spec=None), 11) is None


def test_pictures(evaluated: Path, tmp_path: Path):
    series = tables.read([evaluated])
    colours = plots.colours(series)
    curves = plots.learning_curves(plots.curves(series, colours), tmp_path / "curves.png")
    pieces = [np.linspace([-1, 1], [1, 1], 20) + 0.02 * i for i in range(30)]
    maze = plots.maze_picture(series, colours, tmp_path / "maze.png", pieces)
    assert maze is not None
    for path in (curves, maze):
        picture = imread(path)[..., :3]
        assert picture.shape[1] > 600
        assert picture.std() > 0.02
    # No trajectories, no picture.
    for path in evaluated.glob("evaluations/*/*.npz"):
        path.unlink()
    assert plots.maze_picture(series, colours, tmp_path / "none.png", pieces) is None


def test_pieces_of_the_data_never_cross_episodes(monkeypatch: pytest.MonkeyPatch):
    """Position x counts rows; episodes of 70 rows, the last one shorter than a piece."""
    n = 1000
    observation = np.zeros((n, 6), np.float32)
    observation[:, 0] = np.arange(n)
    timeout = np.arange(n) % 70 == 69
    following = observation + np.eye(6, dtype=np.float32)[0]
    rows = recorded(observation, observation[:, :2], np.zeros(n), np.zeros(n, bool), timeout, following)
    source = Source(rows, card().id, np.full(2, -1.0), np.full(2, 1.0))
    monkeypatch.setattr(minari, "load", lambda id, **_: source)
    pieces = plots.data_pieces(card())
    assert len(pieces) == plots.DATA_PIECES
    for piece in pieces:
        assert not isinstance(piece, str)
        x = piece[:, 0]
        assert 1 <= len(x) <= plots.PIECE_STEPS
        np.testing.assert_array_equal(np.diff(x), 1)
        assert int(x[0]) // 70 == int(x[-1]) // 70


def test_missing_data_costs_one_panel_only():
    message = plots.data_pieces(card())
    assert isinstance(message, str)
    assert "tests/pointmaze/umaze-v0 could not be loaded" in message


def test_launcher(evaluated: Path, tmp_path: Path):
    out, launch = tmp_path / "report", partial(run, tmp_path, "launch/report.py")
    done = launch(str(evaluated.parent / "*"), f"--out={out}", "--best", "--improvement", "--nodata")
    assert "learning_rate=0.2" in done.stdout
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".html", ".md", ".png", ".png"]
    markdown = (out / "results.md").read_text()
    assert "70.00" in markdown
    assert "P(" in markdown
    assert "-curves.png)" in markdown
    failed = launch(f"--workdirs={tmp_path / 'nothing'}", code=2)
    assert failed.stderr.strip() == f"error: no workdir matches {tmp_path / 'nothing'}"


def test_nothing_evaluated(tmp_path: Path):
    describe(tmp_path / "run", tiny_config(), card())
    with pytest.raises(tables.ReportError, match=r"run launch/evaluate\.py"):
        tables.read([tmp_path / "run"])
    with pytest.raises(tables.ReportError, match="not a training directory"):
        tables.read([tmp_path])
