"""OGBench's arrays (Park et al. 2025): which rows are transitions, and which of their flags cut the bootstrap."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffrl.data.arrays import flags
from diffrl.data.dataset import DatasetError


def recognise(names: set[str]) -> bool:
    """Whether a file with these arrays is OGBench's: in it `terminals` ends trajectories but is no terminal state.

    Its own are `masks`, `valids`, and as downloaded the simulator's states without any reward.
    """
    if {"timeout", "timeouts"} & names:
        return False
    downloaded = bool({"qpos", "qvel"} & names) and not {"reward", "rewards"} & names
    return downloaded or bool({"masks", "valids"} & names)


def arguments(id: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What `arrays.from_arrays` is to be given.

    `terminals` ends a trajectory as a timeout does. Only `masks`, which the single-task environments add (0 at success),
    cuts the bootstrap; the data go on after a success, so that from there on another episode is counted. Three layouts,
    those of `ogbench.utils.load_dataset`: the regular form, with `next_observations`; the compact form, where a row whose
    `valids` is 0 holds only the final observation of a trajectory; and a file as downloaded, where the row whose `terminals`
    is 1 does. Rows that hold only an observation are no steps, and their rewards are not counted. Files as downloaded have no
    rewards until a task gives them (`ogbench_tasks.labelled`).

    Raises:
        DatasetError: an array is missing.
    """
    missing = [name for name in ("observations", "actions", "terminals") if name not in arrays]
    if missing:
        raise DatasetError(f"dataset {id!r} has no {', '.join(missing)}; there are {', '.join(sorted(arrays))}")
    given = {name: arrays[f"{name}s"] for name in ("observation", "action")}
    end = flags(id, "terminals", arrays["terminals"])
    if "rewards" in arrays:
        given["reward"] = arrays["rewards"]
    given["terminal"] = ~flags(id, "masks", arrays["masks"]) if "masks" in arrays else np.zeros(len(end), bool)
    if "next_observations" in arrays:
        return given | {"timeout": end, "next_observation": arrays["next_observations"]}
    final = ~flags(id, "valids", arrays["valids"]) if "valids" in arrays else end
    for name, value in given.items():
        if np.shape(value)[:1] != final.shape:
            raise DatasetError(f"dataset {id!r}: {name} has shape {np.shape(value)} where {len(final)} rows are flagged")
    step = np.flatnonzero(~final[:-1])
    following = given["observation"][step + 1]
    return {name: value[step] for name, value in given.items()} | {"timeout": final[step + 1], "next_observation": following}
