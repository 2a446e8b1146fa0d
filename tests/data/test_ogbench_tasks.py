"""Rows of OGBench labelled with tasks, without a simulator: what counts as success, five tasks from one set, goals."""

import json

import numpy as np
import pytest

from diffrl.config import Config, ConfigError, DatasetConfig, override, validate
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load
from diffrl.data.ogbench_tasks import GOAL_DISCOUNT, Labels, labelled
from diffrl.data.scores import OGBENCH, Reference, reference_for
from diffrl.envs import trust
from diffrl.envs.ogbench import tasks
from diffrl.registry import REGISTRY

ENVS = {
    **{f"pointmaze-{maze}": (2, 1) for maze in ("medium", "large", "giant", "teleport")},
    **{"cube-single": (28, 1), "cube-double": (37, 2), "cube-triple": (46, 3), "cube-quadruple": (55, 4), "scene": (40, 5)},
    **{"puzzle-3x3": (55, 9), "puzzle-4x4": (83, 16), "puzzle-4x5": (99, 20), "puzzle-4x6": (115, 24)},
}


@pytest.fixture
def goals(monkeypatch):
    """Goals of numbers in place of the package's, so that these tests do without it."""

    def goal(name, number):
        return np.random.default_rng(number).integers(0, 2, len(tasks.columns(name))).astype(float)

    monkeypatch.setattr(tasks, "goal", goal)
    monkeypatch.setattr(tasks, "spec_of", lambda *asked: json.dumps({"id": "/".join(map(str, asked))}))
    return goal


def trajectories(name, count=3, steps=400, seed=0):
    """Random walks of 0 and 1 in all columns, of this environment's width, as a file of OGBench without rewards holds them."""
    rng = np.random.default_rng(seed)
    flips = rng.random((count, steps + 1, ENVS[name][0])) < 0.05
    flips[:, 0] = rng.random((count, ENVS[name][0])) < 0.5
    ends = np.arange(steps + 1) == steps
    return {
        "observations": (np.cumsum(flips, axis=1) % 2).reshape(-1, ENVS[name][0]).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count * (steps + 1), 5)).astype(np.float32),
        "terminals": np.tile(ends, count),
        "qpos": np.zeros((count * (steps + 1), 2)),
    }


@pytest.fixture
def file(tmp_path):
    def write(name, **options):
        path = tmp_path / f"{name}-play-v0.npz"
        np.savez(path, **trajectories(name, **options))
        return str(path)

    return write


@pytest.mark.parametrize("name", ENVS)
def test_objects_stand_where_observations_have_them(name):
    width, objects = ENVS[name]
    parts = tasks.parts(name)
    assert len(parts) == objects
    used = [column for part in parts for column in part.columns]
    assert len(set(used)) == len(used)
    assert max(used) < width
    # 19 numbers of the arm, 9 of a cube, 4 of a button, 4 of drawer and window together.
    assert min(used) == (0 if name.startswith("pointmaze") else 20 if name.startswith("puzzle") else 19)
    assert not [used for used in used if name.startswith("puzzle") and (used - 20) % 4]
    assert tasks.name_in(f"/a/b/{name}-play-v0.npz") == tasks.name_in(f"{name}-singletask-task2-v0") == name
    assert tasks.default_task(name) in range(1, 6)


def test_tolerances_are_in_metres():
    """4 cm for cubes, drawer and window, whatever the scale of their columns; 1 m in the point's mazes, 0.5 m in the ant's."""
    scale = {19: 10.0, 36: 18.0, 38: 15.0}
    for column, factor in scale.items():
        for metres, expected in ((0.0399, True), (0.0401, False)):
            observation = np.zeros((1, 40))
            observation[0, column] = factor * metres
            placed = tasks.in_place("scene", observation, np.zeros(7))[0]
            assert placed.all() == expected
            assert placed.sum() == (5 if expected else 4)
    diagonal = np.zeros((1, 28))
    diagonal[0, 19:22] = 0.39 / np.sqrt(3)
    assert tasks.in_place("cube-single", diagonal, np.zeros(3)).all()
    assert not tasks.in_place("cube-single", diagonal * 1.1, np.zeros(3)).any()
    assert tasks.in_place("pointmaze-large", np.array([[0.6, 0.79]]), np.zeros(2)).all()
    assert not tasks.in_place("antmaze-large", np.array([[0.6, 0.79]]), np.zeros(2)).any()


@pytest.mark.parametrize("name", ENVS)
def test_one_set_serves_five_tasks(goals, file, name):
    source, n = load(file(name)), ENVS[name][1]
    dense = [labelled(source, Labels(task=str(number))) for number in range(1, 6)]
    sparse = [labelled(source, Labels(task=str(number), reward="sparse")) for number in range(1, 6)]
    for number, one, other in zip(range(1, 6), dense, sparse, strict=True):
        placed = tasks.in_place(name, source.transitions.observation, goals(name, number))
        t, s = one.transitions, other.transitions
        assert set(t.reward) <= set(range(-n, 1))
        np.testing.assert_array_equal(t.reward, placed.sum(axis=1) - n)
        np.testing.assert_array_equal(t.terminal, t.reward == 0)
        assert set(s.reward) <= {-1.0, 0.0}
        np.testing.assert_array_equal(s.reward == 0, s.terminal)
        np.testing.assert_array_equal(s.terminal, t.terminal)
        # Trajectories of 400 steps end there, as timeouts, wherever the task is not reached in their last step.
        assert np.flatnonzero(t.timeout | t.terminal)[-1] == 1199
        assert (t.timeout | t.terminal)[[399, 799]].all()
        assert not (t.timeout & t.terminal).any()
        assert t.timeout.sum() <= 3
        np.testing.assert_array_equal(t.observation, source.transitions.observation)
        assert (one.env_spec, other.env_spec) == (
            json.dumps({"id": f"{name}/{number}/dense/1.2"}),
            json.dumps({"id": f"{name}/{number}/sparse/1.2"}),
        )
        build(one, Transforms())
    if name.startswith("puzzle"):
        reached = dense[0].transitions
        states = reached.observation[reached.terminal][:, tasks.columns(name)]
        assert (states == goals(name, 1)).all()


def test_labels_replace_those_that_the_data_have(goals, file):
    """Also where the last row of a trajectory was terminal, and so no timeout, before."""
    source = load(file("cube-single"))
    first = labelled(source, Labels(task="1"))
    rows = first.transitions
    rows.terminal[[3, 399]], rows.timeout[399] = True, False
    again = labelled(first, Labels(task="2")).transitions
    for x, y in zip(again, labelled(source, Labels(task="2")).transitions, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["pointmaze-medium", "scene", "puzzle-3x3"])
def test_goals_are_later_states_of_the_same_trajectory(goals, file, name):
    source = load(file(name, steps=5000))
    found = labelled(source, Labels(task="goals", reward="sparse"))
    width, t = ENVS[name][0], found.transitions
    np.testing.assert_array_equal(t.observation[:, :width], source.transitions.observation)
    goal = t.observation[:, width:]
    np.testing.assert_array_equal(goal, t.next_observation[:, width:])
    assert found.observation_parts == (("observation", width), ("desired_goal", width))
    assert found.observation_keys == ("observation", "desired_goal")
    assert found.env_spec == json.dumps({"id": f"{name}/None/sparse/1.2"})
    # The goal is the state after the last row that pursues it.
    same = (goal[1:] == goal[:-1]).all(axis=1)
    last = np.append(np.flatnonzero(~same), len(goal) - 1)
    np.testing.assert_array_equal(goal[last], t.next_observation[last, :width])
    assert np.isin([4999, 9999, 14_999], last).all()  # of its own trajectory
    assert (t.timeout | t.terminal)[last].all()
    assert abs(len(last) / len(goal) - (1 - GOAL_DISCOUNT)) < 4e-3
    reached = tasks.in_place(name, t.observation, goal[:, tasks.columns(name)]).all(axis=1)
    np.testing.assert_array_equal(t.terminal, reached)
    np.testing.assert_array_equal(t.reward, reached - 1.0)
    for x, y in zip(t, labelled(source, Labels(task="goals", reward="sparse")).transitions, strict=True):
        np.testing.assert_array_equal(x, y)  # drawn the same again
    build(found, Transforms())


def test_a_success_in_a_trajectorys_last_row_contradicts_nothing(goals, file):
    found = labelled(load(file("pointmaze-medium", count=40, steps=20)), Labels(task="1")).recorded
    assert found.rows.terminal[19::20].any()
    assert found.ends.both == 0


def test_without_a_task_the_data_keep_their_rewards(goals, file):
    source = from_arrays(observation=np.zeros((3, 2)), action=np.zeros((3, 1)), reward=np.ones(3), terminal=np.zeros(3))
    assert labelled(source, Labels()) is source
    for labels in (Labels(reward="sparse"), Labels(ogbench="1.1")):
        with pytest.raises(DatasetError, match=r"dataset.task is empty: set --config.dataset.task=1 … 5"):
            labelled(source, labels)
    with pytest.raises(DatasetError, match=r"nothing says of which.*cube-single-play-v0.npz; or set --config.dataset.env_id="):
        labelled(source, Labels(task="1"))
    with pytest.raises(DatasetError, match=r"with dataset.task=goals all versions look after each action: leave it out"):
        labelled(source._replace(env_spec='{"id": "cube-single-v0"}'), Labels(task="goals", ogbench="1.1"))
    with pytest.raises(DatasetError, match="observations of 2 numbers, too few for OGBench's cube-single"):
        labelled(source._replace(env_spec='{"id": "cube-single-v0"}'), Labels(task="1"))
    assert not build(load(file("scene")), Transforms())[1].has_rewards


def test_missing_package_names_its_extra(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ogbench", None)
    with pytest.raises(
        DatasetError, match=r"dataset.task=1 needs ogbench, which is not installed: pip install 'diffrl\[ogbench\]'"
    ):
        labelled(load(file("scene")), Labels(task="1"))


def test_settings_are_a_configs():
    config = Config(algorithm=REGISTRY["bc"].config(), dataset=DatasetConfig(id="a.npz"))
    for assignment in ("dataset.task=3", "dataset.reward=sparse", "dataset.ogbench=1.1"):
        override(config, assignment)
    validate(config)
    assert (config.dataset.task, config.dataset.reward, config.dataset.ogbench) == ("3", "sparse", "1.1")
    for wrong in ("dataset.task=6", "dataset.reward=count", "dataset.ogbench=1.3"):
        with pytest.raises(ConfigError, match="is unknown"):
            override(config, wrong)


def test_environments_of_tasks():
    """Their own names and limits; by name the moment of looking, the reward, and goals in the observation."""
    pytest.importorskip("ogbench")

    def spec(*asked):
        text = tasks.spec_of(*asked)
        trust.check(json.loads(text))
        assert reference_for_spec(text) == OGBENCH
        return json.loads(text)

    new, old, sparse, goals = (
        spec("scene", 3),
        spec("scene", 3, "dense", "1.1"),
        spec("scene", 3, "sparse"),
        spec("scene", None),
    )
    assert new["id"] == old["id"] == sparse["id"] == "scene-singletask-task3-v0"
    assert (new["kwargs"]["success_timing"], old["kwargs"]["success_timing"]) == ("pre", "post")
    assert {one["max_episode_steps"] for one in (new, old, sparse, goals)} == {750}
    assert [[each["name"] for each in one["additional_wrappers"]] for one in (new, sparse, goals)] == [
        [],
        ["SparseReward"],
        ["GoalObservation"],
    ]
    assert goals["id"] == "scene-v0"


def reference_for_spec(text) -> Reference | None:
    from diffrl.data.dataset import Card

    card = Card("a", 1, 1, 0.0, 0.0, 0.0, "", (-1.0,), (1.0,), env_spec=text)
    return reference_for(card)
