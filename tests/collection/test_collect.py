"""Recipes end to end: determinism, restarts, atomicity, and what the data mean."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from collected import collect
from programs import run

from diffrl.collection import collect as collecting
from diffrl.collection import maze_simulation
from diffrl.collection.collect import CollectionError
from diffrl.collection.recipes import RECIPES
from diffrl.data import minari as loader
from diffrl.data.build import Transforms, build
from diffrl.envs import make
from diffrl.envs.pointmaze import from_env_spec

FIXED, GOAL = RECIPES["pointmaze/umaze-fixedgoal-v0"], RECIPES["pointmaze/umaze-goal-v0"]
ROWS = 20_500


@pytest.fixture(scope="module", autouse=True)
def _few_reference_episodes():
    """Of the 100 that scores rest on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maze_simulation, "REFERENCE_EPISODES", 20)
        yield


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A fixed-goal dataset made by one worker."""
    path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        collect(FIXED, seed=0, rows=ROWS, workers=1, dataset_id=FIXED.dataset_id)
    return path


def loaded(root: Path, id: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        return loader.load(id)


def sha(source) -> str:
    return build(source, Transforms())[2].sha256


def test_two_workers_make_the_same_bits(made, root):
    reports = []
    options = {"seed": 0, "rows": ROWS, "workers": 2, "dataset_id": FIXED.dataset_id}
    outcome = collect(FIXED, **options, report=lambda *rows: reports.append(rows))
    assert reports[0] == (0, ROWS)
    assert reports[-1] == (ROWS, ROWS)
    assert not outcome.existed
    one, two = loaded(made, FIXED.dataset_id), loader.load(FIXED.dataset_id)
    assert sha(one) == sha(two)
    assert (one.ref_min_score, one.ref_max_score, one.description) == (two.ref_min_score, two.ref_max_score, two.description)
    # Nothing but the dataset is left.
    assert sorted(path.name for path in outcome.path.parent.iterdir()) == ["namespace_metadata.json", outcome.path.name]


def test_finished_shards_are_kept_and_used(made, root):
    """Killed half way: two shards are there, one of them damaged."""
    calls = []

    def stop(done, total):
        calls.append(done)
        if done >= 10_000:
            raise KeyboardInterrupt

    options = {"seed": 0, "rows": ROWS, "workers": 1, "dataset_id": FIXED.dataset_id}
    with pytest.raises(KeyboardInterrupt):
        collect(FIXED, **options, report=stop)
    with pytest.raises(loader.DatasetError, match="not on this machine"):
        loader.load(FIXED.dataset_id)
    (staging,) = (root / "diffrl" / "pointmaze").iterdir()
    assert staging.name.startswith(".umaze-fixedgoal-v0_pointmaze-umaze-fixedgoal-v0_seed0_rows20500")
    (staging / "play-000010.npz").write_bytes(b"PK half a file")
    outcome = collect(FIXED, **options)
    assert outcome.reused_rows == 10_000
    assert sha(loader.load(FIXED.dataset_id)) == sha(loaded(made, FIXED.dataset_id))
    assert not staging.exists()


def test_existing_dataset(made, root):
    shutil.copytree(made, root, dirs_exist_ok=True)
    before = sha(loader.load(FIXED.dataset_id))
    options = {"rows": ROWS, "workers": 1, "dataset_id": FIXED.dataset_id}
    again = collect(FIXED, seed=0, **options)
    assert again.existed
    assert again.metadata["total_steps"] == ROWS
    with pytest.raises(CollectionError, match=r"seed 0.*asked for.*seed 1.*--overwrite"):
        collect(FIXED, seed=1, **options)
    assert sha(loader.load(FIXED.dataset_id)) == before
    collect(FIXED, seed=1, **options, overwrite=True)
    assert sha(loader.load(FIXED.dataset_id)) != before
    # A folder that is no dataset is refused too, and never loads.
    (loader.dataset_path(FIXED.dataset_id) / "data" / "metadata.json").unlink()
    with pytest.raises(CollectionError, match="not made by a recipe"):
        collect(FIXED, seed=1, **options)


def test_a_failure_while_writing_leaves_no_dataset():
    def fail(*_):
        raise OSError("disk full")

    options = {"seed": 0, "rows": 1000, "workers": 1, "dataset_id": FIXED.dataset_id}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(CollectionError, match=r"disk full.*the same command goes on"):
            collect(FIXED, **options)
    with pytest.raises(loader.DatasetError, match="not on this machine"):
        loader.load(FIXED.dataset_id)


@pytest.mark.parametrize(
    "changes", [{"rows": 0}, {"workers": 0}, {"seed": -1}, {"dataset_id": "name"}, {"dataset_id": "../a-v0"}]
)
def test_senseless_requests(changes):
    with pytest.raises(CollectionError, match=r"at least|not a dataset id"):
        collect(FIXED, **{"seed": 0, "rows": 10, "workers": 1, "dataset_id": "test/a-v0", **changes})


def test_fixed_goal_data_mean_what_they_say(made):
    source = loaded(made, FIXED.dataset_id)
    t = source.transitions
    assert t.observation.shape == (ROWS, 4)
    goal = maze_simulation.evaluation_goal("umaze")
    near = np.linalg.norm(t.next_observation[:, :2].astype(np.float64) - goal, axis=1) <= 0.45
    np.testing.assert_array_equal(t.reward, near)
    assert 0.005 < t.reward.mean() < 0.2
    assert not t.terminal.any()
    assert np.flatnonzero(t.timeout).tolist() == [*range(999, ROWS, 1000), ROWS - 1]
    inside = ~t.timeout[:-1]
    np.testing.assert_array_equal(t.next_observation[:-1][inside], t.observation[1:][inside])
    assert np.abs(t.action).max() == 1.0
    # Play reaches every free cell.
    assert len(np.unique(np.floor(t.observation[:, :2] + 0.5), axis=0)) >= 7
    assert source.ref_min_score < 0.2 * source.ref_max_score
    assert "mujoco" in source.ref_provenance
    assert "Seed 0" in source.description


def test_environment_is_recovered_from_the_spec_alone(made):
    source = loaded(made, FIXED.dataset_id)
    envs = make.choose("gymnasium", source.env_spec, source.observation_keys).host(2)
    assert envs.max_episode_steps == 300
    assert envs.reset([0, 1]).shape == (2, 4)
    step = envs.step(np.ones((2, 2), np.float32))
    assert step.observation.dtype == np.float32
    assert envs._envs[0].unwrapped.goal == pytest.approx(maze_simulation.evaluation_goal("umaze"), abs=0.25)
    envs.close()
    assert from_env_spec(source.env_spec, source.observation_keys).observation_dim == 4
    path = made / FIXED.dataset_id / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata["requirements"][0] == "mujoco>=3.5,<3.12"
    assert metadata["diffrl"]["recipe"] == FIXED.name


def test_goal_layout(root):
    collect(GOAL, seed=3, rows=4_000, workers=1, dataset_id=GOAL.dataset_id)
    source = loader.load(GOAL.dataset_id)
    t = source.transitions
    assert source.observation_keys == ("observation", "desired_goal")
    assert t.observation.shape == (4_000, 6)
    distance = np.linalg.norm(t.next_observation[:, :2] - t.observation[:, 4:], axis=1)
    np.testing.assert_array_equal(t.reward, distance <= 0.45)
    # One goal per episode, seen in every row, and the episode ends when it is reached.
    np.testing.assert_array_equal(t.observation[:, 4:], t.next_observation[:, 4:])
    assert t.timeout[t.reward == 1].all()
    assert not t.terminal.any()
    # The loader's rule for stale goals finds nothing to mend.
    import minari

    raw = [episode.observations["desired_goal"] for episode in minari.load_dataset(GOAL.dataset_id).iterate_episodes()]
    np.testing.assert_array_equal(t.observation[:, 4:], np.concatenate([goal[:-1] for goal in raw]))
    assert from_env_spec(source.env_spec, source.observation_keys).observation_keys == ("observation", "desired_goal")


def test_stepping_without_gymnasium_is_the_same_physics():
    """`Simulator.run` against the wrapped environment, bit for bit up to the solver's warm start."""
    simulator = maze_simulation.Simulator("umaze")
    block = maze_simulation.simulate_block(simulator, 0, 0, 300)
    env = simulator.env
    env.reset(seed=0)
    env.unwrapped.point_env.set_state(block["states"][0, :2], np.zeros(2))
    for action, state in zip(block["actions"], block["states"][1:], strict=True):
        observation, *_ = env.step(action)
        np.testing.assert_allclose(observation["observation"], state, atol=1e-6)
    simulator.close()


def test_command_makes_the_same_data_and_prints_a_card(made, root):
    result = run(root, "launch/collect.py", "--recipe=pointmaze/umaze-fixedgoal-v0", f"--rows={ROWS}", "--workers=2")
    for words in ("rows/s", "20,500 in 21 episodes", "references", str(root / "datasets" / FIXED.dataset_id)):
        assert words in result.stdout
    assert result.stderr == ""
    assert sha(loaded(root / "datasets", FIXED.dataset_id)) == sha(loaded(made, FIXED.dataset_id))


def test_killed_command_leaves_no_worker_and_goes_on(root):
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(root)}
    line = [sys.executable, "-m", "launch.collect", "--recipe=pointmaze/umaze-fixedgoal-v0", "--rows=10000000", "--workers=2"]
    cwd = Path(__file__).parents[2]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=cwd) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first shard is there
        process.kill()
        # Returns when the workers have closed their ends too.
        process.communicate(timeout=20)
    (staging,) = (root / "diffrl" / "pointmaze").iterdir()
    assert any(path.suffix == ".npz" for path in staging.iterdir())


def test_command_errors_are_one_line_and_the_list_is_there(root):
    result = run(root, "launch/collect.py", "--recipe=pointmaze/medum-fixedgoal-v0", code=2)
    assert "did you mean pointmaze/medium-fixedgoal-v0?" in result.stderr
    assert "Traceback" not in result.stderr
    assert "pointmaze/large-goal-v0" in run(root, "launch/collect.py", "--list").stdout


def test_every_recipe_has_a_sensible_name():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        collecting._check_id(recipe.dataset_id)
        # A validation split comes on top of the rows that were asked for.
        training = [shard for shard in recipe.shards(0, recipe.rows) if not shard.name.startswith("val-")]
        assert sum(shard.rows for shard in training) == recipe.rows


def test_a_full_disk_is_seen_before_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 may crash there; what was simulated is kept, and with room the same call stores it."""
    given = {"seed": 0, "rows": 40, "workers": 1, "dataset_id": "tests/full-v0"}
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(CollectionError, match=r"storing takes about .* MB, and 0.001 MB are free.*the same command goes on"):
            collect(FIXED, **given)
    outcome = collect(FIXED, **given)
    assert (outcome.reused_rows, outcome.made_rows) == (40, 0)


@pytest.mark.parametrize(
    "id", ["mine/a b-v0", "mine/a[b]-v0", "../x-v0", "/x/y-v0", "x-v0", "mine/ä*-v0", "a/" + "x" * 200 + "-v0"]
)
def test_an_id_that_cannot_be_stored_is_refused_before_work(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "simulated", lambda *args: pytest.fail("it was simulated"))
    with pytest.raises(CollectionError, match="is not a dataset id; write namespace/name-v0"):
        collect(FIXED, seed=0, rows=10, workers=1, dataset_id=id)
