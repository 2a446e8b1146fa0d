"""PointMaze in JAX against MuJoCo, through gymnasium-robotics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen

from diffrl.collection import maze_simulation as recipe
from diffrl.envs import make, pointmaze
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments


def spec_of(maze: str, layout: str = "goal") -> str:
    env = recipe.make_env(maze, layout, evaluation=True)
    text = env.spec.to_json()
    env.close()
    return text


def wandering(steps: int, seed: int) -> np.ndarray:
    """Actions that push in one direction long enough to hit walls."""
    rng = np.random.default_rng(seed)
    push = np.repeat(1.5 * rng.uniform(-1, 1, (steps // 40 + 1, 2)), 40, axis=0)[:steps]
    return np.clip(push + 0.5 * rng.standard_normal((steps, 2)), -1, 1).astype(np.float32)


@pytest.mark.parametrize("maze", chosen(["umaze", "medium", "large"], 0, 2))
def test_one_step_equals_mujoco_also_in_contact(maze):
    simulator = recipe.Simulator(maze)
    walls = ~simulator.grid.free
    states, following, actions, contacts = [], [], [], 0
    for episode in range(6):
        simulator.place(*simulator.grid.centre(simulator.grid.free_cells[3 * episode % len(simulator.grid.free_cells)]))
        action = wandering(500, episode)
        state = (*simulator.data.qpos.tolist(), 0.0, 0.0)
        for t, result in enumerate(simulator.run(lambda t, *_, action=action: action[t], len(action))):
            # Geom 0 is the ground, which the point always touches and which does not slow it.
            contacts += int((simulator.data.contact.geom[:, 0] != 0).any())
            states.append(state)
            following.append(result)
            actions.append(action[t])
            state = result
    simulator.close()
    before, after = np.array(states, np.float32), np.array(following)
    step = jax.jit(jax.vmap(lambda q, v, a: pointmaze.physics(walls, q, v, a)))
    position, velocity = step(before[:, :2], before[:, 2:], np.array(actions))
    assert contacts > 500
    np.testing.assert_allclose(np.concatenate([position, velocity], axis=1), after, atol=1e-4)


@pytest.mark.parametrize("maze", chosen(["umaze", "medium", "large"], 1))
def test_a_hundred_and_a_thousand_steps_stay_together(maze):
    """Twenty open-loop episodes, two fifths of them along walls; medians of the error in position (m).

    In float32 rounding grows at corners, where a wall's normal turns; in float64 the two are the same function.
    """
    simulator = recipe.Simulator(maze)
    walls = ~simulator.grid.free
    actions = np.stack([wandering(1000, seed) for seed in range(20)])
    cells = [simulator.grid.free_cells[i % len(simulator.grid.free_cells)] for i in range(20)]
    starts = np.array([simulator.grid.centre(cell) for cell in cells], np.float32)
    expected = []
    for start, action in zip(starts, actions, strict=True):
        simulator.place(*start.tolist())
        expected.append([result[:2] for result in simulator.run(lambda t, *_, action=action: action[t], 1000)])
    simulator.close()

    def roll(start, action):
        def one(state, a):
            state = pointmaze.physics(walls, *state, a)
            return state, state[0]

        return jax.lax.scan(one, (start, jnp.zeros_like(start)), action)[1]

    for precise, after_100, after_1000 in ((False, 5e-6, 2e-4), (True, 1e-12, 1e-10)):
        with jax.enable_x64(precise):
            got = jax.jit(jax.vmap(roll))(*(jnp.asarray(x, float if precise else np.float32) for x in (starts, actions)))
        error = np.abs(np.asarray(got) - np.array(expected)).max(axis=2)
        assert np.median(error[:, 99]) < after_100
        assert np.median(error[:, 999]) < after_1000


def test_wrapped_env_step_is_the_same_function():
    """Through gymnasium.make and all wrappers, with reward and success; both start where gymnasium's reset did."""
    spec = spec_of("umaze")
    host = GymnasiumEnvironments(spec, None, 2)
    env = make.choose("auto", spec, None).device
    assert host.max_episode_steps == env.max_episode_steps == 300
    observation = host.reset([3, 4])
    assert observation.shape == (2, env.observation_dim)
    state = pointmaze.State(jnp.asarray(observation[:, :2]), jnp.zeros((2, 2)), jnp.asarray(observation[:, 4:]))
    # The second point starts at its goal.
    state = state._replace(position=state.position.at[1].set(state.goal[1]))
    host._envs[1].unwrapped.point_env.set_state(np.asarray(state.position[1], np.float64), np.zeros(2))
    step = jax.jit(jax.vmap(env.step))
    for action in wandering(50, 0):
        both = np.stack([action, 0.1 * action])
        there = host.step(both)
        state, here = step(state, both)
        np.testing.assert_allclose(here.observation, there.observation, atol=1e-3)
        np.testing.assert_array_equal(here.reward, there.reward)
        np.testing.assert_array_equal(here.success, there.success)
        assert not there.terminated.any()
        assert not np.asarray(here.terminated).any()
    assert there.success.tolist() == [False, True]
    host.close()


def test_reset_distribution():
    spec = spec_of("medium")
    env = pointmaze.from_env_spec(spec, None)
    _, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4000))
    observation = np.asarray(observation)
    start, goal = observation[:, :2], observation[:, 4:]
    centre = recipe.evaluation_goal("medium")
    np.testing.assert_array_equal(observation[:, 2:4], 0)
    assert np.abs(goal - centre).max() <= 0.25
    np.testing.assert_allclose(goal.mean(axis=0), centre, atol=0.02)
    cells, counts = np.unique(np.floor(start), axis=0, return_counts=True)
    assert len(cells) == 25  # 26 free cells but the goal's
    assert counts.min() > 100
    offset = start - np.floor(start) - 0.5
    assert np.abs(offset).max() <= 0.25 + 1e-6
    np.testing.assert_allclose(offset.std(axis=0), 0.5 / np.sqrt(12), atol=0.01)
    # The same cells as gymnasium's own resets.
    host = GymnasiumEnvironments(spec, None, 1)
    theirs = np.unique([np.floor(host.reset([seed])[0, :2]) for seed in range(300)], axis=0)
    host.close()
    np.testing.assert_array_equal(theirs, cells)


@pytest.mark.slow
def test_controller_scores_the_same_in_both():
    """The noise-free controller on UMaze, other starts in each simulator: equal within three standard errors."""
    episodes = 120
    simulator = recipe.Simulator("umaze")
    host = np.array([recipe.simulate_reference(simulator, "controller", 7, episode, "goal") for episode in range(episodes)])
    env = pointmaze.from_env_spec(spec_of("umaze"), None)
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step))
    state, observation = reset(jax.random.split(jax.random.key(1), episodes))
    controllers = [recipe.Controller(simulator.grid, np.random.default_rng(i)) for i in range(episodes)]
    device = np.zeros(episodes)
    for _ in range(env.max_episode_steps):
        rows = np.asarray(observation, np.float64).tolist()
        action = [c.act(*row[:4], (row[4], row[5])) for c, row in zip(controllers, rows, strict=True)]
        state, result = step(state, jnp.clip(jnp.asarray(action), -1, 1))
        observation = result.observation
        device += np.asarray(result.reward)
    simulator.close()
    error = np.sqrt(host.var() / episodes + device.var() / episodes)
    assert host.mean() > 100
    assert abs(host.mean() - device.mean()) < 3 * error


def test_dense_reward_and_termination():
    maze = ((1, 1, 1, 1), (1, "g", "r", 1), (1, 1, 1, 1))
    env = pointmaze.PointMaze(maze, 10, reward_type="dense", continuing_task=False, observation_keys=("achieved_goal",))
    state, observation = env.reset(jax.random.key(0))
    assert observation.shape == (env.observation_dim,) == (2,)
    _, result = env.step(state, jnp.zeros(2))
    distance = float(jnp.linalg.norm(state.position - state.goal))
    assert float(result.reward) == pytest.approx(np.exp(-distance), rel=1e-5)
    assert bool(result.terminated) == bool(result.success) == (distance <= 0.45)
    _, result = env.step(state._replace(position=state.goal), jnp.zeros(2))
    assert bool(result.terminated)
    assert bool(result.success)


def test_from_env_spec_takes_only_what_it_can_represent():
    text = spec_of("medium", "fixedgoal")
    env = pointmaze.from_env_spec(text, None)
    assert env.observation_keys == ("observation",)
    assert env.max_episode_steps == 600
    assert pointmaze.from_env_spec(spec_of("large"), None).observation_keys == ("observation", "desired_goal")
    assert pointmaze.from_env_spec(spec_of("large"), ("desired_goal", "achieved_goal")).observation_dim == 4

    def changed(**kwargs):
        spec = json.loads(text)
        spec["kwargs"].update(kwargs)
        return pointmaze.from_env_spec(json.dumps(spec), None)

    assert changed() == env
    assert changed(reset_target=True) is None
    assert changed(reset_target=True, continuing_task=False) is not None
    assert changed(unknown=1) is None
    assert changed(maze_map=[[1, 1, 1], [1, "g", 1], [1, 1, 1]]) is None
    spec = json.loads(text)
    spec["additional_wrappers"].append({"name": "TransformReward", "entry_point": "x:y", "kwargs": {}})
    assert pointmaze.from_env_spec(json.dumps(spec), None) is None
    assert pointmaze.from_env_spec(json.dumps({**json.loads(text), "max_episode_steps": None}), None) is None
    assert pointmaze.from_env_spec(json.dumps({"id": "Hopper-v5", "entry_point": "a:b", "max_episode_steps": 1}), None) is None
    assert pointmaze.from_env_spec("no json", None) is None


def test_constructor_refuses_what_makes_no_sense():
    for maze, options in [
        (((1, 1), (1,)), {}),
        (((1, "x"), (0, 0)), {}),
        (((0, 0, 0),), {"reward_type": "none"}),
        (((0, 0, 0),), {"observation_keys": ("image",)}),
        (((1, "g", 1),), {}),
    ]:
        with pytest.raises(ValueError, match=r"must be|knows|needs"):
            pointmaze.PointMaze(maze, 10, **options)
