"""A training directory opened by whoever did not write it."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from support import assert_trees_close, quick, trees_equal
from workdirs import card, describe, make_workdir, save_checkpoint, tiny_config

from diffrl.algorithms import srpo
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.records import RecordError
from diffrl.training.checkpoint import CheckpointError, Checkpoints, Progress
from diffrl.training.trained import Trained
from diffrl.training.workdir import WorkdirError


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    make_workdir(path)
    return path


def test_what_was_trained_is_all_there(workdir: Path) -> None:
    trained = Trained.open(workdir)
    assert (trained.config, trained.card) == (tiny_config(), card())
    assert trained.spec.observation_dim == 6
    assert trained.runs.seeds == [0, 1, 0, 1]
    assert trained.checkpoints.steps() == [10, 20, 30]
    assert [trained.is_of_last_stage(step) for step in (10, 20, 30)] == [False, True, True]
    trained.close()
    before, last = trained.restore(20), trained.policies
    trained.close()
    assert {leaf.shape[0] for leaf in jax.tree.leaves(last)} == {4}
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(last), strict=True))


def test_other_choices_when_acting_leave_the_training_alone(workdir: Path) -> None:
    trained = Trained.open(workdir)
    other = trained.acting((("num_denoising_steps", "7"),))
    assert (trained.config.algorithm.act.num_denoising_steps, other.config.algorithm.act.num_denoising_steps) == (2, 7)
    for act, message in (
        (("num_denoising_step", "7"), "--act: unknown setting 'num_denoising_step'; did you mean 'num_denoising_steps'"),
        (("num_denoising_steps", "0"), "--act: algorithm.act.num_denoising_steps must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained.acting((act,))


@pytest.mark.slow
def test_what_acting_needs_besides_comes_from_the_state(tmp_path: Path) -> None:
    """SRPO saves its policy alone; decoded softly it acts by its behaviour model and critics, of which equal runs share one."""
    sizes = {"behavior_hidden_dim": 8, "behavior_blocks": 1, "critic_hidden_dims": (8,), "policy_hidden_dims": (8,)}
    config = Config(srpo.Config(**sizes), DatasetConfig(id="tests/a-v0"), num_seeds=2, sweep="beta=0.1,0.2")
    describe(tmp_path, config, card())
    trained = Trained.open(tmp_path)
    algorithm, softly, rows = trained.algorithm, trained.acting((("decode", "svdd"),)).algorithm, np.array((0, 1, 0, 1))
    states = quick(jax.vmap(algorithm.init))(trained.runs.keys[:2], jax.tree.map(lambda x: x[:2], trained.runs.hparams))
    policies = jax.tree.map(lambda x: x[rows], jax.vmap(algorithm.policy)(states))
    saved = Checkpoints(tmp_path, write=True)
    saved.save(states, policies, Progress(5, "critic", 1, 3, rows=tuple(rows.tolist())))
    saved.close()
    assert trees_equal(trained.restore(5, algorithm), policies)
    needed = trained.restore(5, softly)
    assert set(needed) == {"behavior", "constants", "critic"}
    assert_trees_close(needed, jax.tree.map(lambda x: x[rows], jax.vmap(softly.policy)(states)), rtol=0.0, atol=0.0)
    trained.close()


def test_what_is_no_training_directory_is_said_so(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkdirError, match="nowhere does not exist"):
        Trained.open(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"is not a training directory: it has no config\.json"):
        Trained.open(tmp_path)
    for name in ("config.json", "spec.json", "dataset.json"):
        damaged = tmp_path / name
        shutil.copytree(workdir, damaged, ignore=shutil.ignore_patterns("checkpoints"))
        for content in ("{", "[1]", '{"id": 3}'):
            (damaged / name).write_text(content)
            with pytest.raises((ConfigError, RecordError), match=rf"{name}:? .*; put a copy of it back"):
                Trained.open(damaged)


def test_policies_need_a_checkpoint_of_the_last_stage(tmp_path: Path) -> None:
    describe(tmp_path, tiny_config(), card())
    trained = Trained.open(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoints yet"):
        _ = trained.policies
    save_checkpoint(tmp_path, 10, stage_index=0)
    with pytest.raises(CheckpointError, match="not trained to its last stage yet"):
        _ = trained.policies
