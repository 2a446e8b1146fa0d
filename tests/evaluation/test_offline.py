"""Fitted-Q evaluation where values are known, what it refuses, and its report."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from programs import TINY_BC, collect, run
from support import make_dataset

from diffrl.algorithm import Algorithm, in_environment_units, no_carry
from diffrl.evaluation import offline
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.evaluation.offline import Estimate, Options, fitted_q
from diffrl.reports import offline as report
from diffrl.reports import page
from diffrl.types import Spec

DISCOUNT, LENGTH = 0.9, 3


def constant(init_carry: Any = no_carry) -> Algorithm:
    """Policies that always do the same: their action is their one parameter."""

    def act(policy: Any, carry: Any, observation: Any, key: Any) -> Any:
        return jnp.broadcast_to(policy, (len(observation), 1)), carry

    plain = Algorithm((), None, (), lambda state: state, init_carry, act)  # pyright: ignore[reportArgumentType]
    return in_environment_units(plain, SPEC)


# Raw observations are 10 + 2 times what is learnt from; raw actions lie in [0, 4].
SPEC = Spec(1, 1, (10.0,), (2.0,), (0.0,), (4.0,))


def corridor(episodes: int = 64) -> Any:
    """Three steps, where they are in the observation and the reward is the action; the last is terminal."""
    rng = np.random.default_rng(0)
    observation = np.tile(np.arange(LENGTH, dtype=np.float64), episodes)[:, None] - 1.0
    action = rng.uniform(-1.0, 1.0, (episodes * LENGTH, 1))
    terminal = np.tile(np.arange(LENGTH) == LENGTH - 1, episodes)
    return make_dataset(observation, action, 100.0 * action[:, 0], observation + 1.0, terminal)


def test_values_of_a_corridor() -> None:
    """A policy that does a for three steps is worth 100 a (1 + γ + γ²), in the rewards' units, all policies in one program."""
    rows, actions = corridor(), jnp.array([[-0.8], [0.1], [0.6]])
    starts, ends = offline.episodes(rows)
    np.testing.assert_array_equal(ends - starts, LENGTH)
    options = Options(discount=DISCOUNT, updates=3_000, hidden_dims=(32, 32), learning_rate=3e-3, tau=0.02)
    index = np.arange(LENGTH * 40)
    values = fitted_q(constant(), actions, rows, index, starts[40:], SPEC, options)
    assert values.shape == (3, 24)
    expected = 100.0 * np.asarray(actions) * sum(DISCOUNT**k for k in range(LENGTH))
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=6.0)


def test_a_policy_with_a_memory_cannot_be_asked() -> None:
    remembers = constant(lambda policy, count: jnp.zeros((count, 1)))
    with pytest.raises(EvaluationError, match="remembers"):
        fitted_q(remembers, jnp.zeros((1, 1)), corridor(2), np.arange(3), np.array([3]), SPEC, Options())


def judged(values: list[list[float | None]], returns: list[float], name: str = "a") -> report.Judged:
    estimate = Estimate(10, "data", "0", 3, len(values[0]), values, [1.0, 2.0])
    points = [""] * len(values)
    return report.Judged(Path(name), "bc", points, list(range(len(values))), estimate, np.array(returns))


def test_ranks_are_of_all_runs_that_have_both() -> None:
    first = judged([[1.0, 1.0], [2.0, 2.0], [None, 1.0]], [10.0, 20.0, 5.0])
    second = judged([[3.0, 3.0], [0.0, 0.0]], [15.0, np.nan], "b")
    rank, count = report.correlation([first, second])
    assert (rank, count) == (pytest.approx(0.5), 3)
    assert np.isnan(report.correlation([second])[0])
    page = report.to_markdown([first, second], Options(), picture=False)
    assert "over 3 runs: 0.50" in page
    table = [line for line in page.splitlines() if line.startswith("| bc")]
    assert "| 1.5 |" in table[0]  # what is known comes before what is not a number
    assert "nan" in table[1]


def test_a_workdir_is_judged_and_the_estimate_kept(tmp_path: Path) -> None:
    """By the program; a second time nothing is fitted, with other options it is."""
    collect(tmp_path)
    run(tmp_path, "launch/train.py", *TINY_BC, f"--workdir={tmp_path}/bc")
    run(tmp_path, "launch/evaluate.py", f"--workdir={tmp_path}/bc", "--step=last", "--episodes=2")
    command = ("launch/report.py", "--offline", f"{tmp_path}/bc", f"--out={tmp_path}/out")
    said = run(tmp_path, *command, "--offline_updates=20").stdout
    assert "held-out episodes" in said
    (kept,) = (tmp_path / "bc/offline").glob("*.json")
    before = kept.stat().st_mtime_ns
    run(tmp_path, *command, "--offline_updates=20")
    assert kept.stat().st_mtime_ns == before
    sha256 = json.loads(kept.read_text())["estimate"]["sha256"]
    kept.write_text(kept.read_text().replace(sha256, "of other data of that name"))
    run(tmp_path, *command, "--offline_updates=20")
    again = kept.stat().st_mtime_ns
    assert sha256 in kept.read_text()
    run(tmp_path, *command, "--offline_updates=10")
    assert kept.stat().st_mtime_ns > again
    assert {path.name for path in (tmp_path / "out").iterdir()} == {report.PAGE, page.NAME, report.TABLE, report.PICTURE}
    assert len((tmp_path / "out" / report.TABLE).read_text().splitlines()) == 1 + 3
