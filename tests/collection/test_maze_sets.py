"""Dense rewards and multimodal demonstrations: what the stored numbers mean."""

import numpy as np
import pytest
from collected import collect

from diffrl.collection import maze_simulation
from diffrl.collection.recipes import RECIPES
from diffrl.data import minari as loader
from diffrl.envs import make
from diffrl.envs.pointmaze import from_env_spec


@pytest.fixture(scope="module", autouse=True)
def _few_reference_episodes():
    """Of the 100 that scores rest on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maze_simulation, "REFERENCE_EPISODES", 20)
        yield


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def made(name: str, rows: int):
    collect(RECIPES[name], seed=0, rows=rows, workers=1, dataset_id=f"diffrl/{name}")
    return loader.load(f"diffrl/{name}")


@pytest.mark.slow
def test_dense_play_has_the_rows_of_the_sparse_one():
    sparse, dense = made("pointmaze/umaze-fixedgoal-v0", 3_000), made("pointmaze/umaze-fixedgoal-dense-v0", 3_000)
    np.testing.assert_array_equal(sparse.transitions.observation, dense.transitions.observation)
    np.testing.assert_array_equal(sparse.transitions.action, dense.transitions.action)
    distance = np.linalg.norm(dense.transitions.next_observation[:, :2] - maze_simulation.evaluation_goal("umaze"), axis=1)
    np.testing.assert_allclose(dense.transitions.reward, np.exp(-distance), rtol=1e-5)
    # Waiting at the goal is worth 1 a step of 300, so the references lie below it, and above those of the sparse reward.
    assert 0 < sparse.ref_min_score < dense.ref_min_score < dense.ref_max_score < 300
    assert from_env_spec(dense.env_spec, None).reward_type == "dense"


def test_dense_goals():
    source = made("pointmaze/umaze-goal-dense-v0", 2_000)
    t = source.transitions
    distance = np.linalg.norm(t.next_observation[:, :2] - t.next_observation[:, 4:], axis=1)
    np.testing.assert_allclose(t.reward, np.exp(-distance), rtol=1e-5)


def test_dense_reward_is_the_environments_own():
    """A step of gymnasium's environment, recovered from the card, pays what the JAX rewrite and the formula pay."""
    source = made("pointmaze/umaze-fixedgoal-dense-v0", 1_000)
    envs = make.choose("gymnasium", source.env_spec, source.observation_keys).host(1)
    envs.reset([3])
    goal = envs._envs[0].unwrapped.goal
    for _ in range(20):
        step = envs.step(np.ones((1, 2), np.float32))
        assert step.reward[0] == pytest.approx(np.exp(-np.linalg.norm(step.observation[0, :2] - goal)), rel=1e-5)
    envs.close()


def test_demonstrations_take_all_ways_and_end_at_the_goal():
    source = made("pointmaze/tworoutes-v0", 20_000)
    t = source.transitions
    ends = np.flatnonzero(t.terminal | t.timeout) + 1
    starts = np.concatenate([[0], ends[:-1]])
    assert t.terminal.sum() >= len(ends) - 2  # each of the two shards cuts one
    np.testing.assert_array_equal(t.reward, t.terminal)
    goal = maze_simulation.evaluation_goal("tworoutes")
    assert np.linalg.norm(t.next_observation[t.terminal][:, :2] - goal, axis=1).max() <= 0.45 + 0.25 * np.sqrt(2) + 1e-6
    ways = []
    for first, last in zip(starts, ends, strict=True):
        if not t.terminal[last - 1]:
            continue
        x, y = t.observation[first:last, 0], t.observation[first:last, 1]
        # Above or below each of the three blocks, whose centres lie at x = -3.5, 0.5 and 4.5 on the middle line.
        ways.append(tuple(bool(y[np.abs(x - block).argmin()] > 0) for block in (-3.5, 0.5, 4.5)))
    shares = np.mean(ways, axis=0)
    assert len(ways) >= 35
    assert ((shares > 0.25) & (shares < 0.75)).all()
    assert len(set(ways)) >= 6
    # One evaluation episode is worth 0 or 1 and ends at the goal.
    env = from_env_spec(source.env_spec, None)
    assert (env.continuing_task, env.max_episode_steps) == (False, maze_simulation.DEMONSTRATION_STEPS)
    assert source.ref_max_score == 1.0
    assert source.ref_min_score == 0.0
