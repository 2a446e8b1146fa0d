"""Block push: what is paid, where it starts, how the arm follows; and that it is found, made and refused by name."""

import json
import math
import sys

import numpy as np
import pytest

from diffrl.data.dataset import DatasetError
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make
from diffrl.envs.blockpush.registry import ENV_ID
from diffrl.envs.blockpush.tasks import BLOCKS, EFFECTOR_TARGET, TARGETS, WORKSPACE, Entries, draw_blocks, draw_targets
from diffrl.envs.gymnasium_backend import BackendError, make_env

TARGETS_AT = np.array([[0.28, 0.2], [0.52, 0.2]])
AWAY = np.array([0.4, -0.2])


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("pybullet")
    made = make_env(env_spec_of(ENV_ID)).unwrapped
    yield made
    made.close()


def steps(*places, tolerance=0.05):
    """Rewards and ends of (block, block 2) places, one step after another; 0 and 1 stand for a target."""
    entries = Entries(tolerance)
    where = [np.array([AWAY if place is None else TARGETS_AT[place] for place in pair]) for pair in places]
    made = [entries.step(blocks, TARGETS_AT) for blocks in where]
    return [reward for reward, _, _ in made], [over for _, over, _ in made], [both for _, _, both in made], entries.order


def test_a_straight_way_is_worth_one():
    reward, over, both, order = steps((None, None), (0, None), (0, None), (0, 1))
    assert (reward, order) == ([0, 0.49, 0, 0.51], [0, 3])
    assert over == both == [False, False, False, True]
    assert steps((None, 0), (1, 0))[0] == [0.49, 0.51]


def test_a_wrong_target_on_the_way_is_worth_half_of_one_more():
    reward, over, _, order = steps((1, None), (0, None), (0, 1))
    assert (sum(reward), over, order) == (pytest.approx(1.49), [False, False, True], [1, 0, 3])
    # Entered again it pays nothing.
    assert steps((1, None), (None, None), (1, None))[0] == [0.49, 0, 0]


def test_two_in_one_target_end_the_episode_only_where_they_enter_together():
    assert steps((0, 0)) == ([0.98], [True], [False], [0, 2])
    assert steps((0, None), (0, 0))[1] == [False, False]


def test_a_tolerance_is_a_distance():
    blocks = TARGETS_AT + np.array([[0.0, 0.045], [0.0, 0.0]])
    assert Entries(0.05).step(blocks, TARGETS_AT)[0] == 0.51
    assert Entries(0.04).step(blocks, TARGETS_AT)[0] == 0.49


def test_starts():
    rng = np.random.default_rng(0)
    blocks = np.stack([draw_blocks(rng) for _ in range(200)])
    targets = np.stack([draw_targets(rng) for _ in range(200)])
    assert (np.abs(blocks[:, 0, 0] - blocks[:, 1, 0]) > 0.1).all()
    low, high = blocks.min(axis=(0, 1)), blocks.max(axis=(0, 1))
    np.testing.assert_allclose(low, [0.3, -0.35, 0.0], atol=0.03)
    np.testing.assert_allclose(high, [0.5, -0.05, math.pi], atol=0.03)
    # The first one's place is uniform, though near the middle the second hardly fits.
    assert np.mean(np.abs(blocks[:, 0, 0] - 0.4) < 0.05) == pytest.approx(0.5, abs=0.12)
    assert np.mean(targets[:, 0, 0] < 0.4) == pytest.approx(0.5, abs=0.12)
    np.testing.assert_allclose(np.sort(targets[:, :, 0], axis=1), np.broadcast_to([0.28, 0.52], (200, 2)), atol=0.0051)
    np.testing.assert_allclose(targets[:, :, 1], 0.2, atol=0.0076)
    assert (np.abs(targets[:, :, 2]) > math.pi - math.pi / 30 - 1e-9).all()


def test_the_arm_starts_and_follows(env):
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation[6:10], [0.30025, -0.39859, 0.3, -0.4], atol=3e-5)
    assert (env.reset(seed=0)[0] == observation).all()
    assert (env.reset(seed=1)[0][BLOCKS] != observation[BLOCKS]).all()
    before, rng = env.simulator.effector_target, np.random.default_rng(0)
    behind = []
    for _ in range(30):
        action = rng.uniform(-0.03, 0.03, 2).astype(np.float32)
        seen = env.step(action)[0]
        after = env.simulator.effector_target
        np.testing.assert_array_equal(after, np.clip(before + action, *WORKSPACE))
        np.testing.assert_array_equal(seen[EFFECTOR_TARGET], after.astype(np.float32))
        behind.append(np.linalg.norm(seen[6:8] - after))
        before = after
    assert np.mean(behind) < 0.003
    for _ in range(12):
        observation, reward, over, cut, info = env.step(np.array([1.0, 0.0]))
    assert observation[8] == np.float32(0.7)
    assert (reward, over, cut, info) == (0.0, False, False, {"success": False, "completed": ()})


def test_blocks_rest_until_they_are_pushed(env):
    observation = env.reset(seed=3)[0]
    for _ in range(5):
        following = env.step(np.zeros(2))[0]
    np.testing.assert_allclose(following[BLOCKS], observation[BLOCKS], atol=1e-4)
    np.testing.assert_array_equal(following[TARGETS], observation[TARGETS])


def test_a_frame_shows_blocks_and_targets():
    pytest.importorskip("pybullet")
    from diffrl.envs.rendering import drawing

    drawn = make_env(drawing(env_spec_of(ENV_ID)))
    drawn.reset(seed=0)
    pixels = drawn.render().astype(int)
    drawn.close()
    assert pixels.shape == (240, 320, 3)
    red, green = pixels[..., 0] - pixels[..., 1:].max(axis=-1), pixels[..., 1] - pixels[..., [0, 2]].max(axis=-1)
    assert (red > 60).sum() > 50
    assert (green > 60).sum() > 50


def test_it_is_known_by_name():
    pytest.importorskip("pybullet")
    spec = env_spec_of(ENV_ID)
    assert json.loads(spec)["max_episode_steps"] == 300
    there = make.interface(spec, None)
    assert (there.observation_dim, there.action_low.tolist()) == (16, [pytest.approx(-0.1)] * 2)
    backend = make.choose("auto", spec, None)
    assert "pybullet 3.2" in backend.simulator
    with pytest.raises(DatasetError, match="no block push that there is: blockpush/multimodal-fixed-target-v0"):
        env_spec_of("blockpush/x-v0")


def test_without_pybullet_the_extra_is_named(monkeypatch):
    for name in ("pybullet", "pybullet_data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=r"needs the package pybullet, .*: pip install 'diffrl\[blockpush\]'"):
        make_env(env_spec_of(ENV_ID))
