"""Every block of Python in the documents runs, in the order of its page; what it trains is small, and on rows in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.cases import shrink
from documents import PAGES, python
from programs import ROOT
from support import quick_compilation, unchecked
from workdirs import drift_for_point_maze, env_spec

from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import Source
from diffrl.data.npz import load_file
from diffrl.evaluation import evaluate
from diffrl.training import train as training

# Of the export's page it takes an export, which a test of its own makes.
RUN = [page for page in PAGES if python(page) and page != "docs/export.md"]


def rows(observation_dim: int, action_dim: int) -> dict[str, Any]:
    """Two episodes of noise, as columns."""
    rng, count = np.random.default_rng(0), 64
    return {
        "observation": rng.normal(size=(count, observation_dim)),
        "action": rng.uniform(-1, 1, (count, action_dim)),
        "reward": rng.normal(size=count),
        "terminal": np.zeros(count, bool),
        "timeout": np.arange(count) % 32 == 31,
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Source:
    """Trainings are of small networks and of few updates; those of a dataset get these rows, and a short environment."""
    maze = from_arrays(**rows(6, 2), id="maze")._replace(env_spec=env_spec())
    train = training.train
    monkeypatch.setattr(evaluate.environments.pointmaze, "from_env_spec", drift_for_point_maze)

    def quick(config: Any, workdir: Any, source: Source | None = None, *rest: Any, **options: Any) -> Any:
        config.algorithm = shrink(config.algorithm)
        return train(config, workdir, source or maze, *rest, **options)

    monkeypatch.setattr(training, "train", quick)
    monkeypatch.chdir(tmp_path)
    return maze


@pytest.mark.parametrize("page", RUN)
def test_blocks_run(page: str, small: Source) -> None:
    """Names that a page takes for given are made here."""
    hopper = rows(11, 3)
    dataset, spec, _ = build(small, Transforms())
    names: dict[str, Any] = {"observation": np.zeros(6, np.float32), "spec": spec, "dataset": dataset}
    names |= {"o": hopper["observation"], "a": hopper["action"], "r": hopper["reward"], "d": hopper["terminal"]}
    names |= {"cut": hopper["timeout"], "workdir": "runs/mine"}
    with unchecked(), quick_compilation():
        BEFORE.get(page, lambda names: None)(names)
        for block in python(page):
            exec(block, names)
        AFTER.get(page, lambda names: None)(names)


def with_config_and_log(names: dict[str, Any]) -> None:
    from diffrl.algorithms import bc
    from diffrl.config import Config, DatasetConfig

    names["config"] = Config(bc.Config(), DatasetConfig(), num_seeds=1)
    steps = np.random.default_rng(0).uniform(-1, 1, (64, 7))
    table = np.column_stack([np.arange(64) // 16, steps, np.arange(64) == 15])
    np.savetxt("log.csv", table, delimiter=",", header="episode,x,y,vx,vy,ax,ay,reward,done", comments="")


def an_archive(names: dict[str, Any]) -> None:
    """Four episodes, of which the first ends in a terminal and the others were cut."""
    rows = load_file("log.npz").transitions
    assert rows.observation.shape == (61, 4)  # of those that were cut the last has no next observation
    assert rows.terminal.sum() == 1


def an_action(shape: tuple[int, ...]) -> Any:
    def check(names: dict[str, Any]) -> None:
        assert np.shape(names["action"]) == shape
        assert np.all(np.isfinite(names["action"]))

    return check


def runs_of_the_readme(names: dict[str, Any]) -> None:
    assert names["result"].returns.shape == (16, 16)
    an_action((2,))(names)


BEFORE = {"docs/data.md": with_config_and_log}
AFTER = {
    "docs/data.md": an_archive,
    "README.md": runs_of_the_readme,
    "docs/own-method.md": an_action((1, 2)),
    "docs/python.md": an_action((2,)),
}


def test_the_readme_is_a_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70
    assert len([line for line in python("README.md")[0].splitlines() if line]) <= 10
