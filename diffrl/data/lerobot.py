"""LeRobot's datasets (format v3, and v2, whose tables have the same columns): a directory of Parquet files."""

from pathlib import Path
from typing import Any

import numpy as np

from diffrl.data import names, parts
from diffrl.data.arrays import from_arrays
from diffrl.data.contents import instead
from diffrl.data.dataset import DatasetError, Source

_PREFIX = "observation."
# Their names of what `names.arguments` takes: those of `lerobot/utils/constants.py`, and the terminations of those who keep both.
_COLUMNS = {"action": "action", "next.reward": "reward", "next.done": "done"}
_COLUMNS |= {"next.terminated": "terminal", "next.truncated": "timeout"}
_EPISODE = "episode_index"


def recognise(path: Path) -> bool:
    """Whether a directory is a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def load_directory(id: str, keys: tuple[str, ...]) -> Source:
    """Read the tables `data/*/*.parquet` in the order of their names; videos are not looked at.

    An episode ends where `episode_index` changes, in a timeout unless its last row is terminal. `next.terminated` says which are,
    where it is recorded. Otherwise `next.done` does, as LeRobot's own learner takes it, but for rows whose `next.truncated` is
    set; LeRobot's recorder sets it at ends of either kind. Without `next.reward` the data are for imitation.

    Args:
        id: path of the directory; also the dataset's name.
        keys: columns `observation.…` to put together, in this order; () for all that are vectors, in alphabetical order.

    Raises:
        DatasetError: pyarrow is not installed, a table is damaged, a column is missing, or one of the keys is no vector.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DatasetError(f"dataset {id!r} is read with pyarrow, which is not installed: pip install 'diffrl[envs]'") from None
    files = sorted(Path(id).expanduser().glob("data/*/*.parquet"))
    if not files:
        raise DatasetError(f"dataset {id!r} is a LeRobot dataset without tables: there is no data/*/*.parquet. Fetch it anew")
    try:
        schema = pyarrow.parquet.read_schema(files[0])
        there = {name: _is_vector(schema.field(name).type) for name in schema.names if name.startswith(_PREFIX)}
        missing = [name for name in ("action", _EPISODE) if name not in schema.names]
        if missing:
            raise DatasetError(f"dataset {id!r} has no {' and no '.join(missing)}; there are {', '.join(schema.names)}")
        chosen = parts.choose(id, there, keys)
        wanted = [*chosen, *(name for name in (*_COLUMNS, _EPISODE) if name in schema.names)]
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(file, columns=wanted) for file in files])
        if not len(table):
            raise DatasetError(f"dataset {id!r} has no transitions")
        columns = {name: _decode(id, name, table[name].combine_chunks()) for name in wanted}
    except (OSError, pyarrow.ArrowException) as error:
        told = next((f"{file.name}: {why}" for file in files if (why := instead(file))), str(error).splitlines()[0])
        raise DatasetError(f"dataset {id!r} is damaged or incomplete ({told}): fetch it anew") from error
    episode = columns[_EPISODE].reshape(-1)
    arrays = {part: columns[name] for name, part in _COLUMNS.items() if name in columns}
    arrays["observation"], widths = parts.together({name: columns[name] for name in chosen})
    arrays["episode_start"] = np.append(True, episode[1:] != episode[:-1])
    source = from_arrays(**names.arguments(id, arrays), id=id)
    kept, rows = len(source.transitions.reward), len(episode)
    return source._replace(
        observation_keys=chosen,
        observation_parts=widths,
        description=f"LeRobot dataset, {len(files):,} tables, {kept:,} of {rows:,} rows, {parts.described(there, chosen)}",
    )


def _is_vector(type: Any) -> bool:
    import pyarrow.types as types

    lists = types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type)
    number = type.value_type if lists else type
    return types.is_integer(number) or types.is_floating(number) or types.is_boolean(number)


def _decode(id: str, name: str, column: Any) -> np.ndarray:
    """Numbers `[N]`, or lists of equal length `[N, n]`."""
    import pyarrow.compute

    if not hasattr(column.type, "value_type"):
        return column.to_numpy(zero_copy_only=False)
    lengths = pyarrow.compute.list_value_length(column)  # pyright: ignore[reportAttributeAccessIssue]
    if lengths.null_count or len(lengths.unique()) > 1:
        raise DatasetError(f"dataset {id!r}: {name} has rows of different lengths")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
