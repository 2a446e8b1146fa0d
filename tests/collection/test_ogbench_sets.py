"""OGBench's recipes: what there is, who acts, and how rows become files. Most of it runs without a simulator."""

import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from collected import collect

from diffrl.collection import ogbench, ogbench_actors
from diffrl.collection.collect import CollectionError
from diffrl.collection.ogbench import SETS
from diffrl.collection.recipes import RECIPES
from diffrl.data.load import load
from diffrl.data.ogbench_tasks import Labels, labelled
from diffrl.envs.gymnasium_backend import BackendError, make_env

CUBE = "ogbench/cube-single-play-v0"


def test_there_are_the_26_scripted_sets_at_their_published_size():
    assert len(SETS) == 26
    rows = {name: each.rows for name, each in SETS.items()}
    assert {name for name, count in rows.items() if count == 3_000_000} == {
        f"{env}-{kind}" for env in ("cube-triple", "puzzle-4x5") for kind in ("play", "noisy")
    }
    assert {name for name, count in rows.items() if count == 5_000_000} == {
        f"{env}-{kind}" for env in ("cube-quadruple", "puzzle-4x6") for kind in ("play", "noisy")
    }
    assert sorted(set(rows.values())) == [1_000_000, 3_000_000, 5_000_000]
    steps = {name: each.steps for name, each in SETS.items() if each.steps != 1000}
    assert steps == {"pointmaze-giant-navigate": 2000} | {
        f"pointmaze-{maze}-stitch": 200 for maze in ("medium", "large", "giant", "teleport")
    }


def test_a_cut_is_not_named_like_the_benchmark():
    for name, each in SETS.items():
        assert RECIPES[f"ogbench/{name}-v0"].rows == each.rows
        assert RECIPES[f"ogbench-cut/{name}-100k-v0"].rows == 100_000


def test_shards_cover_the_rows_and_a_tenth_more_and_begin_like_those_of_more_rows():
    def episodes(rows, split):
        found = [shard for shard in RECIPES[CUBE].shards(3, rows) if shard.name.startswith(split)]
        assert all(shard.rows == sum(steps for _, steps in shard.arguments[2]) for shard in found)
        return [episode for shard in found for episode in shard.arguments[2]]

    assert episodes(11_500, "train") == [(i, 1000) for i in range(11)] + [(11, 500)]
    assert episodes(11_500, "val") == [(12, 1000)]
    assert episodes(1_000_000, "train")[:11] == episodes(11_500, "train")[:11]
    assert episodes(1_000_000, "val") == [(i, 1000) for i in range(1000, 1100)]


def test_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    found = importlib.metadata.version

    def version(name):
        if name == "ogbench":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(CollectionError, match=r"recipe ogbench/cube.* needs ogbench, .*pip install 'diffrl\[ogbench\]'"):
        collect(RECIPES[CUBE], seed=0, rows=1000, workers=1, dataset_id="test/cube-v0")
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
    assert ogbench_actors.goal_cells(maze) == [(1, 1), (1, 4), (3, 1), (3, 3), (3, 4)]


def test_cells_away_are_as_far_as_the_shortest_way():
    maze = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [1, 0, 0, 0, 0, 1],
            [1, 0, 1, 1, 0, 1],
            [1, 0, 1, 0, 0, 1],
            [1, 1, 1, 1, 1, 1],
        ]
    )
    assert ogbench_actors.cells_away(maze, (1, 1), 4) == [(2, 4)]
    assert ogbench_actors.cells_away(maze, (1, 1), 1) == [(2, 1), (1, 2)]
    assert ogbench_actors.cells_away(maze, (3, 3), 8) == [(3, 1)]
    assert ogbench_actors.cells_away(maze, (3, 3), 9) == []


class Oracle:
    """Acts for the target that an info names, and is done after three actions."""

    def __init__(self):
        self.done, self.count, self.acted = False, 0, []

    def reset(self, observation, info):
        self.done, self.count = False, 0

    def select_action(self, observation, info):
        self.count += 1
        self.done = self.count == 3
        self.acted.append(info["target"])
        return np.array([0.25, -0.25, 0.0, 0.0, 1.0])


class Scene:
    """An environment whose targets are numbered; a step's info names the one before `set_new_target`."""

    def __init__(self):
        self.target, self.stacked = 0, []
        self.unwrapped, self.model = self, SimpleNamespace(site_pos=np.zeros(3))
        self._target_drawer_pos = 0.0

    def info(self):
        return {"privileged/target_task": "cube", "target": self.target}

    def reset(self, seed):
        return np.zeros(1), self.info()

    def set_new_target(self, p_stack):
        self.target += 1
        self.stacked.append(p_stack)
        return np.zeros(1), self.info()


def acted(monkeypatch, name, noisy, count, strength=None):
    oracle, scene = Oracle(), Scene()
    monkeypatch.setattr(ogbench_actors, "_oracles", lambda *_: {"cube": oracle})
    with ogbench._seeded(0, 0, 0):
        actor = ogbench_actors.Arm(scene, name, noisy)
        actor.start(0)
        actor.strength = actor.strength if strength is None else strength
        actions = []
        for _ in range(count):
            actions.append(actor.act())
            actor.observe(np.zeros(1), scene.info())
    return np.array(actions), oracle, scene


def test_an_oracle_acts_once_for_the_old_target(monkeypatch):
    """As published: a step's info, not that of the new target, is what the next oracle sees first."""
    _, oracle, scene = acted(monkeypatch, "cube-single", False, 9)
    assert oracle.acted == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert scene.stacked == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name, share", [("cube-double", 0.1), ("scene", 0.1), ("puzzle-3x3", 0.2)])
def test_noisy_actions(monkeypatch, name, share):
    actions, _, _ = acted(monkeypatch, name, True, 4_000, strength=0.0)
    uniform = (actions != [0.25, -0.25, 0.0, 0.0, 1.0]).any(axis=1)
    assert abs(uniform.mean() - share) < 4 * np.sqrt(share * (1 - share) / 4_000)
    assert np.abs(actions[uniform]).max() <= 1.0
    assert np.abs(actions[uniform].std(axis=0) - 1 / np.sqrt(3)).max() < 0.06
    actions, _, _ = acted(monkeypatch, name, True, 4_000, strength=0.1)
    off = actions - [0.25, -0.25, 0.0, 0.0, 1.0]
    spread = np.quantile(np.abs(off), 0.5, axis=0) / 0.6745  # of a normal distribution; uniform actions move it little
    np.testing.assert_allclose(spread[[3, 4]], [0.3, 1.0], rtol=0.2)
    assert (np.abs(actions[:, 4]) >= 1.0).mean() > 0.5 * (1.0 - share)  # half of the oracle's are clipped


def test_played_actions_are_the_oracles(monkeypatch):
    actions, _, _ = acted(monkeypatch, "puzzle-3x3", False, 100)
    assert (actions == [0.25, -0.25, 0.0, 0.0, 1.0]).all()


@pytest.mark.parametrize(
    "name, low, high", [("cube-single", 0, 0), ("cube-triple", 0.05, 0.35), ("cube-quadruple", 0.1, 0.5), ("scene", 0.5, 0.5)]
)
def test_the_probability_of_stacking_is_an_episodes_own(monkeypatch, name, low, high):
    scene = Scene()
    monkeypatch.setattr(ogbench_actors, "_oracles", lambda *_: {"cube": Oracle()})
    actor, found = ogbench_actors.Arm(scene, name, False), []
    for episode in range(200):
        with ogbench._seeded(0, episode, 0):
            actor.start(0)
        found.append(actor.stack)
    assert low <= min(found) <= low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) <= max(found) <= high


def test_an_episode_begins_the_same_whatever_came_before(monkeypatch):
    scene = Scene()
    monkeypatch.setattr(ogbench_actors, "_oracles", lambda *_: {"cube": Oracle()})
    actor = ogbench_actors.Arm(scene, "scene", False)
    scene._target_drawer_pos, scene.model.site_pos[:] = -0.16, 1.0
    actor.start(0)
    assert scene._target_drawer_pos == 0.0
    assert (scene.model.site_pos == 0.0).all()


def test_scenes_out_of_sight_are_made_again(monkeypatch):
    cube = np.array([[0.4, 0.0, 0.02], [0.4, -0.31, 0.07]])
    assert ogbench.in_sight(cube)  # the second is in the drawer
    for bad in ([0.4, 0.29, 0.02], [0.4, -0.3, 0.06 - 1e-3], [0.4, -0.3, 0.081]):
        assert not ogbench.in_sight(np.array([*cube, bad]))
    seen = []

    def act(env, actor, env_seed, count):
        seen.append(env_seed)
        return {"qpos": np.full((count, 17), 1.0 if len(seen) < 3 else 0.0)}

    monkeypatch.setattr(ogbench, "_stage", lambda name: (None, None))
    monkeypatch.setattr(ogbench, "_act", act)
    assert (ogbench.simulate_episode("scene-play", 0, 0, 5)["qpos"] == 0.0).all()
    assert len(set(seen)) == 3
    ogbench.simulate_episode("cube-single-play", 0, 0, 5)  # which asks nothing
    assert len(seen) == 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A short set in both forms: two training episodes, the second cut short, and one for validation."""
    pytest.importorskip("ogbench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("root")))
        patch.setitem(SETS, "pointmaze-teleport-navigate", SETS["pointmaze-teleport-navigate"]._replace(steps=400))
        recipe = RECIPES["ogbench-cut/pointmaze-teleport-navigate-100k-v0"]
        options = {"seed": 0, "rows": 700, "workers": 1, "dataset_id": "diffrl/ogbench/pointmaze-teleport-navigate-v0"}
        file = collect(recipe, **options, format="ogbench")
        folder = collect(recipe, **options)
        assert (file.made_rows, file.reused_rows) == (1100, 0)
        yield file.path, folder


def test_files_are_what_ogbench_loads(files):
    import ogbench as package

    path, _ = files
    assert sorted(each.name for each in path.parent.glob("*.npz")) == [
        "pointmaze-teleport-navigate-v0-val.npz",
        "pointmaze-teleport-navigate-v0.npz",
    ]
    _, train, val = package.make_env_and_datasets(
        "pointmaze-teleport-navigate-singletask-task1-v0", dataset_path=str(path), add_info=True
    )
    assert np.flatnonzero(train["terminals"]).tolist() == [399, 699]
    assert np.flatnonzero(val["terminals"]).tolist() == [399]
    with np.load(path) as raw:
        assert {key: (raw[key].shape[0], raw[key].dtype.name) for key in raw.files} == {
            **dict.fromkeys(("observations", "actions", "qpos", "qvel"), (702, "float32")),
            "terminals": (702, "bool"),
        }
        assert np.flatnonzero(raw["terminals"]).tolist() == [400, 701]
    mine = labelled(load(str(path)), Labels(task="1")).transitions
    for field, key in (("observation", "observations"), ("next_observation", "next_observations"), ("action", "actions")):
        np.testing.assert_array_equal(getattr(mine, field), train[key])
    np.testing.assert_array_equal(mine.reward, train["rewards"])
    np.testing.assert_array_equal(mine.terminal, train["masks"] == 0.0)


def test_both_forms_hold_the_same_rows_of_every_task(files):
    path, folder = files
    assert folder.metadata["diffrl"]["rows"] == 700
    one, two = load(str(path)), load("diffrl/ogbench/pointmaze-teleport-navigate-v0")
    assert "pointmaze-teleport-singletask-task1-v0" in str(two.env_spec)
    for task in ("1", "3", "goals"):
        a, b = (labelled(source, Labels(task=task)) for source in (one, two))
        for x, y in zip(a.transitions, b.transitions, strict=True):
            np.testing.assert_array_equal(x, y)
    val = load("diffrl/ogbench/pointmaze-teleport-navigate-val-v0").transitions
    assert len(val.reward) == 400
    assert not np.isin(val.observation[:, 0], one.transitions.observation[:, 0]).any()


def test_scores_are_rates_of_success(files):
    _, folder = files
    assert "ref_min_score" not in folder.metadata
    assert json.loads(folder.metadata["eval_env_spec"])["kwargs"]["success_timing"] == "pre"


def test_global_generator_is_seeded_by_episode_and_given_back():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.get_state()[1].tolist()  # noqa: NPY002
    drawn = {}
    for key in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)):
        with ogbench._seeded(*key) as env_seed:
            drawn[key] = (env_seed, np.random.uniform())  # noqa: NPY002
        with ogbench._seeded(*key) as again:
            assert drawn[key] == (again, np.random.uniform())  # noqa: NPY002
    assert len(set(drawn.values())) == 4
    assert np.random.get_state()[1].tolist() == expected  # noqa: NPY002


def test_importing_recipes_brings_no_simulator():
    code = (
        "import sys, diffrl.collection.recipes; print([m for m in ('jax', 'gymnasium', 'mujoco', 'ogbench') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
