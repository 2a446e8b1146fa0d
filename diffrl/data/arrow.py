"""Episodes of Minari's Arrow and Parquet storages, whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


class Episode(NamedTuple):
    """The fields of Minari's EpisodeData that a loader needs: T + 1 observations, T of everything else."""

    id: int
    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def episodes(storage: Any) -> Iterator[Episode]:
    """Episodes of a `minari` ArrowStorage in order, for Box, Dict and Tuple observations and Box or Discrete actions.

    Not read through Minari 0.5: its reader takes the first 32,767 rows of a longer episode for the whole, and fails on
    infos of one number per step.

    Raises:
        Exception: of whatever kind pyarrow finds for a damaged file.
    """
    import pyarrow.dataset

    for id in range(storage.total_episodes):
        table = pyarrow.dataset.dataset(
            Path(storage.data_path) / str(id), format=storage.FORMAT, ignore_prefixes=["_", ".", "metadata.json"]
        ).to_table(columns=list(_FIELDS))
        columns = {name: table[name].combine_chunks() for name in _FIELDS}
        # All columns have a row for the last observation, which took no step.
        steps = len(table) - 1
        yield Episode(
            id,
            _decode(storage.observation_space, columns["observations"]),
            _decode(storage.action_space, columns["actions"])[:steps],
            *(columns[name].to_numpy(zero_copy_only=False)[:steps] for name in _FIELDS[2:]),
        )


def _decode(space: Any, values: Any) -> Any:
    # Named by their classes so that reading this module does not import gymnasium.
    if type(space).__name__ == "Dict":
        return {name: _decode(part, values.field(name)) for name, part in space.spaces.items()}
    if type(space).__name__ == "Tuple":
        return tuple(_decode(part, values.field(str(i))) for i, part in enumerate(space.spaces))
    if type(space).__name__ == "Discrete":
        return values.to_numpy(zero_copy_only=False)
    return values.flatten().to_numpy(zero_copy_only=False).reshape(-1, *space.shape)
