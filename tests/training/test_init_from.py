"""Starting from another training: which run gets whose networks, that they are the same bits, and what is refused before it."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_trainings import UPDATES, config_of, source, state_of
from support import quick_compilation, trees_equal, unchecked

from diffrl.algorithms import bc, gaussian_bc, iql
from diffrl.config import ConfigError, DatasetConfig, InitFromConfig
from diffrl.registry import make
from diffrl.training.checkpoint import CheckpointError, Checkpoints, Origin
from diffrl.training.init_from import match
from diffrl.training.runs import make_runs
from diffrl.training.train import init_states, train
from diffrl.types import Spec


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with quick_compilation(), unchecked():
        yield


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 0, 1 and 2, checkpoints at 10 and 20."""
    workdir = tmp_path_factory.mktemp("before") / "run"
    assert train(config_of(), workdir, source=source()).complete
    return workdir


def run_of(tree: Any, run: int) -> Any:
    return jax.tree.map(lambda x: x[run], tree)


def test_a_run_starts_from_the_run_of_its_seed(before: Path, tmp_path: Path) -> None:
    """Seeds 1 and 2 at two learning rates, of which 0 shows what they started from: parameters and the optimiser's state.

    Going on needs the other workdir no more, and the checkpoints say where they are from.
    """
    there = Path(shutil.copytree(before, tmp_path / "there"))
    config = config_of(first_seed=1, num_seeds=2, sweep="learning_rate=0.0,0.01")
    config = dataclasses.replace(config, init_from=InitFromConfig(str(there), ("policy",)))
    assert train(config, tmp_path / "here", source=source()).complete
    saved, after = state_of(config_of(), there, UPDATES), state_of(config, tmp_path / "here", UPDATES)
    for run, seed in enumerate((1, 2)):
        assert trees_equal(run_of(after.policy.params, run), run_of(saved.policy.params, seed))
        assert not trees_equal(run_of(after.policy.params, run + 2), run_of(saved.policy.params, seed))
    np.testing.assert_array_equal(after.policy.opt_state[0].count, np.full(4, 2 * UPDATES))
    np.testing.assert_array_equal(after.step, np.full(4, UPDATES))
    note = Origin(str(there), UPDATES, ("policy",))
    assert [Checkpoints(tmp_path / "here").progress(step).init_from for step in (10, 20)] == [note, note]

    shutil.rmtree(there)
    shutil.rmtree(tmp_path / "here" / "checkpoints" / str(UPDATES))
    (tmp_path / "here" / "DONE").unlink()
    assert train(config, tmp_path / "here", source=source()).complete
    assert trees_equal(state_of(config, tmp_path / "here", UPDATES), after)
    assert Checkpoints(tmp_path / "here").progress(UPDATES).init_from == note


@pytest.mark.slow
def test_an_earlier_step_and_what_is_not_named(before: Path, tmp_path: Path) -> None:
    """Of a method with two networks the one that is named comes from there, at the step that is named; the other is fresh."""
    method = iql.Config(hidden_dims=(8,), num_updates=UPDATES, batch_size=8)
    first = config_of(method, num_seeds=1)
    assert train(first, tmp_path / "there", source=source()).complete
    still = dataclasses.replace(method, learning_rate=0.0, tau=0.0)
    asked = InitFromConfig(str(tmp_path / "there"), ("critic", "target_critic_params"), step=10)
    second = config_of(still, num_seeds=1, first_seed=7, init_from=asked)
    assert train(second, tmp_path / "here", source=source()).complete
    saved, after = state_of(first, tmp_path / "there", 10), state_of(second, tmp_path / "here", UPDATES)
    fresh = init_states(make(still, Spec.plain(3, 2)), make_runs(second))
    assert trees_equal(after.critic.params, saved.critic.params)
    assert trees_equal(after.target_critic_params, saved.target_critic_params)
    assert trees_equal(after.value.params, fresh.value.params)
    assert trees_equal(after.policy.params, fresh.policy.params)


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ([4], [0, 1, 0, 1], [0, 0, 0, 0]),
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([5, 6, 7], [6, 7, 6, 7], [1, 2, 1, 2]),
    ],
)
def test_matching(theirs: list[int], ours: list[int], expected: list[int]) -> None:
    """Equal seeds start from the same run, so that runs which differ only in what nothing has read yet are still the same."""
    assert match(theirs, ours, Path("there")) == expected


def other(**changes: Any) -> bc.Config:
    return dataclasses.replace(config_of().algorithm, **changes)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no workdir": ({}, {"workdir": "/nowhere"}, "/nowhere is not a training directory"),
    "no fields": ({}, {"fields": ()}, "init_from.workdir is set and init_from.fields is empty"),
    "only fields": ({}, {"workdir": ""}, "init_from.fields is set and init_from.workdir is empty"),
    "no such field": ({}, {"fields": ("critic",)}, r"no 'critic' in .*, where the State has policy$"),
    "no such field here": (
        {"method": gaussian_bc.Config(hidden_dims=(8,), num_updates=2, batch_size=8)},
        {"fields": ("policy",)},
        r"init_from.fields: policy\S+ is ",
    ),
    "its own": ({}, {"fields": ("policy", "hparams")}, "'hparams' is each run's own"),
    "another width": (
        {"method": other(hidden_dims=(16,))},
        {},
        r"policy\S+ is float32\[8\] in \S+ and float32\[16\] here",
    ),
    "another depth": ({"method": other(hidden_dims=(8, 8))}, {}, r"policy\S+ is (missing|float32\S+) in \S+ and "),
    "no such step": ({}, {"step": 15}, "no checkpoint of step 15; there are: 10, 20"),
    "no such seed": ({"first_seed": 2}, {}, "has no run of seed 3: it has 0 … 2"),
    "other units": ({"dataset": DatasetConfig(standardize_observations=True)}, {}, "observation_mean of the data is another"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(before: Path, tmp_path: Path, case: str) -> None:
    """Before the workdir is made, so that the same command can be given again with what would do."""
    changes, asked, message = REFUSED[case]
    config = config_of(**changes)
    config = dataclasses.replace(config, init_from=dataclasses.replace(InitFromConfig(str(before), ("policy",)), **asked))
    with pytest.raises((ConfigError, CheckpointError), match=message) as error:
        train(config, tmp_path / "here", source=source())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "here").exists()


def test_a_sweep_cannot_be_started_from() -> None:
    with pytest.raises(ConfigError, match="is a sweep, with several runs of a seed"):
        match([0, 1, 0, 1], [0, 1], Path("there"))
