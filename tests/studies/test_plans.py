"""Plans against what comes of them, from training to table and pictures, very small."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import run
from workdirs import card, describe, tiny_config

from diffrl import config as configs
from diffrl.envs.control.hole import HoleIntegrator
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.studies import planning, planning_plots
from diffrl.training.trained import Trained

TINY = (
    "hidden_dim=32",
    "num_layers=2",
    "dynamics_updates=400",
    "reward_updates=50",
    "score_updates=50",
    "distance_updates=20",
    "batch_size=128",
    "act.num_iterations=40",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two seeds, on independent transitions of the real system."""
    root = tmp_path_factory.mktemp("planning")
    task = HoleIntegrator(state_weight=1.0)
    x, u, following = map(np.asarray, task.sample(jax.random.key(0), 2_000))
    reward = -np.asarray(jax.vmap(task.cost)(x, u))
    bounds = {"action_low": np.array(task.action_low, np.float32), "action_high": np.array(task.action_high, np.float32)}
    rows = {"observation": x, "action": u, "reward": reward, "next_observation": following, "terminal": np.zeros(len(x))}
    np.savez(root / "hole.npz", **rows, timeout=np.ones(len(x)), **bounds)
    run(
        root,
        "launch/train.py",
        "--config=experiments/sgp_control.py:hole",
        f"--config.dataset.id={root / 'hole.npz'}",
        "--config.dataset.env_id=diffrl.envs.control.gym:diffrl/HoleIntegrator-v0",
        "--config.num_seeds=2",
        *(f"--config.algorithm.{setting}" for setting in TINY),
        f"--workdir={root / 'run'}",
    )
    return root / "run"


@pytest.mark.slow
def test_a_plan_is_judged_by_what_comes_of_it(workdir: Path) -> None:
    """Without a penalty the learnt model of x' = x + u is good enough to reach the goal, and the plan's path is near the true."""
    trained = Trained.open(workdir)
    one = planning.open_loop(trained, (("beta", "0"), ("num_iterations", "150")), starts=2)
    assert one.planned.shape == one.real.shape == (2, 2, 26, 2)
    assert one.plans == 4
    np.testing.assert_allclose(one.planned[:, :, 0], np.broadcast_to([0.8, 0.2], (2, 2, 2)), atol=1e-5)
    error = np.abs(one.planned - one.real).max(axis=(2, 3)).mean(axis=1)
    np.testing.assert_allclose(one.gap, error, rtol=1e-5)
    task = HoleIntegrator()
    actions = np.diff(one.real, axis=2)  # of this system
    kept = (actions**2).sum(axis=(2, 3)) + 100.0 * ((one.real[:, :, -1] - task.x_goal) ** 2).sum(axis=-1)
    np.testing.assert_allclose(one.kept, kept.mean(axis=1), rtol=1e-3)
    assert one.promised.max() < 5.0
    assert one.gap.max() < 1.0
    assert (np.abs(actions) <= 0.1 + 1e-5).all()


def test_plans_that_are_held_to_the_goal_end_there(workdir: Path) -> None:
    act = (("planner", "transcription"), ("horizon", "5"), ("num_iterations", "5"))
    one = planning.open_loop(Trained.open(workdir), act, to_goal=True)
    ends = one.planned[:, :, -1]
    np.testing.assert_allclose(ends, np.broadcast_to(HoleIntegrator().x_goal, ends.shape), atol=1e-5)


def test_closed_loop_compares_promises_with_returns(workdir: Path) -> None:
    trained = Trained.open(workdir)
    one = planning.closed_loop(trained, (("beta", "0"), ("horizon", "5"), ("num_iterations", "5")), starts=3, steps=4)
    assert one.promised.shape == one.kept.shape == (2,)
    assert np.isfinite(one.gap).all()
    assert np.isnan(one.success).all()
    assert (one.gap >= np.abs(one.promised - one.kept) - 1e-6).all()


@pytest.mark.slow
def test_program_writes_table_and_pictures(workdir: Path, tmp_path: Path) -> None:
    variants = [
        "--variant=beta=0,10 num_iterations=5",
        "--variant=planner=cem uncertainty=distance num_iterations=2 num_samples=8",
    ]
    result = run(workdir.parent, "launch/plan.py", f"--workdir={workdir}", *variants, "--starts=2", f"--out={tmp_path}")
    assert "wrote" in result.stdout
    rows = json.loads((tmp_path / "plans.json").read_text())
    assert [row["act"] for row in rows][:2] == ["beta 0, num_iterations 5", "beta 10, num_iterations 5"]
    assert (tmp_path / "plans.md").read_text().count("\n| beta") == 2
    for name in ("promises.png", "paths.png", "scores.png"):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant=planner=newton"], "choose one of"),
        (["--variant=planner=cem"], "only the gradient"),
        (["--variant=speed=1"], "speed"),
        (["--to_goal"], "planners that can"),
        (["--to_goal", "--closed_loop"], "--to_goal"),
    ],
)
def test_program_refuses_what_is_impossible(workdir: Path, arguments: list[str], message: str) -> None:
    result = run(workdir.parent, "launch/plan.py", f"--workdir={workdir}", *arguments, code=2)
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("score_of", ["pair", "transition"])
def test_score_fields_of_either_kind(workdir: Path, tmp_path: Path, score_of: str) -> None:
    """Of untrained networks: what a field is drawn from has the inputs that the score has."""
    config = configs.load(workdir)
    config.algorithm.score_of = score_of
    config.algorithm.act.planner = "collocation" if score_of == "transition" else "shooting"

    trained = dataclasses.replace(Trained.open(workdir), config=config)
    init = jax.vmap(lambda key: trained.algorithm.policy(trained.algorithm.init(key, trained.algorithm.hparams)))
    vars(trained)["policies"] = init(jax.random.split(jax.random.key(0), 2))
    path = planning_plots.fields(trained, HoleIntegrator(), tmp_path / "a.png")
    assert path.stat().st_size > 10_000


def test_methods_that_do_not_plan_are_named(tmp_path: Path) -> None:
    describe(tmp_path, tiny_config(), card())
    with pytest.raises(EvaluationError, match="diffusion_bc does not plan; of the methods sgp does"):
        planning.models_of(Trained.open(tmp_path), ())
