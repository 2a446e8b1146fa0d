"""Closed-form experts of gymnasium's small tasks: their levels, their episodes, and what a learner takes of them.

Levels were measured once over reset seeds 0 … 99 (Acrobot 0 … 49) with gymnasium 1.4 and Box2D 2.3.10; ± is the standard error.
"""

import sys

import numpy as np
import pytest
from collected import collect

from diffrl.collection import classic
from diffrl.collection.classic import TASKS
from diffrl.collection.collect import CollectionError
from diffrl.collection.recipes import RECIPES
from diffrl.data import minari as loader
from diffrl.data.build import Transforms, build
from diffrl.data.environment import matched
from diffrl.envs import make
from diffrl.envs.gymnasium_backend import BackendError, make_env

NAMES = list(TASKS)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def played(env_id: str, act, episodes: int, first: int = 0) -> list[dict[str, np.ndarray]]:
    """Of reset seeds first …"""
    env = classic.make(env_id)
    made = [classic.episode(env, act, first + number) for number in range(episodes)]
    env.close()
    return made


def returns(episodes) -> np.ndarray:
    return np.array([episode["reward"].sum() for episode in episodes])


def test_cartpole_is_balanced_for_ever():
    assert (returns(played("CartPole-v1", classic.balance, 10)) == 500).all()


@pytest.mark.parametrize(
    "name, mean, error, worst",
    [
        ("acrobot-expert", -83.5, 1.9, -139),
        ("acrobot-elbow-expert", -85.0, 4.0, -210),
        ("mountaincar-expert", -106.9, 2.4, -192),
        ("mountaincar-momentum-expert", -125.9, 3.3, -177),
        ("pendulum-expert", -145.0, 8.9, -400),
    ],
)
def test_levels(name, mean, error, worst):
    task = TASKS[name]
    found = returns(played(task.env_id, task.expert, 50 if "acrobot" in name else 100))
    assert abs(found.mean() - mean) < error
    assert found.min() >= worst
    assert abs(task.reference[1] - mean) < 2 * error


@pytest.mark.slow
def test_all_cartpoles():
    assert (returns(played("CartPole-v1", classic.balance, 100)) == 500).all()


@pytest.mark.slow
def test_lunarlander_lands_nine_times_in_ten():
    found = returns(played("LunarLander-v3", classic.land, 100))
    good = found[found >= 200]
    assert 0.85 <= len(good) / 100 <= 0.96
    assert abs(found.mean() - 252.8) < 7.9
    assert abs(good.mean() - 272.6) < 2.4
    assert (found < 0).mean() < 0.08


@pytest.mark.parametrize("rule", [classic.brake_shoulder, classic.swing_elbow])
def test_acrobot_reversed_never_swings_up(rule):
    assert (returns(played("Acrobot-v1", lambda observation: 2 - rule(observation), 3)) == -500).all()


@pytest.mark.parametrize("name, switches", [("mountaincar-expert", 3.05), ("mountaincar-momentum-expert", 2.6)])
def test_mountaincar_switches_a_few_times(name, switches):
    made = played("MountainCar-v0", TASKS[name].expert, 20, first=1000)
    assert np.mean([(np.diff(episode["action"]) != 0).sum() for episode in made]) == switches


@pytest.mark.parametrize("env_id", sorted({task.env_id for task in TASKS.values()}))
def test_references_of_random_actions(env_id):
    low = {task.reference[0] for task in TASKS.values() if task.env_id == env_id}
    env = classic.make(env_id)
    env.action_space.seed(1)
    found = returns([classic.episode(env, lambda _: env.action_space.sample(), 5_000 + seed) for seed in range(20)])
    env.close()
    assert len(low) == 1
    assert abs(found.mean() - low.pop()) < 4 * max(found.std(), 10.0) / len(found) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_and_its_environment(name):
    """Whole episodes of experts, whole also in what evaluates policies trained on them."""
    recipe, task = RECIPES[f"classic/{name}-v0"], TASKS[name]
    outcome = collect(recipe, seed=0, rows=600, workers=1, dataset_id=recipe.dataset_id)
    source, why = matched(loader.load(recipe.dataset_id))
    assert not why
    t = source.transitions
    ends = np.flatnonzero(t.terminal | t.timeout)
    assert ends[-1] + 1 == len(t.reward) == outcome.metadata["total_steps"] >= 600
    assert (ends[-2] + 1 if len(ends) > 1 else 0) < 600  # not an episode more than was asked for
    # CartPole and Pendulum run into their limits, the others reach their goals.
    assert t.timeout[ends].all() if name in ("cartpole-expert", "pendulum-expert") else t.terminal[ends].all()
    assert (source.ref_min_score, source.ref_max_score) == task.reference
    assert source.recorded.returns.min() >= task.least_return
    assert task.rule in source.description
    for row in range(0, len(t.reward), 97):
        np.testing.assert_array_equal(np.ravel(task.expert(t.observation[row].astype(np.float32))), t.action[row])
    if name == "pendulum-expert":
        assert not source.discrete
    else:
        assert source.discrete
        assert source.num_actions == {"CartPole-v1": 2, "LunarLander-v3": 4}.get(task.env_id, 3)
        assert build(source, Transforms())[1].num_actions == source.num_actions  # MountainCar's middle one never occurs
    host = make.choose("auto", source.env_spec, source.observation_keys).host(1)
    assert host.max_episode_steps == {"MountainCar-v0": 200, "Pendulum-v1": 200, "LunarLander-v3": 1000}.get(task.env_id, 500)
    host.close()


def test_episodes_depend_on_seed_shard_and_place_alone(monkeypatch):
    name = "mountaincar-expert"
    whole, part = classic.play(name, 0, 0, 500), classic.play(name, 0, 0, 100)
    assert (whole["observation"][: len(part["reward"])] == part["observation"]).all()
    for other in ((1, 0), (0, 1)):
        assert classic.play(name, *other, 100)["observation"][0, 0] != part["observation"][0, 0]
    monkeypatch.setattr(classic, "ROWS_PER_SHARD", 300)
    assert [shard.rows for shard in RECIPES[f"classic/{name}-v0"].shards(0, 700)] == [300, 300, 100]


def test_without_box2d_the_extra_is_named(monkeypatch):
    spec = classic.make("LunarLander-v3").spec.to_json()
    for module in [name for name in sys.modules if name.startswith(("gymnasium.envs.box2d", "Box2D"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    recipe = RECIPES["classic/lunarlander-expert-v0"]
    with pytest.raises(CollectionError, match=r"needs Box2D, which is not installed: pip install 'diffrl\[box2d\]'"):
        collect(recipe, seed=0, rows=10, workers=1, dataset_id=recipe.dataset_id)
    with pytest.raises(BackendError, match=r"LunarLander-v3 needs the package Box2D.*pip install 'diffrl\[box2d\]'"):
        make_env(spec)
