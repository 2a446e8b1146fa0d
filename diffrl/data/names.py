"""What people call the parts of a transition in files of arrays, and what their flags mean."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffrl.data.arrays import flags
from diffrl.data.dataset import DatasetError

# The first is ours. `done` and `episode_start` mark episodes without saying how they ended.
NAMES: dict[str, tuple[str, ...]] = {
    "observation": ("observation", "observations", "obs"),
    "action": ("action", "actions", "acts"),
    "reward": ("reward", "rewards", "rews"),
    "next_observation": ("next_observation", "next_observations", "next_obs"),
    "terminal": ("terminal", "terminals", "terminated", "terminations"),
    "timeout": ("timeout", "timeouts", "truncated", "truncations"),
    "done": ("done", "dones"),
    "episode_start": ("episode_start", "episode_starts"),
}
_ENDS = ("terminal", "timeout", "done", "episode_start", "next_observation")


def recognised(id: str, there: Iterable[str]) -> dict[str, str]:
    """Of the names in a file those that stand for a part of a transition: {part: name}.

    Raises:
        DatasetError: two stand for the same part, observations or actions are missing, or nothing says where episodes end.
    """
    there = sorted(there)
    found: dict[str, str] = {}
    for part, names in NAMES.items():
        known = [name for name in names if name in there]
        if len(known) > 1:
            raise DatasetError(f"dataset {id!r} has both {known[0]} and {known[1]}, and either would be the {part}: drop one")
        if known:
            found[part] = known[0]
    listed = ", ".join(there[:20]) or "nothing"
    missing = [f"{part} ({', '.join(NAMES[part][1:])})" for part in ("observation", "action") if part not in found]
    if missing:
        raise DatasetError(f"dataset {id!r} has no {' and no '.join(missing)}; there are {listed}")
    if not any(part in found for part in _ENDS):
        raise DatasetError(
            f"dataset {id!r} does not say where its episodes end: add terminals, timeouts, episode_starts or next_observations; "
            f"there are {listed}"
        )
    return found


def arguments(id: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What `arrays.from_arrays` is to be given, from arrays by the names of their parts.

    A `done` row that is no timeout is terminal; where terminals are known too, one that is not terminal is a timeout. An episode
    that ends where the next one starts, and that nothing calls terminal, was cut. Rewards and flags may be columns `[N, 1]`.

    Raises:
        DatasetError: a flag is neither 0 nor 1, or flags have different lengths.
    """
    given = dict(arrays)
    for part in ("reward", "terminal", "timeout", "done", "episode_start"):
        if np.shape(given.get(part, ()))[1:] == (1,):
            given[part] = np.asarray(given[part])[:, 0]
    done, start = (_flag(id, part, given.pop(part, None)) for part in ("done", "episode_start"))
    if done is None and start is None:
        return given
    rows = next(len(flag) for flag in (done, start) if flag is not None)
    none = np.zeros(rows, bool)
    terminal, timeout = (none if (flag := _flag(id, part, given.get(part))) is None else flag for part in ("terminal", "timeout"))
    for part, flag in (("episode_start", start), ("terminal", terminal), ("timeout", timeout)):
        if flag is not None and len(flag) != rows:
            raise DatasetError(f"dataset {id!r}: {part} has {len(flag)} rows, another flag of episodes {rows}")
    if done is not None and given.get("terminal") is not None:
        timeout = timeout | (done & ~terminal)
    elif done is not None:
        terminal = done & ~timeout
    if start is not None:
        timeout = timeout | (np.append(start[1:], False) & ~terminal)
    return given | {"terminal": terminal, "timeout": timeout}


def _flag(id: str, part: str, value: Any) -> Bool[np.ndarray, " rows"] | None:
    return None if value is None else flags(id, part, value)
