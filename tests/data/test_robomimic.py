"""robomimic's HDF5 files, demonstration by demonstration."""

import h5py
import numpy as np
import pytest

from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load

LENGTHS = {10: 4, 2: 3, 0: 5}  # rows by number, written in this order


def contents(next_obs=True, **changes):
    """Row t of demonstration n is at 100 n + t: `object` holds that number and its negative, `eef` that number."""
    data = {}
    for number, rows in LENGTHS.items():
        at = 100.0 * number + np.arange(rows + 1)
        data[f"demo_{number}"] = {
            "actions": np.full((rows, 2), 0.01 * number),
            "rewards": np.arange(rows) == rows - 1,
            "dones": (np.arange(rows) == rows - 1) & (number != 2),
            "states": np.zeros((rows, 7)),
            "obs/object": np.stack([at, -at], axis=1)[:-1],
            "obs/eef": at[:-1],
            "obs/agentview_image": np.zeros((rows, 3, 3, 3), np.uint8),
        }
        if next_obs:
            data[f"demo_{number}"] |= {"next_obs/object": np.stack([at, -at], axis=1)[1:], "next_obs/eef": at[1:]}
    for path, value in changes.items():
        demo, _, name = path.partition("/")
        data[demo][name] = value
    return data


def write(path, data):
    with h5py.File(path, "w") as file:
        for demo, arrays in data.items():
            for name, value in arrays.items():
                if value is not None:
                    file[f"data/{demo}/{name}"] = value
        file["data"].attrs["total"] = sum(LENGTHS.values())
        file["mask/train"] = np.array([b"demo_0"])
    return str(path)


def test_demonstrations_in_order_of_their_numbers(tmp_path):
    source = load(write(tmp_path / "low_dim.hdf5", contents()))
    t = source.transitions
    assert t.observation[:, 0].tolist() == [0, 1, 2, 3, 4, 200, 201, 202, 1000, 1001, 1002, 1003]
    np.testing.assert_array_equal(t.next_observation, t.observation + np.array([1, 1, -1]))
    np.testing.assert_allclose(t.action[:, 0], np.repeat([0, 0.02, 0.1], [5, 3, 4]), rtol=1e-6)
    assert np.flatnonzero(t.terminal).tolist() == [4, 11]
    assert np.flatnonzero(t.timeout).tolist() == [7]
    assert source.recorded.returns.tolist() == [1, 1, 1]
    assert source.observation_parts == (("eef", 1), ("object", 2))
    assert source.description == (
        "robomimic file, 3 demonstrations, 12 of 12 rows, observations of eef, object (left out: agentview_image)"
    )
    assert build(source, Transforms())[1].observation_parts == source.observation_parts


def test_without_next_observations_the_last_row_of_a_cut_demonstration_goes(tmp_path):
    t = load(write(tmp_path / "a.hdf5", contents(next_obs=False))).transitions
    assert t.observation[:, 0].tolist() == [0, 1, 2, 3, 4, 200, 201, 1000, 1001, 1002, 1003]
    assert np.flatnonzero(t.timeout).tolist() == [6]


def test_keys_are_put_together_in_the_order_given(tmp_path):
    path = write(tmp_path / "a.hdf5", contents())
    source = load(path, observation_keys=("object", "eef"))
    np.testing.assert_array_equal(source.transitions.observation[1], [1, -1, 1])
    assert source.observation_keys == ("object", "eef")
    assert load(path, observation_keys=("eef",)).transitions.observation.shape == (12, 1)
    with pytest.raises(
        DatasetError, match=r"no vector agentview_image, joints among its .*there are eef, object \(left out: agent"
    ):
        load(path, observation_keys=("agentview_image", "joints"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"demo_2/actions": None}, "/data/demo_2 has no array actions"),
        ({"demo_2/dones": None}, "/data/demo_2 has no array dones"),
        ({"demo_2/obs/eef": np.zeros(2)}, "/data/demo_2 has 2 rows of obs/eef and 3 actions"),
        ({"demo_2/obs/object": np.zeros((3, 5))}, "obs/object has rows of different lengths, by demonstration"),
        ({"demo_2/rewards": np.array([0, np.nan, 0])}, "reward has 1 values that are not finite, first in row 6"),
        ({"demo_2/rewards/inner": 1.0, "demo_2/rewards": None}, "/data/demo_2 has no array rewards"),
    ],
)
def test_bad_demonstrations_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        build(load(write(tmp_path / "a.hdf5", contents(**changes))), Transforms())


def test_files_as_robosuite_records_them_have_no_observations(tmp_path):
    data = {"demo_0": {"actions": np.zeros((3, 2)), "states": np.zeros((3, 7))}}
    with pytest.raises(DatasetError, match=r"demo_0 has no obs\. robomimic's dataset_states_to_obs\.py makes them"):
        load(write(tmp_path / "a.hdf5", data))
