"""The same rows through every way in: arguments of `from_arrays` become a file, and the file a Source."""

import warnings

import h5py
import minari
import numpy as np
import pyarrow
import pyarrow.parquet
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


# As `imitation` and others write them.
OTHER_NAMES = {"observation": "obs", "action": "acts", "reward": "rews", "next_observation": "next_obs"}
OTHER_NAMES |= {"terminal": "terminated", "timeout": "truncated"}


def npz_by_other_names(folder, data, **options) -> Source:
    np.savez(folder / "a.npz", **{OTHER_NAMES[name]: value for name, value in data.items()})
    return load(str(folder / "a.npz"), **options)


def hdf5_by_other_names(folder, data, **options) -> Source:
    """Rewards and flags are columns, as stable-baselines writes them."""
    with h5py.File(folder / "a.hdf5", "w") as file:
        for name, value in data.items():
            file[OTHER_NAMES[name]] = np.reshape(value, (len(value), -1))
    return load(str(folder / "a.hdf5"), **options)


def ends_of(data) -> np.ndarray:
    """One past the last row of everything that terminals and timeouts end."""
    n = len(data["action"])
    flagged = sum(np.asarray(data.get(name, np.zeros(n))).astype(bool) for name in ("terminal", "timeout"))
    return np.unique([*np.flatnonzero(flagged) + 1, n])


def robomimic_file(folder, data, **options) -> Source:
    """A demonstration for every flagged end; observations in two parts, of which the first has one number a row."""
    names = {"action": "actions", "reward": "rewards", "terminal": "dones"}
    with h5py.File(folder / "a.hdf5", "w") as file:
        begin = 0
        for number, end in enumerate(ends_of(data)):
            rows = slice(begin, begin := int(end))
            for name, value in data.items():
                value = np.asarray(value)[rows]
                if name in names:
                    file[f"data/demo_{number}/{names[name]}"] = value
                elif name != "timeout":
                    group = f"data/demo_{number}/{'obs' if name == 'observation' else 'next_obs'}"
                    file[f"{group}/a"] = value[:, 0]
                    file[f"{group}/b"] = value[:, 1:]
                    file[f"{group}/camera_image"] = np.zeros((len(value), 4, 4, 3), np.uint8)
    return load(str(folder / "a.hdf5"), **options)


def lerobot_directory(folder, data, **options) -> Source:
    """An episode for every flagged end, in two tables. There is no next observation."""
    given = {name: np.asarray(value) for name, value in data.items()}
    episode = np.searchsorted(ends_of(data), np.arange(len(given["action"])), side="right")
    columns = {"observation.state": list(given["observation"]), "episode_index": episode}
    columns["action"] = given["action"].ravel() if given["action"].dtype.kind == "i" else list(given["action"])
    columns |= {name: given[field] for name, field in (("next.reward", "reward"), ("next.done", "terminal")) if field in given}
    table = pyarrow.table(columns)
    for number, part in enumerate((table[:3], table[3:])):
        path = folder / "data" / "chunk-000" / f"file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(part, path)
    (folder / "meta").mkdir()
    (folder / "meta" / "info.json").write_text("{}")
    return load(str(folder), **options)


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
FILES += [npz_by_other_names, hdf5_by_other_names, robomimic_file]
WITHOUT_NEXT = [*FILES, lerobot_directory]  # that may leave out next observations
OF_NEXT = [*FILES, ogbench_file]  # that may have observations which do not meet
ALL = [*OF_NEXT, minari_dataset]
