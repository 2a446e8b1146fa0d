"""Names that people give to arrays, and flags that mark episodes without saying how they ended."""

import h5py
import numpy as np
import pytest

from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load

N = 6


def npz(folder, data):
    np.savez(folder / "a.npz", **data)
    return load(str(folder / "a.npz"))


def hdf5(folder, data):
    with h5py.File(folder / "a.h5", "w") as file:
        for name, value in data.items():
            file[name] = value
    return load(str(folder / "a.h5"))


each_file = pytest.mark.parametrize("read", [npz, hdf5])


def arrays(**changes):
    found = {"obs": np.arange(N, dtype=np.float32)[:, None], "actions": np.array([0, 1, 0, 1, 1, 0])[:, None]}
    return found | {"rewards": np.ones(N)} | changes


def rows(*true):
    return np.isin(np.arange(N), true)


@each_file
def test_expert_files_of_stable_baselines(tmp_path, read):
    """Their arrays, with the episodes' returns, which are another number of rows; nothing says that an end is terminal."""
    source = read(tmp_path, arrays(episode_starts=rows(0, 2), episode_returns=np.array([2.0, 4.0])))
    dataset, spec, card = build(source, Transforms())
    assert (spec.num_actions, card.episodes, card.rows, card.return_min, card.return_max) == (2, 2, 4, 2, 4)
    assert np.flatnonzero(source.transitions.timeout).tolist() == [0, 3]
    assert not source.transitions.terminal.any()
    np.testing.assert_array_equal(np.argmax(dataset[:].action, axis=1), [0, 0, 1, 1])


@each_file
@pytest.mark.parametrize(
    "flags, terminal, timeout",
    [
        ({"dones": rows(1, 5)}, [1, 5], []),
        ({"dones": rows(1, 5), "timeouts": rows(1)}, [5], [1]),  # stable-baselines3's buffers: a timeout is done too
        ({"dones": rows(1, 5), "terminals": rows(5)}, [5], [1]),
        ({"done": rows(5)[:, None], "truncated": rows(1)}, [5], [1]),
        ({"terminals": rows(1), "episode_starts": rows(0, 2, 4)}, [1], [3, 5]),
        ({"dones": rows(1), "episode_start": rows(2, 4)}, [1], [3, 5]),
        ({"timeouts": rows(1)}, [], [1, 5]),
    ],
    ids=lambda flags: "-".join(flags) if isinstance(flags, dict) else "",
)
def test_flags_of_episodes(tmp_path, read, flags, terminal, timeout):
    source = read(tmp_path, arrays(**flags, next_obs=np.arange(1, N + 1, dtype=np.float32)[:, None]))
    assert np.flatnonzero(source.transitions.terminal).tolist() == terminal
    assert np.flatnonzero(source.transitions.timeout).tolist() == timeout


@each_file
@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"observations": np.zeros((N, 1)), "dones": rows(5)},
            "has both observations and obs, and either would be the observation",
        ),
        ({"dones": rows(5), "done": rows(5)}, "has both done and dones"),
        ({"dones": rows(5)[:4], "timeouts": rows(1)}, "timeout has 6 rows, another flag of episodes 4"),
        ({"dones": np.full(N, 2)}, "done must be 0 or 1 everywhere, found 2"),
        (
            {},
            "does not say where its episodes end: add terminals, timeouts, episode_starts or next_observations; there are",
        ),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path, read, changes, message):
    with pytest.raises(DatasetError, match=message):
        read(tmp_path, arrays(**changes))


@each_file
def test_missing_arrays_are_named_with_what_is_there(tmp_path, read):
    with pytest.raises(
        DatasetError, match=r"no observation \(observations, obs\) and no action \(actions, acts\); there are dones, state"
    ):
        read(tmp_path, {"state": np.zeros(N), "dones": rows(5)})
