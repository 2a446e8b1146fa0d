"""What training makes of the rows is said before it starts: every setting that changes them, with its value."""

import dataclasses

import numpy as np
import pytest

from diffrl import cli
from diffrl.config import DatasetConfig
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.training.in_words import in_words


def source(n=12, **changes):
    state = np.linspace(-1.0, 4.0, n + 1)[:, None] * [1.0, 2.0]
    rows = {"observation": state[:-1], "next_observation": state[1:], "action": np.linspace(-1.5, 1.5, n)[:, None]}
    rows |= {"reward": np.arange(n, dtype=float), "terminal": np.zeros(n), "timeout": np.arange(n) % 4 == 3}
    return from_arrays(**{**rows, **changes})


def said(settings, keys=None, **changes) -> str:
    _, spec, card = build(source(**changes)._replace(observation_keys=keys), settings)
    return in_words(settings, spec, card)


# A setting other than its default, and what is said of it: its name, and the values it comes to with these rows.
CHANGES = {
    "standardize_observations": (True, ["observations minus their mean (1.292, 2.583), over their deviation (1.438, 2.877)"]),
    "reward_scale": ("return_range", ["rewards times 31.25", "1000 over 32, by which returns differ"]),
    "reward_factor": (4.0, ["rewards times 4 (reward_factor)"]),
    "reward_shift": (-1.0, ["rewards plus -1"]),
    "clip_actions": (True, ["actions of 4 rows moved onto the bounds"]),
    "action_bounds": ("data", ["the least and largest that occur"]),
    "first_episode": (1, ["all episodes from number 1 on"]),
    "num_episodes": (2, ["2 episodes from number 0 on"]),
    "keep_every": (3, ["of each episode one row in 3"]),
    "mix": (("b.npz=0.25", "c=0.5"), ["0.25 are from a.hdf5, 0.25 are from b.npz, 0.5 are from c"]),
    "observation_keys": (("one", "other"), ["observations put together from one, other"]),
    "task": ("3", ["dense rewards (reward=dense) and terminals of OGBench's task 3", "evaluated by OGBench 1.2 (ogbench)"]),
    "reward": ("sparse", ["sparse rewards (reward=sparse)"]),
    "ogbench": ("1.1", ["as evaluated by OGBench 1.1"]),
}
# Which rows, not what becomes of them.
NO_CHANGE = {"id", "download", "env_id", "slab_rows"}


@pytest.mark.parametrize("name", sorted({field.name for field in dataclasses.fields(DatasetConfig)} - NO_CHANGE))
def test_every_setting_that_changes_rows_is_said_with_its_values(name):
    value, words = CHANGES[name]
    settings = DatasetConfig(id="a.hdf5", clip_actions=True)
    if name in ("reward", "ogbench"):
        settings.task = "1"
    setattr(settings, name, value)
    told = said(settings, settings.observation_keys or None)
    assert told.startswith("training sees ")
    assert name in told
    for word in words:
        assert word in told, told
    assert "\n" not in told


def test_what_is_left_alone_is_said_too():
    action = np.linspace(-1, 1, 12)[:, None]
    assert said(DatasetConfig(), action=action) == "training sees the rows as they are"
    wide = said(DatasetConfig(), action=3 * action, action_low=-3, action_high=3)
    assert wide == "training sees actions mapped from -3 … 3 to -1 … 1"
    discrete = said(DatasetConfig(), action=np.arange(12) % 3)
    assert discrete == "training sees actions as 3 numbers, 1 for the one taken and 0 for the others"


def test_a_goal_behind_each_observation_is_said_once():
    told = said(DatasetConfig(task="goals"), ("observation", "desired_goal"), action=np.zeros((12, 1)))
    assert "a later observation of its trajectory behind each, as its goal, and dense rewards" in told
    assert "(observation_keys)" not in told


def test_parts_that_a_loader_chose_are_said_as_well():
    assert "from one, other (observation_keys)" in said(DatasetConfig(clip_actions=True), ("one", "other"))


def test_a_hundredfold_reward_is_said():
    assert "rewards times 100 (reward_factor)" in said(DatasetConfig(reward_factor=100.0, clip_actions=True))


def test_the_order_is_that_of_the_arithmetic():
    settings = DatasetConfig(reward_scale="return_range", reward_factor=4.0, reward_shift=-1.0, clip_actions=True)
    told = said(settings, action_low=-1.2, action_high=1.2)
    assert "rewards times 31.25 (reward_scale=return_range" in told
    assert "differ), then times 4 (reward_factor), then plus -1 (reward_shift)" in told
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
