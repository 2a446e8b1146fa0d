"""D4RL's maze2d made anew: its quirks row by row, and the moments of the published files.

Published moments: action, position and velocity from configurations of diffusion-forcing and from printed logs of Diffuser's
loader, counts from D4RL's issues; the standard errors are of 1 M rows, from streams of 100,000 made here.
"""

import math
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl.collection import maze2d
from diffrl.data.env_id import env_spec_of
from diffrl.data.scores import TABLE
from diffrl.envs import make
from diffrl.envs.maze2d.simulator import Simulator
from diffrl.envs.maze2d.tasks import MAZES, START_NOISE, START_SPEED, SUCCESS_RADIUS

ROWS = {"umaze": 1_000_000, "medium": 2_000_000, "large": 4_000_000}
# Published value, and standard error of 1 M rows.
PUBLISHED = {
    "umaze": {
        "action std x": (0.7043, 0.0011),
        "action std y": (0.7506, 0.0010),
        "action mean x": (0.0015, 0.00015),
        "action mean y": (0.0043, 0.00015),
        "position mean x": (1.9328, 0.006),
        "position mean y": (2.3745, 0.0055),
        "position std x": (0.8997, 0.0008),
        "position std y": (0.7093, 0.0032),
        "velocity std x": (2.2129, 0.008),
        "velocity std y": (2.4682, 0.0095),
        "targets": (0.012459, 0.00012),
        "reward": (0.081254, 0.0013),
        "exits": (0.001566, 0.000025),
    },
    "medium": {
        "action std x": (0.7398, 0.0008),
        "action std y": (0.7459, 0.00065),
        "position mean x": (3.509, 0.016),
        "position mean y": (3.477, 0.018),
        "position std x": (1.337, 0.006),
        "position std y": (1.521, 0.006),
        "velocity std x": (2.341, 0.007),
        "velocity std y": (2.369, 0.0055),
        "reward": (0.0236665, 0.00093),
    },
    "large": {
        "action std x": (0.7249, 0.0006),
        "action std y": (0.7395, 0.0006),
        "position mean x": (3.730, 0.025),
        "position mean y": (5.305, 0.036),
        "position std x": (1.807, 0.011),
        "position std y": (2.569, 0.015),
        "velocity std x": (2.437, 0.0065),
        "velocity std y": (2.649, 0.0065),
        "reward": (0.0089225, 0.0006),
    },
}
LARGEST_SPEED = 5.2262554


def in_processes(function, calls):
    """Results of the calls, two at a time, away from the run-time type checks."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.starmap(function, calls)


def moments(maze: str, rows: dict[str, np.ndarray]) -> dict[str, float]:
    observation, action = rows["observation"].astype(np.float64), rows["action"].astype(np.float64)
    inside = MAZES[maze].distance(observation[:, :2]) <= SUCCESS_RADIUS
    found = {"targets": rows["timeout"].mean(), "reward": inside.mean(), "exits": (inside[:-1] & ~inside[1:]).mean()}
    for axis in (0, 1):
        for name, column in (("action", action), ("position", observation), ("velocity", observation[:, 2:])):
            found |= {f"{name} mean {'xy'[axis]}": column[:, axis].mean(), f"{name} std {'xy'[axis]}": column[:, axis].std()}
    return {name: float(value) for name, value in found.items()}


def off(maze: str, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Moments farther from the published ones than four standard errors, theirs and these rows', in standard errors."""
    found = moments(maze, rows)
    share = math.sqrt(1e6 / len(rows["action"]) + 1e6 / ROWS[maze])
    errors = {name: (found[name] - value) / (error * share) for name, (value, error) in PUBLISHED[maze].items()}
    return {name: error for name, error in errors.items() if abs(error) > 4}


def joined(streams: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([stream[name] for stream in streams]) for name in streams[0]}


@pytest.fixture(scope="module")
def cut() -> dict[str, np.ndarray]:
    """The 200,000 rows of the cut of umaze."""
    return joined(in_processes(maze2d.simulate, [(MAZES["umaze"], 0, stream, 100_000) for stream in (0, 1)]))


@pytest.fixture(scope="module")
def short() -> dict[str, np.ndarray]:
    return maze2d.simulate(MAZES["umaze"], 3, 0, 4_000)


def test_moments_of_a_cut_are_the_published_ones(cut):
    assert not off("umaze", cut)
    assert np.abs(cut["observation"][:, 2:]).max() == pytest.approx(LARGEST_SPEED, abs=1e-6)
    saturated = (np.abs(cut["action"]) == 1.0).mean(axis=0)
    np.testing.assert_allclose(saturated, [0.28, 0.34], atol=0.01)
    # Another target in the same of seven cells is reached at once.
    again = (cut["timeout"][1:] & cut["timeout"][:-1]).sum() / cut["timeout"].sum()
    assert again == pytest.approx(1 / 7, abs=0.03)
    assert np.mean(np.diff(np.flatnonzero(cut["timeout"]))) == pytest.approx(80, abs=3)


@pytest.mark.slow
def test_moments_without_noise_are_not():
    rows = joined(in_processes(maze2d.simulate, [(MAZES["umaze"], 0, stream, 100_000, 0.0) for stream in (0, 1)]))
    assert {"action std x", "action std y"} <= off("umaze", rows).keys()


@pytest.mark.slow
def test_moments_of_the_larger_mazes():
    made = in_processes(maze2d.simulate, [(MAZES[maze], 0, 0, 100_000) for maze in ("medium", "large")])
    for maze, rows in zip(("medium", "large"), made, strict=True):
        assert not off(maze, rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("maze", list(MAZES))
def test_moments_of_the_whole_set_are_the_published_ones(maze):
    streams = in_processes(maze2d.simulate, [(MAZES[maze], 0, stream, 100_000) for stream in range(ROWS[maze] // 100_000)])
    rows = joined(streams)
    assert not off(maze, rows)
    assert np.abs(rows["observation"][:, 2:]).max() == pytest.approx(LARGEST_SPEED, abs=1e-6)
    again = (rows["timeout"][1:] & rows["timeout"][:-1]).sum() / rows["timeout"].sum()
    assert again == pytest.approx(1 / len(MAZES[maze].free), rel=0.15)
    # As Diffuser's loader cuts the data: where the point leaves the goal. Its shortest pieces are 96 and 67 rows in the published
    # files of umaze and large.
    shortest = min(lengths_between_exits(maze, stream["observation"]).min() for stream in streams)
    assert {"umaze": 90, "medium": 60, "large": 60}[maze] < shortest < 100


def lengths_between_exits(maze: str, observation: np.ndarray) -> np.ndarray:
    inside = MAZES[maze].distance(observation[:, :2]) < SUCCESS_RADIUS
    return np.diff(np.flatnonzero(inside[:-1] & ~inside[1:]))


def test_an_observation_is_repeated_after_a_flag_and_only_there(short):
    repeated = (short["observation"][1:] == short["observation"][:-1]).all(axis=1)
    np.testing.assert_array_equal(repeated, short["timeout"][:-1])
    assert short["timeout"].sum() > 30
    # The point itself moves on, and is seen where it is in all other rows.
    state = np.concatenate([short["qpos"], short["qvel"]], axis=1)
    seen = (state == short["observation"]).all(axis=1)
    np.testing.assert_array_equal(seen[1:], ~short["timeout"][:-1])
    fresh = maze2d.simulate(MAZES["umaze"], 3, 0, 4_000, refresh=True)
    np.testing.assert_array_equal(fresh["observation"], np.concatenate([fresh["qpos"], fresh["qvel"]], axis=1))


def test_a_step_leads_from_row_to_row(short):
    simulator = Simulator(MAZES["umaze"])
    for t in range(0, 3_900, 13):
        simulator.place(*short["qpos"][t].tolist(), *short["qvel"][t].tolist())
        after = simulator.step(*short["action"][t].tolist())
        np.testing.assert_allclose(after, [*short["qpos"][t + 1], *short["qvel"][t + 1]], atol=2e-5)


def test_targets(short):
    moved = (short["goal"][1:] != short["goal"][:-1]).any(axis=1)
    np.testing.assert_array_equal(moved, short["timeout"][:-1])
    cells = np.round(short["goal"])
    assert {tuple(cell) for cell in cells.tolist()} == set(MAZES["umaze"].free)
    assert np.abs(short["goal"] - cells).max() <= START_NOISE + 1e-6
    distance = np.linalg.norm(short["observation"][:, :2] - cells, axis=1)
    np.testing.assert_array_equal(short["timeout"], distance < maze2d.REACH)


def test_a_target_that_is_not_reached_is_given_up():
    """The flag is on the row whose clock shows the limit; the clock starts at 0 after it."""
    hasty = MAZES["umaze"]._replace(max_episode_steps=20)
    rows = maze2d.simulate(hasty, 0, 0, 1_000)
    reached = np.linalg.norm(rows["observation"][:, :2] - np.round(rows["goal"]), axis=1) < maze2d.REACH
    clock = 0
    for t in range(1_000):
        assert rows["timeout"][t] == (reached[t] or clock >= 20)
        clock = 0 if rows["timeout"][t] else clock + 1
    assert (rows["timeout"] & ~reached).sum() > 20


def test_actions_are_the_controllers_on_what_is_seen():
    rows = maze2d.simulate(MAZES["umaze"], 0, 0, 2_000, noise=0.0)
    last = np.round(rows["goal"])
    # The last way-point is the target's own cell: rows close to it are pushed there.
    close = np.linalg.norm(rows["observation"][:, :2] - last, axis=1) < maze2d.REACH
    expected = np.clip(10 * (last - rows["observation"][:, :2]) - rows["observation"][:, 2:], -1, 1)
    assert close.sum() > 15
    np.testing.assert_allclose(rows["action"][close], expected[close], atol=1e-5)


def q_iteration_way(maze, start, target):
    """The greedy way after fifty sweeps of Q-iteration: stay, y - 1, y + 1, x - 1, x + 1; reward 1 in the target's cell."""
    moves = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
    shape = len(maze.rows), len(maze.rows[0])

    def after(cell, move):
        near = cell[0] + move[0], cell[1] + move[1]
        inside = 0 <= near[0] < shape[0] and 0 <= near[1] < shape[1]
        return near if inside and maze.rows[near[0]][near[1]] != "#" else cell

    cells = [(w, h) for w in range(shape[0]) for h in range(shape[1])]
    index = np.array([[cells.index(after(cell, move)) for move in moves] for cell in cells])
    reward = np.array([cell == target for cell in cells], float)[:, None]
    q = np.zeros((len(cells), len(moves)))
    for _ in range(50):
        q = reward + 0.99 * q.max(axis=1)[index]
    way, cell = [], start
    while not way or cell != target:
        cell = cells[index[cells.index(cell), q[cells.index(cell)].argmax()]]
        way.append(cell)
    return tuple(way)


@pytest.mark.parametrize("maze", list(MAZES))
def test_ways_are_those_of_q_iteration(maze):
    task = MAZES[maze]
    starts = [*task.free, *((w, h) for w, h in task.walls if any((w + dw, h + dh) in task.free for dw, dh in maze2d._MOVES))]
    for target in task.free[:: len(task.free) // 6]:
        for start in starts[:: 1 + len(starts) // 25]:
            assert maze2d.path(task, start, target) == q_iteration_way(task, start, target)
    assert maze2d.path(task, task.goal, task.goal) == (task.goal,)


def test_rows_depend_on_seed_and_stream_alone(short):
    for name, column in maze2d.simulate(MAZES["umaze"], 3, 0, 500).items():
        if name != "last":
            np.testing.assert_array_equal(column, short[name][:500])
    for other in ((4, 0), (3, 1)):
        assert (maze2d.simulate(MAZES["umaze"], *other, 500)["observation"][:20] != short["observation"][:20]).any()


def controller_returns(maze: str, episodes: int, persistent: bool) -> list[int]:
    """Steps in the goal of the noise-free controller; a persistent one keeps its plan across episodes, as D4RL's did."""
    task, rng = MAZES[maze], np.random.default_rng(0)
    simulator, controller = Simulator(task), maze2d.Controller(task, rng)
    returns = []
    for _ in range(episodes):
        if not persistent:
            controller = maze2d.Controller(task, rng)
        position = task.free[rng.integers(len(task.free))] + rng.uniform(-START_NOISE, START_NOISE, 2)
        state = (*position.tolist(), *(START_SPEED * rng.standard_normal(2)).tolist())
        simulator.place(*state)
        total = 0
        for _ in range(task.max_episode_steps):
            state = simulator.step(*controller.act(state, task.goal)[:2])
            total += math.hypot(state[0] - task.goal[0], state[1] - task.goal[1]) <= SUCCESS_RADIUS
        returns.append(total)
    return returns


def slow_but(first: str, *others: str) -> list:
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


@pytest.mark.slow
@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_published_maximum_is_the_controller_that_keeps_its_plan(maze):
    episodes = 80
    cases = [(maze, episodes, True), (maze, episodes, False)]
    persistent, planned = map(np.array, in_processes(controller_returns, cases))
    # The published mean is of 100 episodes.
    error = persistent.std() * math.sqrt(1 / episodes + 1 / 100)
    assert abs(persistent.mean() - TABLE[f"maze2d-{maze}"].max) < 3.5 * error
    assert 0.2 < (persistent == 0).mean() < 0.75  # stuck behind walls
    # One that plans after every reset is worth 140, 155 and 200 on that scale.
    assert planned.mean() > TABLE[f"maze2d-{maze}"].max + 1.5 * error
    assert planned.min() > 0


@pytest.mark.parametrize("name", slow_but("umaze", "medium", "large", "umaze-dense", "medium-dense", "large-dense"))
def test_published_minimum_is_random_actions(name):
    env = make.choose("jax", env_spec_of(f"maze2d-{name}-v1"), None).device
    episodes = 500

    def episode(key):
        start, actions = jax.random.split(key)
        actions = jax.random.uniform(actions, (env.max_episode_steps, 2), minval=-1.0)

        def step(state, action):
            state, result = env.step(state, action)
            return state, result.reward

        return jnp.sum(jax.lax.scan(step, env.reset(start)[0], actions)[1])

    returns = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), episodes)))
    error = returns.std() * math.sqrt(1 / episodes + 1 / 100)
    assert abs(returns.mean() - TABLE[f"maze2d-{name}"].min) < 3.5 * error
