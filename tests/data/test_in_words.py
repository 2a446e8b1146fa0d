"""What training makes of the rows is said before it starts: every setting that changes them, with its value."""

import dataclasses

import numpy as np
import pytest

from diffrl import cli
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.in_words import in_words


def source(n=12, **changes):
    state = np.linspace(-1.0, 4.0, n + 1)[:, None] * [1.0, 2.0]
    rows = {"observation": state[:-1], "next_observation": state[1:], "action": np.linspace(-1.5, 1.5, n)[:, None]}
    rows |= {"reward": np.arange(n, dtype=float), "terminal": np.zeros(n), "timeout": np.arange(n) % 4 == 3}
    return from_arrays(**{**rows, **changes})


def said(transforms, **changes) -> str:
    _, spec, card = build(source(**changes), transforms)
    return in_words(transforms, spec, card)


# A setting other than its default, and what is said of it: its name, and the values it comes to with these rows.
CHANGES = {
    "standardize_observations": (True, ["observations minus their mean (1.292, 2.583), over their deviation (1.438, 2.877)"]),
    "reward_scale": ("return_range", ["rewards times 31.25", "1000 over 32, by which returns differ"]),
    "reward_shift": (-1.0, ["rewards plus -1"]),
    "clip_actions": (True, ["actions of 4 rows moved onto the bounds"]),
    "action_bounds": ("data", ["the least and largest that occur"]),
    "first_episode": (1, ["all episodes from number 1 on"]),
    "num_episodes": (2, ["2 episodes from number 0 on"]),
    "keep_every": (3, ["of each episode one row in 3"]),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Transforms)])
def test_every_transform_is_said_with_its_values(name):
    value, words = CHANGES[name]
    told = said(Transforms(**{"clip_actions": True, name: value}))
    assert told.startswith("training sees ")
    assert name in told
    for word in words:
        assert word in told, told
    assert "\n" not in told


def test_what_is_left_alone_is_said_too():
    action = np.linspace(-1, 1, 12)[:, None]
    assert said(Transforms(), action=action) == "training sees the rows as they are"
    wide = said(Transforms(), action=3 * action, action_low=-3, action_high=3)
    assert wide == "training sees actions mapped from -3 … 3 to -1 … 1"
    discrete = said(Transforms(), action=np.arange(12) % 3)
    assert discrete == "training sees actions as 3 numbers, 1 for the one taken and 0 for the others"


def test_the_order_is_that_of_the_arithmetic():
    told = said(Transforms(reward_scale="return_range", reward_shift=-1.0, clip_actions=True), action_low=-1.2, action_high=1.2)
    assert "differ), then plus -1 (reward_shift)" in told
    assert "moved onto the bounds (clip_actions), then mapped from -1.2 … 1.2" in told


@pytest.mark.parametrize("name", ["iql_mujoco", "srpo_antmaze", "srpo_mujoco", "td3_bc_mujoco"])
def test_an_experiment_file_hides_nothing_from_data_put_in_by_hand(name):
    """Each of its settings that changes rows is named."""
    config = cli.load_experiment(name).dataset
    config.clip_actions = True
    told = said(config)
    changed = [
        field.name for field in dataclasses.fields(Transforms) if getattr(config, field.name) != getattr(Transforms(), field.name)
    ]
    assert len(changed) > 1
    assert all(f"({changed_one}" in told for changed_one in changed), told
