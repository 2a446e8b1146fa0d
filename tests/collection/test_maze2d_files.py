"""maze2d's rows as files: D4RL's HDF5 as its users read it, Minari's episodes, and what may lie where they go."""

import json

import h5py
import numpy as np
import pytest
from collected import collect

from diffrl import cli
from diffrl import config as configs
from diffrl.collection import collect as collecting
from diffrl.collection import maze2d
from diffrl.collection.collect import CollectionError
from diffrl.collection.recipes import RECIPES
from diffrl.data import minari as loader
from diffrl.data.build import Transforms, build
from diffrl.data.env_id import env_spec_of
from diffrl.data.load import load
from diffrl.data.scores import TABLE, reference_for
from diffrl.envs import make
from diffrl.envs.maze2d.tasks import MAZES

CUT = RECIPES["maze2d/umaze-200k-v0"]
ROWS = {"umaze": 1_000_000, "medium": 2_000_000, "large": 4_000_000}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Rows in both forms, of two streams, and the root that holds them."""
    path = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        patch.setattr(maze2d, "STREAM_ROWS", 3_000)
        options = {"seed": 0, "rows": 5_000, "workers": 1, "dataset_id": CUT.dataset_id}
        simulated: list[int] = []
        found = collecting.collect(CUT, **options, formats=("d4rl", "minari"), report=lambda done, total: simulated.append(done))
        assert simulated == [0, 3_000, 5_000]  # once for both
        assert list((path / "diffrl" / "maze2d").glob(".*")) == []
    return path, found["d4rl"].path


def arrays_of(file) -> dict[str, np.ndarray]:
    names: list[str] = []
    with h5py.File(file) as source:
        source.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return {name: source[name][()] for name in names}


def test_d4rl_file_has_d4rls_keys_and_types(stored):
    data = arrays_of(stored[1])
    widths = {"actions": (2,), "infos/goal": (2,), "infos/qpos": (2,), "infos/qvel": (2,), "observations": (4,), "rewards": ()}
    assert {name: value.shape for name, value in data.items()} == {
        **{name: (5_000, *width) for name, width in widths.items()},
        **{"terminals": (5_000,), "timeouts": (5_000,)},
    }
    assert {name: value.dtype for name, value in data.items()} == {
        **dict.fromkeys(widths, np.dtype(np.float32)),
        **{"terminals": np.dtype(bool), "timeouts": np.dtype(bool)},
    }
    assert not data["terminals"].any()
    near = np.linalg.norm(data["observations"][:, :2].astype(np.float64) - [1.0, 1.0], axis=1) <= 0.5
    np.testing.assert_array_equal(data["rewards"], near)
    assert near.any()
    # A stream ends in a flag: the next one starts somewhere else.
    assert data["timeouts"][[2_999, 4_999]].all()


def test_d4rl_file_is_read_as_d4rls_users_read_it(stored):
    """Row by row what the loop of `qlearning_dataset` makes of it."""
    data = arrays_of(stored[1])
    expected = []
    for i in range(len(data["rewards"]) - 1):
        if data["timeouts"][i]:
            continue
        expected.append((data["observations"][i], data["actions"][i], data["rewards"][i], data["observations"][i + 1]))
    source = load(str(stored[1]), env_id="maze2d-umaze-v1")
    t = source.transitions
    assert len(t.reward) == len(expected) == 5_000 - data["timeouts"].sum()
    for i, (observation, action, reward, following) in enumerate(expected):
        assert (t.observation[i] == observation).all()
        assert (t.action[i] == action).all()
        assert (t.next_observation[i] == following).all()
        assert t.reward[i] == reward
    assert not t.terminal.any()
    _, _, card = build(source, Transforms())
    assert reference_for(card) == TABLE["maze2d-umaze"]
    assert make.choose("auto", source.env_spec, None).device.max_episode_steps == 300


def test_minari_has_the_same_rows_and_where_each_step_led(stored):
    path, file = stored
    data = arrays_of(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        source = loader.load(CUT.dataset_id)
    t = source.transitions
    for mine, theirs in (("observation", "observations"), ("action", "actions"), ("reward", "rewards"), ("timeout", "timeouts")):
        np.testing.assert_array_equal(getattr(t, mine), data[theirs])
    assert not t.terminal.any()
    state = np.concatenate([data["infos/qpos"], data["infos/qvel"]], axis=1)
    same_stream = np.arange(4_999) != 2_999
    # Within an episode the next row's observation; at its end where the point went, which no row shows.
    np.testing.assert_array_equal(t.next_observation[:-1][same_stream], state[1:][same_stream])
    np.testing.assert_array_equal(
        t.observation[1:][t.timeout[:-1] & same_stream], t.observation[:-1][t.timeout[:-1] & same_stream]
    )
    assert (t.timeout[1:] & t.timeout[:-1]).any()  # episodes of one row
    assert (source.ref_min_score, source.ref_max_score) == (23.85, 161.86)
    assert "d4rl/infos.py" in source.ref_provenance
    assert "a cut; the benchmark has 1000000 rows" in source.description
    assert json.loads(source.env_spec)["id"] == "maze2d-umaze-v1"
    host = make.choose("gymnasium", source.env_spec, source.observation_keys).host(1)
    assert host.max_episode_steps == 300
    assert host.reset([0]).shape == (1, 4)
    host.close()


def test_both_forms_have_the_same_return_beside_an_evaluation(stored):
    """Of 300 rows as they come, whatever target they are the way to; 200 are left of the second stream."""
    path, file = stored
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        sources = load(str(file), env_id="maze2d-umaze-v1"), loader.load(CUT.dataset_id)
    rewards = arrays_of(file)["rewards"]
    expected = np.concatenate([rewards[:3_000], rewards[3_000:4_800]]).reshape(-1, 300).sum(axis=1)
    for source in sources:
        card = build(source, Transforms())[2]
        assert (card.comparable_return, card.comparable_episodes) == (pytest.approx(expected.mean()), 16)
        assert card.return_mean < card.comparable_return / 2


def test_both_forms_can_be_there_and_are_made_once(stored, root):
    path, file = stored
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(path))
        patch.setattr(maze2d, "STREAM_ROWS", 3_000)
        options = {"rows": 5_000, "workers": 1, "dataset_id": CUT.dataset_id}
        for form in (collecting.MINARI, "d4rl"):
            again = collect(CUT, seed=0, **options, format=form)
            assert again.existed
            assert again.metadata["total_steps"] == 5_000
        assert again.path == file
        with pytest.raises(CollectionError, match=r"seed 0.*asked for.*seed 1.*--overwrite"):
            collect(CUT, seed=1, **options, format="d4rl")
        before = arrays_of(file)["actions"]
        assert not collect(CUT, seed=1, **options, format="d4rl", overwrite=True).existed
        assert (arrays_of(file)["actions"] != before).any()
        file.unlink()
        assert not collect(CUT, seed=0, **options, format="d4rl").existed
        np.testing.assert_array_equal(arrays_of(file)["actions"], before)
        left = {each.name for each in file.parent.iterdir()}
        assert left == {"namespace_metadata.json", file.name, "umaze-200k-v0", "umaze-200k-v0.d4rl.json"}


def test_a_file_of_the_users_own_is_not_written_over(root):
    """The published file may lie there."""
    own = root / "diffrl" / "maze2d" / "umaze-200k-v0.hdf5"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"published")
    options = {"seed": 0, "rows": 100, "workers": 1, "dataset_id": CUT.dataset_id, "format": "d4rl"}
    with pytest.raises(CollectionError, match=r"umaze-200k-v0\.hdf5 exists and was not made by a recipe: add --overwrite"):
        collect(CUT, **options)
    assert own.read_bytes() == b"published"
    assert collect(CUT, **options, overwrite=True).path == own


def test_a_recipe_says_how_it_can_be_stored(root):
    options = {"seed": 0, "rows": 100, "workers": 1, "dataset_id": "test/a-v0"}
    with pytest.raises(CollectionError, match="not stored as 'd4rl', only as minari"):
        collect(RECIPES["pointmaze/umaze-fixedgoal-v0"], **options, format="d4rl")
    with pytest.raises(CollectionError, match="not stored as 'npz', only as minari, d4rl"):
        collect(CUT, **options, format="npz")


def test_only_the_whole_sets_have_the_benchmarks_names():
    made = {name: recipe.rows for name, recipe in RECIPES.items() if "maze2d" in name}
    assert {name: rows for name, rows in made.items() if "d4rl" in name or name.endswith("-v1")} == {
        f"d4rl/maze2d-{maze}-v1": rows for maze, rows in ROWS.items()
    }
    assert {name for name, rows in made.items() if rows == 200_000} == {f"maze2d/{maze}-200k-v0" for maze in MAZES}


@pytest.mark.parametrize("name", ["iql_maze2d", "bc_maze2d", "rebrac_maze2d"])
def test_published_settings_name_the_file_that_the_recipe_writes(name):
    options = {"seed": 0, "rows": 400, "workers": 1, "dataset_id": "diffrl/d4rl/maze2d-medium-v1", "format": "d4rl"}
    path = collect(RECIPES["d4rl/maze2d-medium-v1"], **options).path
    for named in (f"published/{name}", f"experiments/published/{name}.py"):
        config = cli.load_experiment(f"{named}:medium")
        assert config.dataset.id == str(path)
        assert json.loads(env_spec_of(config.dataset.env_id))["max_episode_steps"] == 600
    configs.validate(config)
