"""OGBench's recipes, as far as they go without the benchmark: what is drawn, how rows become episodes, what is missing."""

import importlib.metadata
import itertools
import subprocess
import sys

import numpy as np
import pytest

from diffrl.collection import ogbench
from diffrl.collection.collect import CollectionError, collect
from diffrl.collection.recipes import RECIPES
from diffrl.envs.gymnasium_backend import BackendError, make_env

NAMES = [task.name for task in ogbench.TASKS]


def test_recipes_are_listed():
    assert NAMES == [
        "ogbench/pointmaze-medium-navigate-v0",
        "ogbench/pointmaze-large-navigate-v0",
        "ogbench/cube-single-play-v0",
        "ogbench/puzzle-3x3-play-v0",
    ]
    assert {RECIPES[name].rows for name in NAMES} == {100_000}
    # OGBench's default tasks.
    assert [task.eval_id for task in ogbench.TASKS] == [
        "pointmaze-medium-singletask-task1-v0",
        "pointmaze-large-singletask-task1-v0",
        "cube-single-singletask-task2-v0",
        "puzzle-3x3-singletask-task4-v0",
    ]


def test_shards_cover_the_rows_and_repeat():
    shards = RECIPES[NAMES[2]].shards(3, 11_500)
    assert [(shard.name, shard.rows) for shard in shards[:3]] == [
        ("play-000000", 5000),
        ("play-000005", 5000),
        ("play-000010", 1500),
    ]
    assert shards[2].arguments == (NAMES[2], "play", 3, 10, 12, 11_500)
    assert [shard.name for shard in shards[3:]] == [
        f"{kind}-{first:06d}" for kind in ("random", "oracle") for first in (0, 5, 10, 15)
    ]
    assert sum(shard.rows for shard in shards[3:]) == 0
    assert RECIPES[NAMES[2]].shards(3, 11_500) == shards


def test_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    found = importlib.metadata.version

    def version(name):
        if name == "ogbench":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(CollectionError, match=r"recipe ogbench/cube.* needs ogbench, .*pip install 'diffrl\[ogbench\]'"):
        collect(RECIPES[NAMES[2]], seed=0, rows=1000, workers=1, dataset_id="test/cube-v0")
    assert list(tmp_path.iterdir()) == []


def test_evaluator_names_the_extra_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    spec = '{"id": "cube-single-v0", "entry_point": "ogbench.manipspace.envs.cube_env:CubeEnv", "additional_wrappers": []}'
    with pytest.raises(BackendError, match=r"pip install 'diffrl\[ogbench\]'"):
        make_env(spec)


def test_goals_lie_in_no_corridor():
    maze = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [1, 0, 0, 0, 0, 1],
            [1, 0, 1, 1, 0, 1],
            [1, 0, 1, 0, 0, 1],
            [1, 1, 1, 1, 1, 1],
        ]
    )
    # Corners and ends, a junction, but neither (1, 2) and (1, 3) between walls above and below nor (2, 1) and (2, 4).
    assert ogbench.goal_cells(maze) == [(1, 1), (1, 4), (3, 1), (3, 3), (3, 4)]


def press(lights, button):
    i, j = divmod(button, 3)
    for row, column in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
        if 0 <= row < 3 and 0 <= column < 3:
            lights[row, column] ^= 1


def test_presses_put_all_lights_right_and_are_fewest():
    # 3 x 3 boards have exactly one set of presses for each of the 512 patterns.
    seen = {}
    for buttons in itertools.chain.from_iterable(itertools.combinations(range(9), count) for count in range(10)):
        lights = np.zeros((3, 3), int)
        for button in buttons:
            press(lights, button)
        seen[lights.tobytes()] = buttons
    assert len(seen) == 512
    for pattern in list(seen)[::17]:
        assert ogbench.presses(np.frombuffer(pattern, int).reshape(3, 3)) == seen[pattern]
    assert ogbench.presses(np.zeros((3, 3), int)) == ()
    # A row of two lights: each press turns over both.
    with pytest.raises(ValueError, match=r"no presses turn over exactly these lights: \[\[1, 0\]\]"):
        ogbench.presses(np.array([[1, 0]]))


def test_rows_become_episodes():
    """Two episodes, the second cut short, with goals within and at the end."""
    steps = np.array([1000, 500])
    states = np.concatenate([np.arange(n + 1) + 10_000 * k for k, n in enumerate(steps)]).astype(float)[:, None]
    action = np.arange(1500, dtype=np.float32)[:, None]
    terminal = np.zeros(1500, bool)
    terminal[[3, 999]] = True
    reward = terminal.astype(np.float32) - 1.0
    first, second = ogbench.episodes_of({"observations": states, "actions": action}, reward, terminal)
    np.testing.assert_array_equal(first["observations"][:, 0], np.arange(1001))
    np.testing.assert_array_equal(second["observations"][:, 0], np.arange(501) + 10_000)
    np.testing.assert_array_equal(second["actions"][:, 0], np.arange(1000, 1500))
    assert np.flatnonzero(first["terminations"]).tolist() == [3, 999]
    assert np.flatnonzero(first["rewards"] == 0.0).tolist() == [3, 999]
    # What is terminal is no timeout; the second episode ends in one.
    assert not first["truncations"].any()
    assert np.flatnonzero(second["truncations"]).tolist() == [499]
    assert second["rewards"].sum() == -500.0


def test_global_generator_is_seeded_by_episode_and_given_back():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.get_state()[1].tolist()  # noqa: NPY002
    drawn = {}
    for key in ((0, 0, "play"), (0, 1, "play"), (1, 0, "play"), (0, 0, "random"), (0, 0, "oracle")):
        with ogbench._seeded(*key) as env_seed:
            drawn[key] = (env_seed, np.random.uniform())  # noqa: NPY002
        with ogbench._seeded(*key) as again:
            assert drawn[key] == (again, np.random.uniform())  # noqa: NPY002
    assert len(set(drawn.values())) == 5
    assert np.random.get_state()[1].tolist() == expected  # noqa: NPY002


def test_importing_recipes_brings_no_simulator():
    code = (
        "import sys, diffrl.collection.recipes; print([m for m in ('jax', 'gymnasium', 'mujoco', 'ogbench') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
