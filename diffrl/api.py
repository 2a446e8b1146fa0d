"""Train and evaluate from Python: what the programs do, with values in and out."""

import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from diffrl import cli, files
from diffrl.config import Config
from diffrl.data.dataset import Source
from diffrl.evaluation.evaluate import EvaluationError, Options, evaluate_workdir, mean_returns, parse_act
from diffrl.evaluation.results import Result
from diffrl.training import train as training
from diffrl.training.train import Outcome


def train(config: Config | str, workdir: str | Path, source: Source | None = None) -> Outcome:
    """Train all runs of a config to the end; called again, it goes on where it stopped. Progress is printed.

    Args:
        config: what to train; or as `diffrl-train --config` names it: an experiment ("srpo_pointmaze:umaze"), or a method.
        workdir: where checkpoints and metrics go.
        source: rows in memory (`diffrl.data.arrays.from_arrays`) in place of the config's dataset.

    Raises:
        UserError: of one of the kinds of `training.train.train`: one line that says why and what to do.
    """
    config = cli.load_experiment(config) if isinstance(config, str) else config
    return training.train(config, files.directory(workdir), source, mean_returns)


def evaluate(
    workdir: str | Path,
    *,
    episodes: int = 64,
    step: int | str = "last",
    act: Mapping[str, object] | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> Result:
    """Scores of every run at a checkpoint, acting one way: `result.mean_scores`, `result.returns`, `result.success_rates`.

    What was evaluated before is read, not repeated: the result is a file of the workdir too. Nothing is printed.

    Args:
        workdir: the directory of a training.
        episodes: per run.
        step: updates of the checkpoint, or "last".
        act: other choices when acting than it was trained with, by name: {"num_candidates": 8}.
        backend: the simulator, as in `diffrl-evaluate --backend`.
        seed: start states and action noise depend on it.

    Raises:
        EvaluationError: one line that says why and what to do.
    """
    overrides = tuple(f"{name}={value}" for name, value in (act or {}).items())
    if len(parse_act(overrides)) > 1:
        raise EvaluationError(f"act={dict(act or {})} names several ways of acting: here each name has one value")
    options = Options(episodes, step, backend, seed, overrides)
    (result,) = evaluate_workdir(files.directory(workdir), options, Console(file=io.StringIO()))
    return result
