"""Training by interaction: what is stored, when episodes begin and end, what resumes exactly, and what is refused."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import HOLE_INTEGRATOR, TINY_QSM, run, start

from diffrl.data.replay import load_rows
from diffrl.training.checkpoint import Checkpoints

TINY = ("launch/train.py", *TINY_QSM)
HOLE = (*TINY, *HOLE_INTEGRATOR)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("online")


@pytest.fixture(scope="module")
def uninterrupted(root: Path) -> Path:
    run(root, *HOLE, f"--workdir={root / 'uninterrupted'}")
    return root / "uninterrupted"


def files(workdir: Path) -> dict[str, bytes]:
    """What a training leaves that must not depend on how it was interrupted."""
    kept = sorted((workdir / "replay").glob("*.npy"))
    return {str(path.relative_to(workdir)): path.read_bytes() for path in [*kept, workdir / "metrics" / "train.jsonl"]}


def policy_leaves(workdir: Path) -> list[Any]:
    """The last checkpoint's arrays as they lie on disk, by their own structure."""
    import orbax.checkpoint as ocp

    last = Checkpoints(workdir).steps()[-1]
    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(last) / "state").absolute())
    return [np.asarray(x) for x in __import__("jax").tree.leaves(tree)]


def assert_same(a: Path, b: Path) -> None:
    assert (a / "DONE").exists()
    assert (b / "DONE").exists()
    left, right = policy_leaves(a), policy_leaves(b)
    assert len(left) == len(right) > 30
    for x, y in zip(left, right, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a / "metrics" / "train.jsonl").read_bytes() == (b / "metrics" / "train.jsonl").read_bytes()
    # Files may be cut elsewhere where a signal came; the transitions in them are the same.
    np.testing.assert_array_equal(load_rows(a / "replay", 160), load_rows(b / "replay", 160))


def test_transitions_are_stored_in_order(uninterrupted: Path) -> None:
    """Episodes of 25 steps: where one ends is a timeout and no terminal, and elsewhere the next row goes on from this one."""
    rows = load_rows(uninterrupted / "replay", 160)
    assert rows.shape == (3, 1, 160, 2 + 2 + 2 + 3)
    observation, following = rows[..., 0:2], rows[..., 4:6]
    timeout = rows[..., -1] > 0.5
    np.testing.assert_array_equal(np.flatnonzero(timeout[0, 0]), np.arange(24, 160, 25))
    assert (rows[..., -2] == 0).all()
    goes_on = ~timeout[:, :, :-1]
    np.testing.assert_array_equal(observation[:, :, 1:][goes_on], following[:, :, :-1][goes_on])
    assert (np.abs(observation[:, :, 1:] - following[:, :, :-1])[~goes_on] > 1e-3).any()
    assert (np.abs(rows[..., 2:4]) <= 1.0).all()
    assert not np.array_equal(rows[0], rows[1])


def test_checkpoints_metrics_and_files(uninterrupted: Path) -> None:
    """A checkpoint every 40 steps, at the end of the warm-up and at the end."""
    assert Checkpoints(uninterrupted).steps() == [40, 60, 80, 120, 160]
    rows = [json.loads(line) for line in (uninterrupted / "metrics" / "train.jsonl").read_text().splitlines()]
    returns = [row["value"] for row in rows if row["name"] == "episode_return"]
    assert any(value is not None and value < 0 for value in returns)
    learnt = {"critic/loss", "policy/loss", "critic/q"}
    assert {row["name"] for row in rows if row["step"] == 160} >= learnt | {"finite", "episode_return"}
    assert not {row["name"] for row in rows if row["step"] == 20} & {"critic/loss"}  # nothing is learnt before the warm-up ends
    card = json.loads((uninterrupted / "dataset.json").read_text())
    assert card["id"] == "diffrl/HoleIntegrator-v0"


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_interrupted_and_started_again(root: Path, uninterrupted: Path, sent: signal.Signals) -> None:
    """Bit-equal states, metrics and transitions, whether there was time to save or not."""
    workdir = root / sent.name
    program = start(root, *HOLE, f"--workdir={workdir}")
    program.wait_for(lambda: bool(list((workdir / "replay").glob("*.npy"))))
    program.send(sent)
    assert program.end().returncode == (0 if sent == signal.SIGTERM else -signal.SIGKILL) or (workdir / "DONE").exists()
    run(root, *HOLE, f"--workdir={workdir}")
    assert_same(workdir, uninterrupted)


@pytest.mark.slow
def test_other_chunks_give_the_same_transitions(root: Path, uninterrupted: Path) -> None:
    """Randomness is counted by iteration, and of a subset of runs each does what it does among others."""
    run(root, *HOLE, "--config.updates_per_chunk=7", "--config.num_seeds=2", f"--workdir={root / 'chunks'}")
    mine, theirs = load_rows(root / "chunks" / "replay", 160), load_rows(uninterrupted / "replay", 160)
    np.testing.assert_allclose(mine[:, :, :61], theirs[:2, :, :61], atol=1e-5)  # before anything is learnt
    np.testing.assert_allclose(mine, theirs[:2], atol=1e-3)


@pytest.mark.slow
def test_several_environments_and_updates(root: Path) -> None:
    """Four environments a run, two updates a step, three-step returns."""
    more = (
        "--config.online.num_envs=4",
        "--config.online.buffer_size=200",
        "--config.online.updates_per_step=2",
        "--config.algorithm.n_step=3",
    )
    run(root, *HOLE, *more, f"--workdir={root / 'several'}")
    rows = load_rows(root / "several" / "replay", 40)
    assert rows.shape[:3] == (3, 4, 40)
    assert not np.array_equal(rows[:, 0], rows[:, 1])
    assert json.loads((root / "several" / "DONE").read_text())["step"] == 160


@pytest.mark.slow
def test_host_simulator(root: Path) -> None:
    """dm_control: steps, resumes with new episodes, and is evaluated by the program that evaluates everything."""
    pytest.importorskip("dm_control")
    workdir = root / "host"
    host = (*TINY, "--config.online.backend=gymnasium", f"--workdir={workdir}")
    run(root, *host)
    rows = load_rows(workdir / "replay", 160)
    assert rows.shape == (3, 1, 160, 5 + 1 + 5 + 3)
    np.testing.assert_array_equal(rows[:, :, 1:, :5], rows[:, :, :-1, 6:11])
    result = run(root, "launch/evaluate.py", f"--workdir={workdir}", "--step=last", "--episodes=1")
    assert "dm_control" in result.stdout
    report = run(root, "launch/report.py", str(workdir), f"--out={root / 'report'}").stdout
    assert "steps" in report
    assert "the data" not in report


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["dmc/cartpole-swingup-v0", "Hopper-v5", "Pendulum-v1"])
def test_on_the_host_a_time_limit_is_no_end_of_the_task(root: Path, env_id: str) -> None:
    """Hopper falls, which is an end; a time limit is a timeout and no terminal, whoever truncates."""
    pytest.importorskip("dm_control")
    workdir = root / env_id.replace("/", "-")
    backend = () if env_id == "Hopper-v5" else ("--config.online.backend=gymnasium",)
    run(
        root,
        *TINY,
        f"--config.online.env_id={env_id}",
        *backend,
        "--config.online.num_env_steps=2100",
        "--config.online.buffer_size=2100",
        f"--workdir={workdir}",
    )
    rows = load_rows(workdir / "replay", 2100)
    if env_id == "Hopper-v5":
        assert rows[..., -2].sum() > 10
        assert not (rows[..., -2] * rows[..., -1]).any()
    else:
        limit = {"dmc/cartpole-swingup-v0": 1_000, "Pendulum-v1": 200}[env_id]
        assert rows[..., -2].sum() == 0
        np.testing.assert_array_equal(np.flatnonzero(rows[0, 0, :, -1]), np.arange(limit - 1, 2100, limit))


def test_steps_are_those_of_the_environment(root: Path) -> None:
    """Decisions of five steps: a fifth as many are stored; checkpoints, episodes and evaluations are counted in steps."""
    workdir = root / "repeated"
    repeated = (*HOLE, "--config.online.action_repeat=5", "--config.online.num_env_steps=300", f"--workdir={workdir}")
    run(root, *repeated)
    rows = load_rows(workdir / "replay", 60)
    np.testing.assert_array_equal(np.flatnonzero(rows[0, 0, :, -1] > 0.5), np.arange(4, 60, 5))  # episodes of 25 steps
    assert json.loads((workdir / "DONE").read_text())["online_steps"] == 300
    run(root, "launch/evaluate.py", f"--workdir={workdir}", "--episodes=2")
    (result,) = (workdir / "evaluations" / "300").glob("*.json")
    assert {length for one in json.loads(result.read_text())["runs"] for length in one["lengths"]} == {25}
    refused = run(root, *repeated, "--export_dataset=mine/repeated-v0", code=2)
    assert "holds decisions of 5 steps (online.action_repeat), no single ones" in refused.stderr


def test_a_run_becomes_a_dataset_to_train_on(root: Path, uninterrupted: Path) -> None:
    """--export_dataset: the run's transitions as a Minari dataset, in the environment's units; behaviour cloning loads it."""
    result = run(root, *HOLE, f"--workdir={uninterrupted}", "--export_dataset=mine/hole-v0", "--export_run=1")
    assert "160 transitions of run 1" in result.stdout
    rows = load_rows(uninterrupted / "replay", 160)[1, 0]
    code = (
        "import numpy as np; from diffrl.data.load import load; s = load('mine/hole-v0').transitions;"
        f"saved = np.load('{root / 'rows.npy'}');"
        "np.testing.assert_allclose(s.observation, saved[:, :2]); np.testing.assert_allclose(s.reward, saved[:, 6]);"
        "assert s.timeout.sum() == 7 and not s.terminal.any() and len(s.reward) == 160"
    )
    np.save(root / "rows.npy", rows)
    run(root, "-c", code)
    wrong = run(root, *HOLE, f"--workdir={uninterrupted}", "--export_dataset=mine/x-v0", "--export_run=9", code=2)
    assert "runs 0 to 2" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.online.env_id=dmc/walker-fly-v0"], "walker"),
        (["--config.online.env_id=diffrl/Nothing-v0"], "must be one of"),
        (["--config.online.num_envs=0"], "online.num_envs"),
        (["--config.online.warmup_steps=0"], "warmup_steps"),
        (["--config.dataset.id=a/b-v0"], "a/b-v0"),
        (["--config.online.env_id="], "dataset.id is empty"),
    ],
)
def test_impossible_settings_are_refused(root: Path, arguments: list[str], message: str) -> None:
    result = run(root, *TINY, *arguments, f"--workdir={root / 'refused'}", code=2)
    assert message in result.stderr
    assert not (root / "refused").exists()


def test_methods_of_several_stages_are_refused(root: Path) -> None:
    result = run(
        root,
        "launch/train.py",
        "--config=experiments/srpo_pointmaze.py:umaze",
        "--config.dataset.id=",
        "--config.online.env_id=diffrl/HoleIntegrator-v0",
        f"--workdir={root / 'stages'}",
        code=2,
    )
    assert "by interaction" in result.stderr
