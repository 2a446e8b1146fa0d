"""A policy in three lines: NumPy in and out, memory and random numbers held inside."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.small_methods import METHODS, DiscreteConfig, WindowConfig
from workdirs import card, describe, save_checkpoint, tiny_config

import diffrl
from diffrl import config as configs
from diffrl import records
from diffrl.acting import PolicyError, choose
from diffrl.data.scores import Reference
from diffrl.errors import UserError
from diffrl.evaluation import results
from diffrl.registry import REGISTRY
from diffrl.training.checkpoint import CheckpointError, Checkpoints
from diffrl.training.trained import Trained
from diffrl.types import Spec


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, diffrl; print([m for m in ('jax', 'numpy', 'diffrl.acting') if m in sys.modules], dir(diffrl))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[]")
    assert "load_policy" in said
    with pytest.raises(AttributeError, match="no attribute 'load_policies'"):
        _ = diffrl.load_policies  # pyright: ignore[reportAttributeAccessIssue]


def evaluated(workdir: Path, returns: list[list[float]], seed: int = 0, act: tuple[tuple[str, str], ...] = ()) -> None:
    """A result at update 30 of the runs of `workdirs.make_workdir`."""
    values = np.array(returns)
    settings = results.Settings("jax", "made up", values.shape[1], seed, act)
    points = [{"learning_rate": rate} for rate in (0.1, 0.1, 0.2, 0.2)]
    ones = np.ones(values.shape, int)
    reference = Reference(0.0, 20.0, "made up", "return")
    result = results.Result(30, settings, reference, "", [0, 1, 0, 1], points, values, ones, ones > 0)
    results.save(workdir, result, np.zeros((4, 0, 1, 6), np.float32))


def test_it_acts_as_the_method_does(workdir: Path) -> None:
    policy = diffrl.load_policy(workdir, run=2, seed=5)
    trained = Trained.open(workdir)
    arrays = jax.tree.map(lambda x: x[2], trained.restore(30))
    trained.close()
    observation = np.random.default_rng(0).normal(size=(3, 6))
    key = jax.random.key(5)
    expected = [
        trained.algorithm.act(arrays, (), jnp.asarray(observation, jnp.float32), jax.random.fold_in(key, count))[0]
        for count in (0, 1)
    ]
    found = [policy(observation), policy(observation)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert isinstance(found[0], np.ndarray)
    assert np.any(found[0] != found[1])  # its noise is fresh at each call
    policy.reset()
    assert np.any(policy(observation) != found[0])  # and goes on after a reset
    policy.reset(seed=5)
    np.testing.assert_array_equal(policy(observation), found[0])
    assert policy(observation[0]).shape == (2,)
    assert "update 30, run 2 (seed 0)" in repr(policy)


def test_which_policy_may_be_chosen(workdir: Path) -> None:
    assert diffrl.load_policy(workdir).chosen.step == 30
    earlier = choose(workdir, step=20, act={"num_denoising_steps": 1})
    assert (earlier.step, earlier.trained.config.algorithm.act.num_denoising_steps, earlier.result) == (20, 1, None)
    with pytest.raises(PolicyError, match="no evaluation says which run is best at update 30 acting so: diffrl-evaluate"):
        choose(workdir, run="best")
    evaluated(workdir, [[1.0, 1.0], [1.0, 3.0], [9.0, np.nan], [0.0, 0.0]])
    evaluated(workdir, [[9.0], [0.0], [0.0], [0.0]], seed=3)  # of fewer episodes
    evaluated(workdir, [[0.0] * 3, [0.0] * 3, [0.0] * 3, [7.0] * 3], act=(("num_denoising_steps", "1"),))
    assert choose(workdir, run="best").run == 1
    assert choose(workdir, run="best", act={"num_denoising_steps": 1}).run == 3
    for arguments, message in (
        ({"run": 4}, r"run=4 is not among the 4 runs 0 … 3"),
        ({"run": "first"}, "neither a number nor 'best'"),
        ({"step": 7}, "no checkpoint at update 7; there are 10, 20, 30"),
        ({"step": "best"}, "neither a number of updates nor 'last'"),
        ({"act": {"num_denoising_step": 7}}, "did you mean 'num_denoising_steps'"),
        ({"workdir": workdir / "nowhere"}, "nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            choose(**({"workdir": workdir} | arguments))


def test_a_run_that_diverged_does_not_act(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(tmp_path / "fresh", tiny_config(), card())
    with pytest.raises(CheckpointError, match="no checkpoints yet"):
        diffrl.load_policy(tmp_path / "fresh")
    progress = Checkpoints.progress
    monkeypatch.setattr(Checkpoints, "progress", lambda self, step: dataclasses.replace(progress(self, step), diverged={0: 3}))
    with pytest.raises(PolicyError, match="run 0 diverged in training; those that did not: 1, 2, 3"):
        diffrl.load_policy(workdir)
    assert diffrl.load_policy(workdir, run=1).chosen.seed == 1


def test_observations_have_the_shape_of_the_data(workdir: Path) -> None:
    policy = diffrl.load_policy(workdir)
    for observation, message in (
        (np.zeros(5), r"has shape \(5,\); this policy takes \(6,\) or \(batch, 6\)"),
        (np.zeros((2, 2, 6)), r"has shape \(2, 2, 6\)"),
        ({"observation": np.zeros(6)}, "have no named parts: give it an array"),
    ):
        with pytest.raises(PolicyError, match=message):
            policy(observation)


def small(tmp_path: Path, method: str, config: object, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> diffrl.Policy:
    """A fresh policy of one of the contract's small methods."""
    monkeypatch.setitem(REGISTRY, method, METHODS[method])
    whole = configs.Config(config, configs.DatasetConfig(id="tests/a-v0"), num_seeds=1)
    describe(tmp_path, whole, card(action_low=spec.action_low, action_high=spec.action_high))
    records.write(tmp_path / "spec.json", spec)
    save_checkpoint(tmp_path, 10, stage_index=0, num_stages=1)
    return diffrl.load_policy(tmp_path)


def test_memory_is_held_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (("velocity", 1), ("position", 2))
    spec = Spec(3, 2, (0.0,) * 3, (1.0,) * 3, (-1.0,) * 2, (1.0,) * 2, observation_parts=parts)
    policy = small(tmp_path, "window", WindowConfig(), spec, monkeypatch)
    observation = {"position": np.array([1.0, 2.0]), "velocity": np.array([3.0])}
    first, second = policy(observation), policy(observation)
    assert np.any(first != second)
    policy.reset()
    np.testing.assert_array_equal(policy(np.array([3.0, 1.0, 2.0])), first)  # the parts in the data's order
    with pytest.raises(PolicyError, match=r"remembers 1 environments, and 2 came: call reset\(\) between"):
        policy(np.zeros((2, 3)))
    with pytest.raises(PolicyError, match="lacks velocity; it is put together from velocity, position"):
        policy({"position": np.zeros(2)})


def test_discrete_actions_are_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec(3, 4, (0.0,) * 3, (1.0,) * 3, (0.0,) * 4, (1.0,) * 4, num_actions=4)
    policy = small(tmp_path, "discrete", DiscreteConfig(), spec, monkeypatch)
    one, several = policy(np.ones(3)), policy(np.eye(3))
    assert (one.shape, several.shape, several.dtype) == ((), (3,), np.int32)
    assert 0 <= int(one) < 4
