"""The same rows through every way in: arguments of `from_arrays` become a file, and the file a Source."""

import warnings

import h5py
import minari
import numpy as np
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer

from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import Source
from diffrl.data.load import load


def arrays_in_memory(folder, data, **options) -> Source:
    return from_arrays(**data, **options)


def npz_file(folder, data, **options) -> Source:
    np.savez(folder / "a.npz", **data)
    return load(str(folder / "a.npz"), **options)


def npz_in_plural(folder, data, **options) -> Source:
    np.savez(folder / "a.npz", **{f"{name}s": value for name, value in data.items()}, qpos=np.zeros(3))
    return load(str(folder / "a.npz"), **options)


def npz_directory(folder, data, **options) -> Source:
    np.savez(folder / "a.npz", **data)
    return load(str(folder), **options)


def hdf5_file(folder, data, **options) -> Source:
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, value in data.items():
            file[f"{name}s"] = value
    return load(str(folder / "a.hdf5"), **options)


def ogbench_file(folder, data, **options) -> Source:
    """`masks` cut the bootstrap, `terminals` trajectories."""
    given = {f"{name}s": value for name, value in data.items() if name not in ("terminal", "timeout")}
    ends = np.asarray(data["terminal"]).astype(bool) | np.asarray(data.get("timeout", data["terminal"])).astype(bool)
    np.savez(folder / "a.npz", **given, terminals=ends, masks=1.0 - np.asarray(data["terminal"]))
    return load(str(folder / "a.npz"), **options)


def minari_dataset(folder, data, **options) -> Source:
    """One episode of the file for all rows: Minari's own flags inside it end the task's. Integers are of Discrete(3, start=0)."""
    action = np.asarray(data["action"])
    action = action.reshape(-1) if action.dtype.kind == "i" else action.astype(np.float32)
    following = data.get("next_observation", data["observation"])
    episode = EpisodeBuffer(
        id=None,
        observations=np.concatenate([data["observation"], following[-1:]]).astype(np.float32),
        actions=action,
        rewards=np.asarray(data["reward"], np.float64),
        terminations=np.asarray(data["terminal"], bool),
        truncations=np.asarray(data.get("timeout", np.zeros(len(data["reward"]))), bool),
    )
    observation = Box(-np.inf, np.inf, episode.observations.shape[1:])
    space = Discrete(3) if action.dtype.kind == "i" else Box(-1, 1, action.shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari would like to know the author
        minari.create_dataset_from_buffers("test/episodes-v0", [episode], observation_space=observation, action_space=space)
    return load("test/episodes-v0", **options)


FILES = [arrays_in_memory, npz_file, npz_in_plural, npz_directory, hdf5_file]
OF_NEXT = [*FILES, ogbench_file]  # that may have observations which do not meet
ALL = [*OF_NEXT, minari_dataset]
