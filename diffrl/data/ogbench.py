"""OGBench's arrays (Park et al. 2025): which rows are transitions, and which of their flags cut the bootstrap."""

from typing import Any

import numpy as np

from diffrl.data.arrays import flags, numbers
from diffrl.data.dataset import DatasetError

# Arrays that OGBench's files have and files of plain transitions have not.
_MARKS = frozenset({"masks", "valids", "qpos", "qvel"})


def recognise(names: set[str]) -> bool:
    """Whether a file with these arrays is OGBench's: in it `terminals` ends trajectories but is no terminal state."""
    return bool(_MARKS & names) and not {"timeout", "timeouts"} & names


def arguments(id: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `arrays.from_arrays` is to be given.

    `terminals` ends a trajectory as a timeout does. Only `masks`, which the single-task environments add (0 at success),
    cuts the bootstrap; the data go on after a success, so that from there on another episode is counted. Three layouts,
    those of `ogbench.utils.load_dataset`: a file as downloaded, whose last row of each trajectory holds only its final
    observation and is dropped; the regular form, with `next_observations`; the compact form, where `valids` is 0 in that
    last row.

    Raises:
        DatasetError: there are no rewards, or another array is missing.
    """
    missing = [name for name in ("observations", "actions", "terminals") if name not in arrays]
    if missing:
        raise DatasetError(f"dataset {id!r} has no {', '.join(missing)}; there are {', '.join(sorted(arrays))}")
    if "rewards" not in arrays:
        raise DatasetError(
            f"dataset {id!r} is an OGBench file without rewards. OGBench computes them for its single tasks: save what "
            "ogbench.make_env_and_datasets('…-singletask-v0') returns with numpy.savez(path, **train_dataset), and name that file"
        )
    reward, masks, valids = numbers(id, "rewards", arrays["rewards"], 1), arrays.get("masks"), arrays.get("valids")
    return {
        "observation": arrays["observations"],
        "action": arrays["actions"],
        "reward": reward,
        "terminal": np.zeros(len(reward)) if masks is None else ~flags(id, "masks", masks),
        # The compact form also sets `terminals` in the row before a trajectory's last.
        "timeout": arrays["terminals"] if valids is None else ~flags(id, "valids", valids),
        "next_observation": arrays.get("next_observations"),
    }
