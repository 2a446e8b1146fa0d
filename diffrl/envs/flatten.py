"""Observations as one vector of numbers, by one rule for the loader and the evaluator.

Box: ravelled in C order. Dict: its selected keys concatenated in the order given; without a selection,
("observation", "desired_goal") where the space has those and "achieved_goal" (the convention of goal-conditioned
environments; the achieved goal repeats part of the observation), and all keys in alphabetical order, gymnasium's own,
otherwise. A Dict inside another space contributes all its keys alphabetically. Tuple: its parts in order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


class FlattenError(ValueError):
    """The observations cannot become one vector of numbers; the message says why."""


def select_keys(space: Any, requested: tuple[str, ...] | None = None) -> tuple[str, ...] | None:
    """Keys of `space` to concatenate, in order; None for a Box or a Tuple.

    Args:
        space: gymnasium observation space.
        requested: the user's choice, or None for the default. A space without keys is one vector already.

    Raises:
        FlattenError: a requested key does not exist, or the space is no Box and no Dict or Tuple of such.
    """
    if not isinstance(getattr(space, "spaces", None), Mapping):
        _check(space, "observation")
        return None
    available = sorted(space.spaces)
    if requested:
        missing = [key for key in requested if key not in space.spaces]
        if missing:
            raise FlattenError(f"no observation key {', '.join(map(repr, missing))}; there are {', '.join(available)}")
        keys = tuple(requested)
    else:
        keys = ("observation", "desired_goal") if set(GOAL_KEYS) <= set(available) else tuple(available)
    if not keys:
        raise FlattenError("the observation is a Dict without keys")
    for key in keys:
        _check(space.spaces[key], key)
    return keys


def flatten(observation: Any, keys: tuple[str, ...] | None) -> Float[np.ndarray, "batch observation"]:
    """Batched observations (arrays, or nested dicts and tuples of arrays `[batch, ...]`) as one matrix.

    Float32, or float64 where a part of them holds more digits than float32 does.

    Raises:
        FlattenError: they hold something else than real numbers.
    """
    if keys is None:
        return _flatten_value(observation)
    return np.concatenate([_flatten_value(observation[key]) for key in keys], axis=1)


def flatten_one(observation: Any, keys: tuple[str, ...] | None) -> Float[np.ndarray, " observation"]:
    """One observation (array, or nested dicts and tuples of arrays) as one float32 vector."""
    parts = [observation] if keys is None else [observation[key] for key in keys]
    return np.concatenate([_flatten_value(part, batched=False) for part in parts], dtype=np.float32, casting="same_kind")


def parts_of(space: Any, keys: tuple[str, ...] | None) -> tuple[tuple[str, int], ...]:
    """Name and width of what `select_keys` chose of a space, in order; empty where nothing has a name."""
    return tuple((key, width(space.spaces[key])) for key in keys or ())


def width(space: Any) -> int:
    """How many numbers a space of Box, and Dict and Tuple of Box, has."""
    parts = getattr(space, "spaces", None)
    if parts is None:
        return int(np.prod(space.shape))
    return sum(width(part) for part in (parts.values() if isinstance(parts, Mapping) else parts))


def _flatten_value(value: Any, batched: bool = True) -> np.ndarray:
    if isinstance(value, Mapping):
        return np.concatenate([_flatten_value(value[key], batched) for key in sorted(value)], axis=-1)
    if isinstance(value, tuple):
        return np.concatenate([_flatten_value(part, batched) for part in value], axis=-1)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise FlattenError(f"observations of type {array.dtype} are no real numbers")
    wide = np.promote_types(array.dtype, np.float32) != np.float32
    flat = array.reshape((len(array), array[0].size if len(array) else 0) if batched else (-1,))
    return flat.astype(np.float64 if wide else np.float32)


def _check(space: Any, name: str) -> None:
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping | tuple) and not parts:
        raise FlattenError(f"{name} is an empty {type(space).__name__}")
    if isinstance(parts, Mapping):
        for key, value in parts.items():
            _check(value, f"{name}.{key}")
    elif isinstance(parts, tuple):
        for i, value in enumerate(parts):
            _check(value, f"{name}[{i}]")
    else:
        _check_box(space, name)


def _check_box(space: Any, name: str) -> None:
    # Named by its class so that reading this module does not import gymnasium.
    if type(space).__name__ != "Box":
        raise FlattenError(f"{name} is a {type(space).__name__} space; only Box, and Dict and Tuple of Box, can be flattened")
    if len(space.shape) >= 3 and space.dtype == np.uint8:
        raise FlattenError(f"{name} is an image of shape {space.shape}; only vectors of numbers can be flattened")
