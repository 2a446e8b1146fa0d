"""One entry to all kinds of data: what a dataset's id names, and who reads it."""

from pathlib import Path

from diffrl.data import hdf5, lerobot, minari, npz, toys
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.env_id import env_spec_of
from diffrl.data.mix import mixed, shares
from diffrl.envs.env_spec import read as read_env_spec

_HDF5 = (".hdf5", ".h5")


def load(
    id: str,
    *,
    download: bool = False,
    env_id: str = "",
    observation_keys: tuple[str, ...] = (),
    mix: tuple[str, ...] = (),
) -> Source:
    """Read the raw rows of a dataset, or of several.

    Args:
        id: a path that ends in .hdf5 or .h5 (D4RL, plain or robomimic) or in .npz (OGBench or plain), a directory of .npz files
            or of a LeRobot dataset, the folder of a Minari dataset, or otherwise the id of one; toy/NAME for a distribution of
            the laboratory (`data/toys.py`).
        download: fetch a Minari dataset from its server when it is not on this machine.
        env_id: gymnasium's name of the environment to evaluate in, for data that name none. Where they name one it is
            replaced, and reference scores, which belong to that one, are dropped.
        observation_keys: for observations of named parts (Dict observations of Minari, robomimic, LeRobot), the parts to
            concatenate, in order; () for the default.
        mix: further datasets, "ID=SHARE" (`data/mix.py`).

    Raises:
        DatasetError: there is nothing of this name, it is damaged or of a kind that cannot be used, gymnasium does not know
            `env_id`, or datasets do not fit together.
    """
    env_spec = env_spec_of(env_id) if env_id else None
    others = shares(mix)
    sources = [_read(one, download, env_spec, observation_keys) for one in (id, *others)]
    source = mixed(sources, others) if others else sources[0]
    if env_spec is None:
        return source
    return source._replace(env_spec=env_spec, ref_min_score=None, ref_max_score=None, ref_provenance="")


def _read(id: str, download: bool, env_spec: str | None, observation_keys: tuple[str, ...]) -> Source:
    if id.startswith(toys.PREFIX):
        return toys.load(id)
    try:
        path = Path(id).expanduser()
        there, folder = path.exists(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # of a name that no file can have, or no user
        raise DatasetError(f"dataset {id[:100]!r} cannot be looked for: {error}") from None
    if folder and lerobot.recognise(path):
        return lerobot.load_directory(id, observation_keys)
    is_path = there or path.suffix in (*_HDF5, ".npz") or id.startswith(("/", ".", "~"))
    # A Minari id may happen to name a directory here too.
    if not is_path or (minari.dataset_path(id) / "data").exists():
        return minari.load(id, download=download, observation_keys=observation_keys or None)
    if (path / "data" / "metadata.json").exists():
        return minari.load(str(path.absolute()), observation_keys=observation_keys or None)
    if not there:
        raise DatasetError(f"dataset {id!r}: there is no such file or directory ({path.absolute()})")
    if path.suffix in _HDF5 and not folder:
        limit = read_env_spec(env_spec).get("max_episode_steps")
        return hdf5.load(id, max_episode_steps=limit, observation_keys=observation_keys)
    if observation_keys:
        raise DatasetError(f"dataset {id!r}: observation keys were given, but a file of arrays has none")
    if folder:
        return npz.load_directory(id)
    if path.suffix == ".npz":
        return npz.load_file(id)
    raise DatasetError(
        f"dataset {id!r} is neither an .hdf5, .h5 or .npz file nor a directory of .npz files or of a LeRobot dataset"
    )
