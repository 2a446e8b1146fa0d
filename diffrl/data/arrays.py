"""Transitions given as arrays: the form that files of plain arrays are read into, and the door for data in memory."""

from typing import Any

import numpy as np

from diffrl.data.dataset import DatasetError, Rows, Source
from diffrl.data.env_id import env_spec_of


def from_arrays(
    *,
    observation: Any,
    action: Any,
    reward: Any,
    terminal: Any,
    timeout: Any = None,
    next_observation: Any = None,
    action_low: Any = -1.0,
    action_high: Any = 1.0,
    id: str = "in memory",
    env_id: str = "",
    description: str = "",
) -> Source:
    """Rows of any array library, episodes one after another, as a Source for `dataset.build` or `training.train`.

    Without `next_observation` the next observation is the following row's, and the last row of an episode that ended by
    timeout has none and is dropped, as in D4RL's `qlearning_dataset`; the row before it becomes the episode's last. A
    terminal row's next observation is then the first of the next episode: no bootstrap reads it, a model of the dynamics
    must leave it out. A terminal row at the very end repeats its own. One observation more than rows means a single
    episode with its final observation, of which nothing is dropped.

    Args:
        observation: `[N, O]`, or `[N + 1, O]` for one episode with its final observation.
        action: `[N, A]`, real numbers.
        reward: `[N]`.
        terminal: `[N]` of 0 and 1; cuts the bootstrap.
        timeout: `[N]` of 0 and 1; ends an episode without cutting the bootstrap. None for none. The last row ends in a
            timeout where it is not terminal.
        next_observation: `[N, O]`, or None.
        action_low, action_high: bounds, `[A]` or one number for all.
        id: name under which the data appear in `dataset.json`.
        env_id: gymnasium's name of the environment to evaluate in; empty for none.
        description: how the data were made.

    Raises:
        DatasetError: a shape does not fit, actions are integers, a flag is neither 0 nor 1, no row has a next
            observation, or gymnasium does not know `env_id`.
    """
    reward = numbers(id, "reward", reward, 1)
    if not len(reward):
        raise DatasetError(f"dataset {id!r} has no transitions")
    action = _array(id, "action", action)
    if action.dtype.kind in "biu":
        raise DatasetError(
            f"dataset {id!r}: actions are integers ({action.dtype}), that is discrete; only real-valued actions are supported"
        )
    observation, action = numbers(id, "observation", observation, 2), numbers(id, "action", action, 2)
    terminal = flags(id, "terminal", terminal)
    timeout = np.zeros(len(reward), bool) if timeout is None else flags(id, "timeout", timeout)
    final = next_observation is None and len(observation) == len(reward) + 1
    following = observation[1:] if final else observation
    for name, value in (("observation", following), ("action", action), ("terminal", terminal), ("timeout", timeout)):
        if len(value) != len(reward):
            raise DatasetError(f"dataset {id!r}: {name} has {len(value)} rows, reward {len(reward)}")
    if next_observation is not None:
        next_observation = numbers(id, "next_observation", next_observation, 2)
    elif final:
        if (terminal | timeout)[:-1].any():
            raise DatasetError(f"dataset {id!r}: one observation more than rows means one episode, but there are ends inside")
        observation, next_observation = observation[:-1], following
    if next_observation is None:
        rows = _shifted(id, observation, action, reward, terminal, timeout)
    else:
        rows = Rows(observation, action, reward, next_observation, terminal, timeout.copy())
    rows.timeout[-1] |= not rows.terminal[-1]
    return Source(
        transitions=rows,
        action_low=_bound(id, "action_low", action_low, action.shape[1]),
        action_high=_bound(id, "action_high", action_high, action.shape[1]),
        id=id,
        env_spec=env_spec_of(env_id) if env_id else None,
        description=description,
    )


def _shifted(
    id: str, observation: np.ndarray, action: np.ndarray, reward: np.ndarray, terminal: np.ndarray, timeout: np.ndarray
) -> Rows:
    """Rows whose next observation is the following row's, without those that have none."""
    following = np.concatenate([observation[1:], observation[-1:]])
    keep = ~timeout
    keep[-1] &= terminal[-1]
    if not keep.any():
        raise DatasetError(
            f"dataset {id!r}: no row has a next observation, since there is no next_observation array and every episode is one "
            "row long. Add next_observation"
        )
    cut = np.append(~keep[1:], False) & ~terminal
    return Rows(*(column[keep] for column in (observation, action, reward, following, terminal, cut)))


def numbers(id: str, name: str, value: Any, axes: int) -> np.ndarray:
    """A field as float32 with so many axes; what float32 cannot hold becomes infinite, which `dataset.build` refuses by row.

    Raises:
        DatasetError: the shape does not fit, or it holds no real numbers.
    """
    array = _array(id, name, value)
    if array.ndim > 2 and array.dtype == np.uint8:
        raise DatasetError(f"dataset {id!r}: {name} holds images of shape {array.shape[1:]}; only vectors are supported")
    if array.ndim != axes:
        form = "[rows, numbers]" if axes == 2 else "[rows]"
        raise DatasetError(f"dataset {id!r}: {name} has shape {array.shape}, expected {form}")
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"dataset {id!r}: {name} has type {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def flags(id: str, name: str, value: Any) -> np.ndarray:
    """A field `[N]` of 0 and 1 as booleans.

    Raises:
        DatasetError: the shape does not fit, or there is another value.
    """
    array = numbers(id, name, value, 1)
    if not np.isin(array, (0.0, 1.0)).all():
        raise DatasetError(f"dataset {id!r}: {name} must be 0 or 1 everywhere, found {array[~np.isin(array, (0.0, 1.0))][0]:g}")
    return array > 0.5


def _array(id: str, name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"dataset {id!r}: {name} is no array ({error})") from None


def _bound(id: str, name: str, value: Any, action_dim: int) -> np.ndarray:
    array = _array(id, name, value)
    if array.shape not in ((), (action_dim,)):
        raise DatasetError(f"dataset {id!r}: {name} has shape {array.shape}, expected one number or {action_dim}")
    array = numbers(id, name, array, array.ndim)
    return np.broadcast_to(array, (action_dim,)).copy()
