"""D4RL's maze2d: closed forms of the published constants, and the same environment in C and in JAX."""

import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen
from test_pointmaze import wandering
from workdirs import card

from diffrl.data.dataset import DatasetError
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make, pointmaze, rendering
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments, make_env
from diffrl.envs.maze2d import registry
from diffrl.envs.maze2d.gym import Maze2dEnv
from diffrl.envs.maze2d.simulator import Simulator
from diffrl.envs.maze2d.tasks import MAZES
from diffrl.evaluation.video import _steps_per_second
from diffrl.reports.maze import maze_of

LIMITS = {"umaze": 300, "medium": 600, "large": 800}


def in_jax(maze: str) -> pointmaze.PointMaze:
    env = registry.from_env_spec(env_spec_of(f"maze2d-{maze}-v1"))
    assert env is not None
    return env


def physics(env: pointmaze.PointMaze):
    """(q, v, action) -> (q, v)."""
    walls = np.array([[cell == 1 for cell in row] for row in env.maze_map])
    return lambda q, v, a: pointmaze.physics(walls, q, v, a, env.rules)


def test_speeds_of_the_published_files():
    """One push from 5 m/s gives the largest speed that they hold, for the velocity is cut to 5 before a step and not after."""
    simulator, free = Simulator(MAZES["umaze"]), (1.0, 2.0)
    env = in_jax("umaze")
    for speed, pushed in ((5.0, 5.226256), (5.9, 5.226256), (0.0, 0.238164)):
        simulator.place(*free, speed, 0.0)
        x, _, vx, vy = simulator.step(1.0, 0.0)
        assert (vx, vy) == (pytest.approx(pushed, abs=1e-6), 0.0)
        assert x == pytest.approx(1.0 + 0.01 * pushed, abs=1e-6)
        _, velocity = physics(env)(jnp.array(free), jnp.array([speed, 0.0]), jnp.array([1.0, 0.0]))
        assert float(velocity[0]) == pytest.approx(pushed, abs=2e-6)


def pushed_in_c(maze: str, action: np.ndarray) -> np.ndarray:
    simulator = Simulator(MAZES[maze])
    simulator.place(*map(float, MAZES[maze].goal), 0.0, 0.0)
    return np.array([simulator.step(*action.tolist()) for _ in range(400)][-1][:2])


def pushed_in_jax(maze: str, action: np.ndarray) -> np.ndarray:
    step, start = physics(in_jax(maze)), (jnp.array(MAZES[maze].goal, float), jnp.zeros(2))
    return np.asarray(jax.lax.fori_loop(0, 400, lambda _, state: step(*state, jnp.array(action, jnp.float32)), start)[0])


@pytest.mark.parametrize("pushed", [pushed_in_c, pushed_in_jax])
@pytest.mark.parametrize("maze", chosen([*MAZES], 0))
def test_walls_stop_the_point_where_d4rls_do(maze, pushed):
    """A corridor leaves w - 0.6 to w + 0.2 to the centre of the point; rows of the map run along x, columns along y."""
    rows, goal = MAZES[maze].rows, np.array(MAZES[maze].goal)
    for way in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        cell = goal
        while rows[cell[0] + way[0]][cell[1] + way[1]] != "#":
            cell = cell + way
        along = np.abs(way) == 1
        reached = pushed(maze, np.array(way, float))
        np.testing.assert_allclose(reached[along], (cell - 0.2 + 0.4 * np.array(way))[along], atol=0.01)


@pytest.mark.parametrize("maze", chosen([*MAZES], 2))
def test_one_step_equals_mujoco_also_in_contact(maze):
    simulator, env = Simulator(MAZES[maze]), in_jax(maze)
    states, following, actions, contacts = [], [], [], 0
    for episode in range(6):
        cells = MAZES[maze].free
        state = (*map(float, cells[3 * episode % len(cells)]), 0.0, 0.0)
        simulator.place(*state)
        for action in wandering(500, episode):
            states.append(state)
            state = simulator.step(*action.tolist())
            contacts += simulator.data.ncon > 0
            following.append(state)
            actions.append(action)
    before, after = np.array(states, np.float32), np.array(following)
    position, velocity = jax.jit(jax.vmap(physics(env)))(before[:, :2], before[:, 2:], np.array(actions))
    assert contacts > 500
    np.testing.assert_allclose(np.concatenate([position, velocity], axis=1), after, atol=1e-4)


@pytest.mark.parametrize("maze", chosen([*MAZES], 0))
def test_five_hundred_steps_stay_together(maze):
    """Medians over ten open-loop episodes of the error in position (m); in float64 the two are the same function."""
    simulator, env, cells = Simulator(MAZES[maze]), in_jax(maze), MAZES[maze].free
    actions = np.stack([wandering(500, seed) for seed in range(10)])
    starts = np.array([cells[i % len(cells)] for i in range(10)], np.float32)
    expected = []
    for start, action in zip(starts, actions, strict=True):
        simulator.place(*start.tolist(), 0.0, 0.0)
        expected.append([simulator.step(*a)[:2] for a in action.tolist()])

    def roll(start, action):
        def one(state, a):
            state = physics(env)(*state, a)
            return state, state[0]

        return jax.lax.scan(one, (start, jnp.zeros_like(start)), action)[1]

    for precise, tolerance in ((False, 5e-4), (True, 1e-10)):
        with jax.enable_x64(precise):
            got = jax.jit(jax.vmap(roll))(*(jnp.asarray(x, float if precise else np.float32) for x in (starts, actions)))
        error = np.abs(np.asarray(got) - np.array(expected)).max(axis=2)
        assert np.median(error[:, 499]) < tolerance


@pytest.mark.parametrize("reward", ["", "-dense"])
@pytest.mark.parametrize("maze", chosen([*MAZES], 1))
def test_environment_is_the_same_in_both(maze, reward):
    """Through gymnasium.make and its time limit, with rewards; the second point starts at the goal."""
    spec = env_spec_of(f"maze2d-{maze}{reward}-v1")
    host, env = GymnasiumEnvironments(spec, None, 2), make.choose("auto", spec, None).device
    assert host.max_episode_steps == env.max_episode_steps == LIMITS[maze]
    host.reset([3, 4])
    goal = np.array(MAZES[maze].goal, float)
    observation = np.array([host._envs[0].unwrapped.set_state(goal - 0.45, np.zeros(2)), [*goal, 0.0, 0.0]], np.float32)
    host._envs[1].unwrapped.set_state(goal, np.zeros(2))
    state = pointmaze.State(jnp.asarray(observation[:, :2]), jnp.zeros((2, 2)), jnp.tile(goal.astype(np.float32), (2, 1)))
    step = jax.jit(jax.vmap(env.step))
    rewards = []
    for action in wandering(60, 0):
        both = np.stack([np.ones(2, np.float32), 0.1 * action])
        there = host.step(both)
        state, here = step(state, both)
        np.testing.assert_allclose(here.observation, there.observation, atol=1e-3)
        np.testing.assert_allclose(here.reward, there.reward, atol=1e-3)
        np.testing.assert_array_equal(here.success, there.success)
        assert not there.terminated.any()
        assert not np.asarray(here.terminated).any()
        rewards.append(there.reward)
    distance = np.linalg.norm(there.observation[:, :2] - goal, axis=1)
    np.testing.assert_allclose(rewards[-1], np.exp(-distance) if reward else distance <= 0.5, rtol=1e-5)
    assert (np.array(rewards)[:, 1] > 0.5).all()
    host.close()


def test_the_goal_has_a_radius_of_half_a_metre():
    env = Maze2dEnv("umaze")
    for distance, reward in ((0.4999, 1.0), (0.5001, 0.0)):
        env.set_state(np.array([1.0, 1.0 + distance]), np.zeros(2))
        assert env.step(np.zeros(2))[1] == reward


@pytest.mark.parametrize("maze", chosen([*MAZES], 0))
def test_reset_distribution(maze):
    """Around the integer points of all free cells, the goal's too: D4RL's reset_model."""
    env = in_jax(maze)
    state, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4000))
    host = Maze2dEnv(maze)
    theirs = np.array([host.reset(seed=seed)[0] for seed in range(1000)])
    np.testing.assert_array_equal(state.goal, np.tile(MAZES[maze].goal, (4000, 1)))
    for drawn in (np.asarray(observation), theirs):
        cells, counts = np.unique(np.round(drawn[:, :2]), axis=0, return_counts=True)
        assert sorted(map(tuple, cells.tolist())) == sorted(MAZES[maze].free)
        expected = len(drawn) / len(cells)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
        offset = drawn[:, :2] - np.round(drawn[:, :2])
        assert np.abs(offset).max() <= 0.1 + 1e-6
        np.testing.assert_allclose(offset.std(axis=0), 0.2 / np.sqrt(12), rtol=0.06)
        np.testing.assert_allclose(drawn[:, 2:].std(axis=0), 0.1, rtol=0.08)


def test_number_of_cells():
    assert {maze: len(each.free) for maze, each in MAZES.items()} == {"umaze": 7, "medium": 26, "large": 46}


def test_ids():
    text = env_spec_of("maze2d-medium-v1")
    env = registry.from_env_spec(text)
    assert env is not None
    assert (env.reward_type, env.max_episode_steps, env.observation_dim) == ("sparse", 600, 4)
    dense = registry.from_env_spec(env_spec_of("maze2d-medium-dense-v1"))
    assert dense is not None
    assert dense.reward_type == "dense"
    with pytest.raises(DatasetError, match="maze2d-umaze-v1, maze2d-medium-v1"):
        env_spec_of("maze2d-open-v0")
    with pytest.raises(ValueError, match="one of umaze"):
        Maze2dEnv("open")

    def changed(**fields):
        return registry.from_env_spec(json.dumps({**json.loads(text), **fields}))

    assert changed() == env
    assert changed(kwargs={"maze": "medium", "reward_type": "sparse", "render_mode": "rgb_array"}) == env
    assert changed(kwargs={"maze": "large", "reward_type": "sparse"}) is None
    assert changed(entry_point="a:b") is None
    assert changed(max_episode_steps=None) is None
    assert changed(additional_wrappers=[{"name": "TransformReward", "entry_point": "x:y", "kwargs": {}}]) is None
    assert changed(id="Hopper-v5") is None


def test_gymnasium_makes_it_from_the_spec():
    env = make_env(env_spec_of("maze2d-large-v1"))
    assert isinstance(env.unwrapped, Maze2dEnv)
    env.reset(seed=0)
    truncated = [env.step(np.zeros(2))[3] for _ in range(800)]
    assert np.flatnonzero(truncated).tolist() == [799]
    assert gymnasium.spaces.Box(-1.0, 1.0, (2,)) == env.action_space


def test_pictures_know_where_the_maze_stands():
    text = env_spec_of("maze2d-medium-v1")
    maze = maze_of(card(env_spec=text, observation_keys=None), 4)
    assert maze is not None
    assert maze.extent == pytest.approx((-0.7, 7.3, -0.7, 7.3))
    np.testing.assert_allclose(maze.goal_cells, [MAZES["medium"].goal], atol=1e-6)
    # Row 0 is the largest y.
    np.testing.assert_array_equal(maze.walls, [[row[h] == "#" for row in MAZES["medium"].rows] for h in range(7, -1, -1)])
    assert _steps_per_second(text) == 100.0


def test_a_state_of_the_jax_environment_is_drawn(monkeypatch):
    """The camera sets MuJoCo's copy to it; what a renderer paints is not looked at."""
    monkeypatch.setattr(Simulator, "frame", lambda self: np.array([*self.data.qpos, *self.data.qvel]))
    env = in_jax("umaze")
    state, observation = env.reset(jax.random.key(0))
    camera = rendering.Camera(env_spec_of("maze2d-umaze-v1"))
    np.testing.assert_array_equal(camera.frame(*state), observation)
    camera.close()
