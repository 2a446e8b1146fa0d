"""Types and ranges of settings, stated beside the setting they belong to, and their checking."""

import dataclasses
import difflib
import sys
import types
import typing
from typing import Any, Literal

from diffrl.errors import UserError

RANGE = "range"
LARGEST_FLOAT = 3.4e38  # that float32 holds
LARGEST_INT = 1_000_000  # of what nothing else is said: widths, batches, steps of a sampler


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or impossible; the message says which and what would do."""


def setting(default: Any, *, low: int | float | None = None, high: int | float | None = None) -> Any:
    """A dataclass field with a default and the range its numbers must lie in; `check_settings` refuses others by name.

    A field without this has the range of its kind: floats are finite and not negative, whole numbers 1 … 1,000,000.

    Args:
        default: the value, a number or a tuple of numbers.
        low, high: least and largest value allowed; None for those of the kind. `low=-math.inf` allows all negative floats.
    """
    return dataclasses.field(default=default, metadata={RANGE: (low, high)})


def range_of(field: dataclasses.Field, value: int | float) -> tuple[int | float, int | float]:
    """Least and largest value of a field that holds a number of this kind."""
    low, high = field.metadata.get(RANGE, (None, None))
    least, most = (0.0, LARGEST_FLOAT) if isinstance(value, float) else (1, LARGEST_INT)
    return least if low is None else low, most if high is None else high


def check_settings(holder: Any, prefix: str) -> None:
    """Every value is of its declared type, whichever way it came in, and every number in its range.

    Args:
        holder: a dataclass of settings, which may hold others.
        prefix: of its fields' names in messages.

    Raises:
        ConfigError: names the setting, its value and what would do.
    """
    hints = types_of(holder)
    for field in dataclasses.fields(holder):
        name, value, hint = prefix + field.name, getattr(holder, field.name), hints[field.name]
        if dataclasses.is_dataclass(value) and (hint is Any or isinstance(value, hint)):
            check_settings(value, f"{name}.")
            continue
        value = coerce(value, hint, name)
        for i, number in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(f"{name}[{i}]" if isinstance(value, tuple) else name, number, *range_of(field, number))


def _check_range(name: str, value: int | float, low: int | float, high: int | float) -> None:
    if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        raise ConfigError(f"{name} must be finite in float32, got {value}")
    if value < low:
        raise ConfigError(f"{name} must be at least {low:,}, got {value}")
    if value > high:
        raise ConfigError(f"{name} must be at most {high:,}, got {value}")


def types_of(holder: Any) -> dict[str, Any]:
    """Declared types of a dataclass's fields by name."""
    return {field.name: field.type for field in dataclasses.fields(holder)}


def coerce(value: Any, hint: Any, name: str) -> Any:
    """The value as its declared type: JSON gives lists for tuples and may give ints for floats; everything else must match.

    Raises:
        ConfigError: it does not; `name` is what the message calls the setting.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return coerce(value, option, name)
            except ConfigError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(coerce(item, typing.get_args(hint)[0], name) for item in value)
    elif hint is float:
        if isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max):
            return float(value)
    elif hint is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if value in (known := typing.get_args(hint)):
            return value
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise ConfigError(f"{name} {value!r} is unknown; {hint}")
    elif type(value) is hint:
        return value
    raise ConfigError(f"{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")
