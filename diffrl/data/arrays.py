"""Transitions given as arrays: the form that files of plain arrays are read into, and the door for data in memory."""

from typing import Any

import numpy as np

from diffrl.data.dataset import DatasetError, Source
from diffrl.data.env_id import env_spec_of
from diffrl.data.episodes import recorded


def from_arrays(
    *,
    observation: Any,
    action: Any,
    reward: Any = None,
    terminal: Any = None,
    timeout: Any = None,
    next_observation: Any = None,
    action_low: Any = None,
    action_high: Any = None,
    num_actions: Any = 0,
    id: str = "in memory",
    env_id: str = "",
    description: str = "",
) -> Source:
    """Rows of any array library, episodes one after another, as a Source for `build.build` or `training.train`.

    `episodes.recorded` says where episodes end and which rows are kept. Without `next_observation` the next observation is
    the following row's, and the last row of an episode that ended by timeout has none and is dropped, as in D4RL's
    `qlearning_dataset`. A terminal row's next observation is then the first of the next episode: no bootstrap reads it, a
    model of the dynamics must leave it out. One observation more than rows means a single episode with its final
    observation, of which nothing is dropped.

    Args:
        observation: `[N, O]`, or `[N + 1, O]` for one episode with its final observation.
        action: `[N, A]`, real numbers; or `[N]` or `[N, 1]`, integers from 0 on, which stand for discrete actions.
        reward: `[N]`; None for data that only imitation can learn from.
        terminal: `[N]` of 0 and 1; cuts the bootstrap. None for none.
        timeout: `[N]` of 0 and 1; ends an episode without cutting the bootstrap. None for none. The last row ends in a
            timeout where it is not terminal.
        next_observation: `[N, O]`, or None. Where it is not the following row's an episode ends.
        action_low, action_high: bounds, `[A]` or one number for all; None for those of the environment, and -1 and 1 where there
            is none.
        num_actions: how many discrete actions there are; 0 for as many as the environment has, or as many as occur.
        id: name under which the data appear in `dataset.json`.
        env_id: gymnasium's name of the environment to evaluate in; empty for none.
        description: how the data were made.

    Raises:
        DatasetError: a shape does not fit, a flag is neither 0 nor 1, no row has a next observation, or gymnasium does not know
            `env_id`.
    """
    observation, action, rewarded = observations(id, "observation", observation), actions(id, action), reward is not None
    reward = numbers(id, "reward", reward, 1) if rewarded else np.zeros(len(action), np.float32)
    if not len(reward):
        raise DatasetError(f"dataset {id!r} has no transitions")
    if action.dtype.kind == "i" and not (action_low is None and action_high is None):
        raise DatasetError(f"dataset {id!r}: integers are discrete actions and have no bounds: give real numbers, or no bounds")
    count = _count(id, num_actions)
    if count and action.dtype.kind != "i":
        raise DatasetError(f"dataset {id!r}: num_actions is of discrete actions, that is integers, and these are real numbers")
    if (action_low is None) != (action_high is None):
        raise DatasetError(f"dataset {id!r}: of action_low and action_high only one is there")
    terminal, timeout = (
        np.zeros(len(reward), bool) if value is None else flags(id, name, value)
        for name, value in (("terminal", terminal), ("timeout", timeout))
    )
    final = next_observation is None and len(observation) == len(reward) + 1
    following = observation[1:] if final else observation
    for name, value in (("observation", following), ("action", action), ("terminal", terminal), ("timeout", timeout)):
        if len(value) != len(reward):
            raise DatasetError(f"dataset {id!r}: {name} has {len(value)} rows, reward {len(reward)}")
    if next_observation is not None:
        next_observation = observations(id, "next_observation", next_observation)
        if len(next_observation) != len(reward):
            raise DatasetError(
                f"dataset {id!r}: next_observation has shape {next_observation.shape} where reward has {len(reward)} rows"
            )
        if next_observation.shape != observation.shape:
            raise DatasetError(
                f"dataset {id!r}: observation {observation.shape} and next_observation {next_observation.shape} differ"
            )
    elif final:
        if (terminal | timeout)[:-1].any():
            raise DatasetError(f"dataset {id!r}: one observation more than rows means one episode, but there are ends inside")
        observation, next_observation = observation[:-1], following
    found = recorded(observation, action, reward, terminal, timeout, next_observation)
    if not len(found.rows.reward):
        raise DatasetError(
            f"dataset {id!r}: no row has a next observation, since there is no next_observation array and every episode is one "
            "row long. Add next_observation"
        )
    return Source(
        recorded=found,
        id=id,
        action_low=_bound(id, "action_low", action_low, action.shape[1]),
        action_high=_bound(id, "action_high", action_high, action.shape[1]),
        num_actions=count,
        has_rewards=rewarded,
        env_spec=env_spec_of(env_id) if env_id else None,
        description=description,
    )


def observations(id: str, name: str, value: Any) -> np.ndarray:
    """A field `[N, O]` as float32, or as float64 where that holds more of its digits.

    Raises:
        DatasetError: the shape does not fit, or it holds no real numbers.
    """
    return _numbers(id, name, value, 2, precise=True)


def actions(id: str, value: Any) -> np.ndarray:
    """Actions `[N, A]` as float32, or discrete ones `[N, 1]` as int64.

    Raises:
        DatasetError: the shape does not fit, or they are neither real numbers nor one integer a row.
    """
    array = _array(id, "action", value)
    if array.dtype.kind not in "biu":
        return numbers(id, "action", array, 2)
    if array.shape not in ((len(array),), (len(array), 1)) if array.ndim else True:
        raise DatasetError(
            f"dataset {id!r}: actions are integers ({array.dtype}), that is discrete, of shape {array.shape}, expected [rows] or "
            "[rows, 1]: give real numbers where they are numbers"
        )
    return array.reshape(-1, 1).astype(np.int64)


def numbers(id: str, name: str, value: Any, axes: int) -> np.ndarray:
    """A field as float32 with so many axes; what float32 cannot hold becomes infinite, which `build.build` refuses by row.

    Raises:
        DatasetError: the shape does not fit, or it holds no real numbers.
    """
    return _numbers(id, name, value, axes)


def _numbers(id: str, name: str, value: Any, axes: int, precise: bool = False) -> np.ndarray:
    array = _array(id, name, value)
    if array.ndim > 2 and array.dtype == np.uint8:
        raise DatasetError(f"dataset {id!r}: {name} holds images of shape {array.shape[1:]}; only vectors are supported")
    if array.ndim != axes:
        form = "[rows, numbers]" if axes == 2 else "[rows]"
        raise DatasetError(f"dataset {id!r}: {name} has shape {array.shape}, expected {form}")
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"dataset {id!r}: {name} has type {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        wide = precise and np.promote_types(array.dtype, np.float32) != np.float32
        return np.ascontiguousarray(array, np.float64 if wide else np.float32)


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


def _count(id: str, value: Any) -> int:
    array = _array(id, "num_actions", value)
    if array.ndim or array.dtype.kind not in "iu" or array < 0:
        raise DatasetError(f"dataset {id!r}: num_actions must be a number of actions, got {array.tolist()!r}")
    return int(array)


def _bound(id: str, name: str, value: Any, action_dim: int) -> np.ndarray | None:
    if value is None:
        return None
    array = _array(id, name, value)
    if array.shape not in ((), (action_dim,)):
        raise DatasetError(f"dataset {id!r}: {name} has shape {array.shape}, expected one number or {action_dim}")
    array = numbers(id, name, array, array.ndim)
    return np.broadcast_to(array, (action_dim,)).copy()
