"""D4RL's files under the names they are published by: which task each is of, which references and which environment it has."""

import every_loader
import h5py
import numpy as np
import pytest

from diffrl.config import OnlineConfig
from diffrl.data.build import Transforms, build
from diffrl.data.d4rl_names import env_id_of, task_of
from diffrl.data.env_id import env_spec_of
from diffrl.data.environment import matched
from diffrl.data.load import load
from diffrl.data.scores import TABLE, reference_for
from diffrl.envs import make
from diffrl.training.online.environment import opened

# Of every family with references, the ends of D4RL's DATASET_URLS, one for each way of writing them.
FILES = {
    "maze2d-umaze-sparse-v1.hdf5": "maze2d-umaze",
    "maze2d-large-dense-v1.hdf5": "maze2d-large-dense",
    "maze2d-open-sparse.hdf5": "maze2d-open",
    "hopper_medium.hdf5": "Hopper",
    "hopper_medium-v2.hdf5": "Hopper",
    "halfcheetah_medium_expert-v2.hdf5": "HalfCheetah",
    "walker2d_full_replay-v2.hdf5": "Walker2d",
    "walker_mixed.hdf5": "Walker2d",
    "ant_random_expert.hdf5": "Ant",
    "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5": "AntMaze",
    "mini_kitchen_microwave_kettle_light_slider-v0.hdf5": "FrankaKitchen",
    "kitchen_microwave_kettle_bottomburner_light-v0.hdf5": "FrankaKitchen",
    "pen-v0_demos_clipped.hdf5": "AdroitHandPen",
    "hammer-demos-v0-bc-combined.hdf5": "AdroitHandHammer",
    "door-human.hdf5": "AdroitHandDoor",
    "relocate-expert-v1.hdf5": "AdroitHandRelocate",
}
OTHERS = (
    "bullet-hopper_medium.hdf5",
    "bullet-maze2d-open-sparse.hdf5",
    "maze2d-eval-umaze-sparse-v1.hdf5",
    "flow-ring-v0-random.hdf5",
)


def written(path, width=4, actions=2):
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(8, width)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (8, actions)).astype(np.float32)
        file["rewards"] = np.arange(8, dtype=np.float32)
        file["terminals"] = np.zeros(8, bool)
        file["timeouts"] = np.arange(8) % 4 == 3
    return str(path)


@pytest.mark.parametrize("name", FILES)
def test_references_are_found_by_the_name_of_the_file(tmp_path, name):
    _, _, card = build(load(written(tmp_path / name)), Transforms())
    assert reference_for(card) == TABLE[FILES[name]]


@pytest.mark.parametrize("name", OTHERS)
def test_tasks_that_sound_alike_have_none(tmp_path, name):
    _, _, card = build(load(written(tmp_path / name)), Transforms())
    assert reference_for(card) is None
    assert card.env_spec is None


def test_the_environment_decides_over_the_name_of_the_file(tmp_path):
    path = written(tmp_path / "maze2d-umaze-sparse-v1.hdf5", width=6)
    _, _, card = build(load(path, env_id="PointMaze_UMaze-v3"), Transforms())
    assert reference_for(card) is None


@pytest.mark.parametrize(
    "name, env_id",
    [
        ("maze2d-umaze-sparse-v1.hdf5", "maze2d-umaze-v1"),
        ("maze2d-medium-dense-v1.hdf5", "maze2d-medium-dense-v1"),
        ("maze2d-large-v1.hdf5", "maze2d-large-v1"),  # what `--format=d4rl` writes
        ("maze2d-umaze-sparse.hdf5", ""),  # version 0 is another task
        ("hopper_medium-v2.hdf5", ""),
    ],
)
def test_a_file_of_maze2d_names_its_environment(tmp_path, name, env_id):
    assert env_id_of(name) == env_id
    assert load(written(tmp_path / name)).env_spec == (env_spec_of(env_id) if env_id else None)


@pytest.mark.parametrize("loader", every_loader.FILES)
def test_maze2d_is_known_to_every_way_in(tmp_path, loader):
    state = np.zeros((6, 4))
    rows = {
        "observation": state,
        "next_observation": state,
        "action": np.zeros((6, 2)),
        "reward": np.zeros(6),
        "terminal": np.zeros(6),
    }
    source, unmatched = matched(loader(tmp_path, rows, env_id="maze2d-umaze-v1"))
    assert unmatched == ""
    assert source.action_high.tolist() == [1, 1]
    for backend in ("auto", "jax", "gymnasium"):
        found = make.choose(backend, source.env_spec, None)
        envs = found.device or found.host(1)
        assert envs.max_episode_steps == 300


def test_maze2d_is_known_to_training_by_interaction():
    with opened(OnlineConfig(env_id="maze2d-umaze-v1"), 1) as world:
        assert (world.spec.observation_dim, world.envs.max_episode_steps) == (4, 300)
        assert reference_for(world.card) == TABLE["maze2d-umaze"]


def test_names_of_environments_are_tasks_too():
    assert task_of("d4rl/maze2d-large-v1") == "maze2d-large"
    assert task_of("hopper-medium-replay-v2") == "hopper-medium-replay"
