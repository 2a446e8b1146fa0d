"""Training and evaluating from Python: values, in a thread and in a notebook."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from small_trainings import config_of, source
from support import unchecked
from workdirs import drift_for_point_maze

import diffrl
from diffrl.config import ConfigError
from diffrl.evaluation import evaluate
from diffrl.evaluation.evaluate import EvaluationError
from diffrl.training.train import Outcome

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-policy.ipynb"


def test_what_is_trained_in_a_thread_acts_in_another(tmp_path: Path) -> None:
    async def work() -> np.ndarray:
        """Inside an event loop, as a notebook's cells are."""
        outcome = await asyncio.to_thread(diffrl.train, config_of(), tmp_path / "run", source())
        assert outcome == Outcome(True)
        policy = await asyncio.to_thread(diffrl.load_policy, tmp_path / "run", 1)
        return await asyncio.to_thread(policy, np.zeros((2, 3)))

    with unchecked():
        assert asyncio.run(work()).shape == (2, 2)
    with pytest.raises(ConfigError, match="did you mean"):
        diffrl.train("srpo_pointmase", tmp_path / "other")


def test_an_evaluation_is_a_value(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluate.environments.pointmaze, "from_env_spec", drift_for_point_maze)
    result = diffrl.evaluate(workdir, episodes=3)
    assert (result.step, result.returns.shape, result.seeds) == (30, (4, 3), [0, 1, 0, 1])
    np.testing.assert_allclose(result.mean_scores, 5.0 * result.returns.mean(axis=1))
    np.testing.assert_array_equal(diffrl.evaluate(workdir, episodes=3).returns, result.returns)
    other = diffrl.evaluate(workdir, episodes=3, act={"num_denoising_steps": 1}, step=20)
    assert (other.step, dict(other.settings.act)) == (20, {"num_denoising_steps": "1"})
    assert diffrl.load_policy(workdir, run="best").chosen.run == int(np.argmax(result.mean_returns))
    with pytest.raises(EvaluationError, match="here each name has one value"):
        diffrl.evaluate(workdir, act={"num_denoising_steps": "1,2"})
    assert capsys.readouterr().out == ""


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell; its clone must swing the pendulum up, which costs about 140, where a limp one costs above 1,000."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells)
    with unchecked():
        for cell in cells:
            exec("".join(cell["source"]), names)
    assert np.max(names["result"].mean_returns) > -600.0  # pyright: ignore[reportAttributeAccessIssue]
    alone, policy, observation = names["alone"], names["policy"], names["observation"]
    np.testing.assert_allclose(alone(observation), policy(observation), atol=1e-5)  # pyright: ignore[reportCallIssue]
