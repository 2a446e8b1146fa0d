"""The control datasets: what the stored numbers mean, and that the environment comes back from them."""

import jax
import numpy as np
import pytest
from collected import collect
from support import quick_compilation

from diffrl.collection import control
from diffrl.collection.recipes import RECIPES
from diffrl.data import minari as loader
from diffrl.envs import make
from diffrl.envs.control.registry import TASKS


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    # Reference plans need not be good here.
    monkeypatch.setattr(control, "TASKS", {name: task._replace(iterations=20) for name, task in control.TASKS.items()})
    for number, value in (("RANDOM_EPISODES", 20), ("PLANNED_EPISODES", 1), ("EPISODES_PER_CALL", 100)):
        monkeypatch.setattr(control, number, value)
    with quick_compilation():
        yield


def check_rows(rows, task):
    """Transitions are the task's, rewards minus its cost, and episodes short."""
    reward = -jax.jit(jax.vmap(task.cost))(rows["observation"], rows["action"])
    np.testing.assert_allclose(rows["reward"], reward, rtol=1e-5, atol=1e-7)
    following = jax.jit(jax.vmap(task.dynamics))(rows["observation"], rows["action"])
    np.testing.assert_allclose(rows["next_observation"], following, atol=2e-5)
    assert jax.jit(jax.vmap(task.inside))(rows["observation"]).all()
    assert not rows["terminal"].any()
    ends = np.flatnonzero(rows["timeout"])
    assert ends[-1] == len(rows["reward"]) - 1
    assert np.diff(ends, prepend=-1).max() <= task.data_steps
    inner = ~rows["timeout"][:-1]
    np.testing.assert_array_equal(rows["next_observation"][:-1][inner], rows["observation"][1:][inner])


@pytest.mark.parametrize("name", ["cartpole-dense", "pusher"])
def test_rows_are_steps_of_the_task(name):
    rows = control.play(name, 0, 0, 800)
    check_rows(rows, control._make(name))
    assert rows["reward"].max() < 0.0


def test_a_dataset_and_its_environment():
    recipe = RECIPES["control/hole-dense-v0"]
    outcome = collect(recipe, seed=0, rows=800, workers=1, dataset_id=recipe.dataset_id)
    assert outcome.metadata["total_steps"] == 800
    source = loader.load(recipe.dataset_id)
    task = make.choose("auto", source.env_spec, source.observation_keys).device
    assert task == control._make("hole-dense")
    assert (task.state_weight, task.max_episode_steps) == (1.0, 40)
    np.testing.assert_allclose(source.action_low, task.action_low)
    check_rows(source.transitions._asdict(), task)
    # Twenty rounds of planning are better than none.
    assert source.ref_min_score < source.ref_max_score < 0.0
    assert "may leave the region" in source.ref_provenance
    assert "Suh et al. 2023" in source.description


def test_rows_do_not_depend_on_how_they_are_spread():
    whole, part = control.play("corridor", 0, 0, 2_500), control.play("corridor", 0, 0, 1_000)
    for field in ("observation", "action", "reward", "next_observation"):
        np.testing.assert_array_equal(whole[field][:1_000], part[field])
    other = control.play("corridor", 0, 1, 1_000)
    assert not np.isin(other["observation"][:, 0], part["observation"][:, 0]).any()


def test_every_task_has_a_recipe():
    assert {task.task for task in control.TASKS.values()} == set(TASKS)
    for name in control.TASKS:
        assert isinstance(control._make(name), TASKS[control.TASKS[name].task])
        assert f"control/{name}-v0" in RECIPES
