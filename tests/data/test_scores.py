"""Reference scores: which are found, and the scale."""

import dataclasses
import json

import numpy as np
import pytest

from diffrl.data.dataset import Card
from diffrl.data.scores import OGBENCH, Reference, normalized, reference_for, why_no_reference


def card(env_id=None, id="a/b-v0", kwargs=None, **changes):
    spec = None if env_id is None else json.dumps({"id": env_id, "kwargs": kwargs or {}})
    numbers = {"rows": 1, "episodes": 1, "return_min": 0.0, "return_mean": 0.0, "return_max": 0.0, "sha256": ""}
    return Card(id=id, **numbers, action_low=(-1.0,), action_high=(1.0,), env_spec=spec, **changes)


@pytest.mark.parametrize(
    "env_id, low, high",
    [
        ("Hopper-v5", -20.272305, 3234.3),
        ("HalfCheetah-v2", -280.178953, 12135.0),
        ("Walker2d-v4", 1.629008, 4592.3),
        ("Ant-v5", -325.6, 3879.7),
        ("AdroitHandPen-v1", 96.262799, 3076.8331017826877),
        ("AdroitHandHammer-v1", -274.856578, 12794.134825156867),
        ("door-human-v1", -56.512833, 2880.5693087298737),
        ("relocate-expert-v1", -6.425911, 4233.877797728884),
        ("FrankaKitchen-v1", 0.0, 4.0),
        ("kitchen-mixed-v0", 0.0, 4.0),
        ("hopper-medium-v2", -20.272305, 3234.3),
        ("maze2d-medium-v1", 13.13, 277.39),
        ("maze2d-open-dense-v0", 11.17817, 27.166538620695782),
    ],
)
def test_table(env_id, low, high):
    found = reference_for(card(env_id))
    assert (found.min, found.max) == (low, high)
    assert "D4RL" in found.source


def test_antmaze_counts_only_where_the_goal_ends_the_task():
    assert reference_for(card("AntMaze_UMaze-v5", kwargs={"continuing_task": False})).max == 1.0
    assert reference_for(card("AntMaze_UMaze-v5")) is None
    assert reference_for(card("antmaze-umaze-v2")).max == 1.0


def test_the_datasets_own_come_first():
    found = reference_for(card("Hopper-v5", ref_min_score=1.0, ref_max_score=2.0, ref_provenance="measured"))
    assert found == Reference(1.0, 2.0, "measured", "return")
    assert reference_for(card("Hopper-v5", ref_min_score=2.0, ref_max_score=2.0)).max == 3234.3


def test_ogbench_counts_successes():
    """Its single tasks, whatever their returns; names that begin like D4RL's are not mistaken for them."""
    for name in ("cube-single-singletask-task2-v0", "antmaze-large-singletask-v0"):
        assert reference_for(of_ogbench(name)) == OGBENCH
    assert (OGBENCH.min, OGBENCH.max, OGBENCH.quantity) == (0.0, 1.0, "success")
    np.testing.assert_allclose(normalized(np.array([0.0, 0.25, 1.0]), OGBENCH), [0, 25, 100])
    assert reference_for(of_ogbench("online-ant-v0")) is None
    own = dataclasses.replace(of_ogbench("cube-single-singletask-v0"), ref_min_score=-200.0, ref_max_score=-10.0)
    assert reference_for(own).quantity == "return"


def of_ogbench(env_id):
    spec = json.dumps({"id": env_id, "entry_point": "ogbench.locomaze.maze:make_maze_env", "kwargs": {}})
    return dataclasses.replace(card(), env_spec=spec)


def test_none_and_why():
    for nothing in (card("PointMaze_UMaze-v3"), card(), card("AntBall-v0")):
        assert reference_for(nothing) is None
        assert "no reference scores" in why_no_reference(nothing)
    assert reference_for(card(id="d4rl/maze2d-large-v1")).min == 6.7


def test_scale():
    found = reference_for(card("Hopper-v5"))
    np.testing.assert_allclose(
        normalized(np.array([found.min, found.max, (found.min + found.max) / 2]), found), [0, 100, 50], atol=1e-9
    )
