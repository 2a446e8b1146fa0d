"""Ranges of settings, stated beside the setting they belong to."""

import dataclasses
from typing import Any

RANGE = "range"


def setting(default: Any, *, low: float = 0.0, high: float | None = None) -> Any:
    """A dataclass field with a default and the range its numbers must lie in; `config.validate` refuses others by name.

    Args:
        default: the value, a number or a tuple of numbers.
        low, high: least and largest value allowed; None for what its type can hold.
    """
    return dataclasses.field(default=default, metadata={RANGE: (low, high)})
