"""D4RL's files under the names they are published by: which task each is of, which references and which environment it has."""

import h5py
import numpy as np
import pytest

from diffrl.data.d4rl_names import env_id_of, task_of
from diffrl.data.dataset import Transforms, build
from diffrl.data.env_id import env_spec_of
from diffrl.data.load import load
from diffrl.data.scores import TABLE, reference_for

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


def test_names_of_environments_are_tasks_too():
    assert task_of("d4rl/maze2d-large-v1") == "maze2d-large"
    assert task_of("hopper-medium-replay-v2") == "hopper-medium-replay"
