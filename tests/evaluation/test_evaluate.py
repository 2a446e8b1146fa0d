import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from programs import run
from rich.console import Console
from workdirs import card, describe, drift_for_point_maze, save_checkpoint, tiny_config

from diffrl.evaluation import evaluate, results
from diffrl.evaluation.evaluate import EvaluationError, Options, evaluate_workdir
from diffrl.training.checkpoint import CheckpointError, Checkpoints

QUICK = Options(episodes=3)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_results_of_the_last_stage_and_what_the_file_says(workdir: Path):
    console = quiet()
    found = evaluate_workdir(workdir, QUICK, console)
    assert [result.step for result in found] == [20, 30]
    path = workdir / "evaluations" / "30" / "jax-3episodes-seed0.json"
    values = json.loads(path.read_text())
    assert values["settings"]["backend"] == "jax"
    assert "PointMaze_UMaze-v3 as rewritten in JAX" in values["settings"]["simulator"]
    assert values["reference"] == {"min": 0.0, "max": 20.0, "source": "made up for a test", "quantity": "return"}
    assert [(run["seed"], run["hparams"]) for run in values["runs"]] == [
        (0, {"learning_rate": 0.1}),
        (1, {"learning_rate": 0.1}),
        (0, {"learning_rate": 0.2}),
        (1, {"learning_rate": 0.2}),
    ]
    returns = np.array([run["returns"] for run in values["runs"]])
    assert returns.shape == (4, 3)
    assert values["summary"]["episode_return"]["mean"] == pytest.approx(returns.mean())
    assert values["summary"]["normalized_score"]["mean"] == pytest.approx(5 * returns.mean())
    assert values["runs"][0]["lengths"] == [15, 15, 15]
    assert np.load(path.with_suffix(".npz"))["observations"].shape == (4, 3, 16, 6)
    loaded = results.load(path)
    np.testing.assert_array_equal(loaded.returns, found[1].returns)
    assert loaded.settings == found[1].settings
    # Same seed and initialisation, a learning rate that acting does not use: the same episodes.
    np.testing.assert_array_equal(returns[0], returns[2])
    assert f"{5 * returns[0].mean():.2f}" in said(console)
    assert "learning_rate=0.1" in said(console)
    assert not [path for path in path.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another environment behind the same spec: PointMaze takes seconds to compile."""
    monkeypatch.setattr(evaluate.environments.pointmaze, "from_env_spec", drift_for_point_maze)


@pytest.mark.usefixtures("drift")
def test_repeating_evaluates_nothing_and_force_does(workdir: Path):
    first = evaluate_workdir(workdir, QUICK, quiet())
    paths = sorted(workdir.glob("evaluations/*/*.json"))
    times = [path.stat().st_mtime_ns for path in paths]
    console = quiet()
    again = evaluate_workdir(workdir, QUICK, console)
    assert said(console).count("exists, skipped") == 2
    assert [path.stat().st_mtime_ns for path in paths] == times
    np.testing.assert_array_equal(first[-1].returns, again[-1].returns)
    forced = evaluate_workdir(workdir, Options(episodes=3, force=True, step="last"), quiet())
    assert [result.step for result in forced] == [30]
    assert paths[1].stat().st_mtime_ns != times[1]
    np.testing.assert_array_equal(first[-1].returns, forced[-1].returns)


@pytest.mark.usefixtures("drift")
def test_a_damaged_result_is_made_again(workdir: Path):
    options = Options(episodes=2, step="last")
    (result,) = evaluate_workdir(workdir, options, quiet())
    path = results.path_of(workdir, 30, result.settings)
    path.write_text("{")
    (again,) = evaluate_workdir(workdir, options, quiet())
    np.testing.assert_array_equal(result.returns, again.returns)
    assert results.load(path).step == 30


@pytest.mark.slow
@pytest.mark.usefixtures("drift")
def test_a_run_scores_the_same_alone(workdir: Path, tmp_path: Path):
    alone = tmp_path / "alone"
    config = tiny_config(num_seeds=1, sweep="")
    config.first_seed = 1
    describe(alone, config, card())
    save_checkpoint(alone, 20)
    options = Options(episodes=3, step=20)
    (among,) = evaluate_workdir(workdir, options, quiet())
    (single,) = evaluate_workdir(alone, options, quiet())
    np.testing.assert_allclose(single.returns[0], among.returns[1], rtol=1e-5)


@pytest.mark.usefixtures("drift")
def test_acting_options_are_swept(workdir: Path):
    options = Options(episodes=2, step="last", act=("num_denoising_steps=1,3", "stochasticity=1.0"))
    found = evaluate_workdir(workdir, options, quiet())
    assert [dict(result.settings.act) for result in found] == [
        {"num_denoising_steps": "1", "stochasticity": "1.0"},
        {"num_denoising_steps": "3", "stochasticity": "1.0"},
    ]
    assert not np.array_equal(found[0].returns, found[1].returns)
    labels = [result.settings.label for result in found]
    assert re.fullmatch(
        r"jax-2episodes-seed0-num_denoising_steps-1-stochasticity-1\.0-[0-9a-f]{8}".replace("_", "[-_]"), labels[0]
    )
    assert len(set(labels)) == 2
    with pytest.raises(EvaluationError, match="did you mean 'num_denoising_steps'"):
        evaluate_workdir(workdir, Options(act=("num_denoising_step=5",)), quiet())
    with pytest.raises(EvaluationError, match="must be int"):
        evaluate_workdir(workdir, Options(act=("num_denoising_steps=many",)), quiet())
    with pytest.raises(EvaluationError, match="at least 1"):
        evaluate_workdir(workdir, Options(act=("num_denoising_steps=0",)), quiet())


def test_parse_act():
    assert evaluate.parse_act(()) == [()]
    assert evaluate.parse_act(("b=1", "a=2,3", "a=3")) == [(("a", "2"), ("b", "1")), (("a", "3"), ("b", "1"))]
    with pytest.raises(EvaluationError, match="not of the form"):
        evaluate.parse_act(("steps",))


@pytest.mark.usefixtures("drift")
def test_a_checkpoint_deleted_by_retention_is_skipped(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    restore = Checkpoints.restore_policy

    def delete_first(self, step, abstract):
        if step == 20:
            shutil.rmtree(workdir / "checkpoints" / "20")
        return restore(self, step, abstract)

    monkeypatch.setattr(Checkpoints, "restore_policy", delete_first)
    console = quiet()
    assert [result.step for result in evaluate_workdir(workdir, QUICK, console)] == [30]
    assert "update 20: the checkpoint is gone" in said(console)


@pytest.mark.usefixtures("drift")
def test_a_checkpoint_that_cannot_be_read_is_an_error(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    def unreadable(self, step, abstract):
        raise CheckpointError("shapes differ")

    monkeypatch.setattr(Checkpoints, "restore_policy", unreadable)
    with pytest.raises(EvaluationError, match="checkpoint 20 cannot be restored: shapes differ"):
        evaluate_workdir(workdir, QUICK, quiet())


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("drift")
def test_watch_follows_a_trainer_to_its_end(tmp_path: Path):
    path = tmp_path / "run"

    def trainer():
        describe(path, tiny_config(num_seeds=1, sweep=""), card())
        save_checkpoint(path, 10)
        while not list(path.glob("evaluations/10/*.json")):
            thread_stop.wait(0.02)
        save_checkpoint(path, 20)
        (path / "DONE").write_text("{}")

    thread_stop = threading.Event()
    thread = threading.Thread(target=trainer, daemon=True)
    thread.start()
    console = quiet()
    found = evaluate_workdir(path, Options(episodes=1, watch=True, poll_seconds=0.05), console)
    thread.join()
    assert [result.step for result in found] == [10, 20]
    assert "waiting for" in said(console)


@pytest.mark.usefixtures("drift")
def test_what_the_user_can_mend(workdir: Path, tmp_path: Path):
    def refused(path: Path, **options) -> str:
        with pytest.raises(EvaluationError) as error:
            evaluate_workdir(path, Options(**options), quiet())
        return str(error.value)

    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "has no config.json" in refused(tmp_path)
    assert "no checkpoint at update 7; there are 10, 20, 30" in refused(workdir, step=7)
    assert "at least 1" in refused(workdir, episodes=0)
    assert "choose one of" in refused(workdir, backend="brax")
    assert "does not go with --step" in refused(workdir, watch=True, step="last")
    fresh = tmp_path / "fresh"
    describe(fresh, tiny_config(), card())
    assert "no checkpoints yet" in refused(fresh)
    save_checkpoint(fresh, 5, stage_index=0)
    assert "no checkpoint of the last stage yet" in refused(fresh)
    describe(fresh, tiny_config(), card(env_spec=None))
    assert "names no environment" in refused(fresh)
    describe(fresh, tiny_config(), card(env_spec='{"id": "Hopper-v5", "entry_point": "x"}'))
    assert "Hopper-v5 does not exist in JAX" in refused(fresh, backend="jax")
    assert "--backend=mujoco knows Hopper" in refused(fresh, backend="mujoco")
    describe(fresh, tiny_config(), card(env_spec='{"id": "Humanoid-v5", "entry_point": "x"}'))
    assert "MJX refuses models with the PGS solver, Humanoid among them" in refused(fresh, backend="mjx")


@pytest.mark.usefixtures("drift")
def test_without_reference_returns_are_reported(tmp_path: Path):
    path = tmp_path / "run"
    describe(path, tiny_config(num_seeds=1, sweep=""), card(ref_min_score=None, ref_max_score=None))
    save_checkpoint(path, 10)
    (result,) = evaluate_workdir(path, Options(episodes=2), quiet())
    values = json.loads(results.path_of(path, 10, result.settings).read_text())
    assert values["reference"] is None
    assert "no reference" in values["reference_note"]
    assert values["summary"]["normalized_score"] is None
    assert values["summary"]["episode_return"]["interval"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is required"),
        (["--workdir=/nonexistent/workdir"], "does not exist"),
        (["--workdir=x", "--step=soon"], "--step=soon is neither a number"),
        (["runs/a"], "unexpected argument 'runs/a'"),
    ],
)
def test_launcher_says_it_in_one_line(tmp_path: Path, arguments: list[str], message: str):
    (line,) = run(tmp_path, "launch/evaluate.py", *arguments, code=2).stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
