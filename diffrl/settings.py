"""Ranges of settings, stated beside the setting they belong to."""

import dataclasses
from typing import Any

RANGE = "range"
LARGEST_FLOAT = 3.4e38  # that float32 holds
LARGEST_INT = 1_000_000  # of what nothing else is said: widths, batches, steps of a sampler


def setting(default: Any, *, low: int | float | None = None, high: int | float | None = None) -> Any:
    """A dataclass field with a default and the range its numbers must lie in; `config.validate` refuses others by name.

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
