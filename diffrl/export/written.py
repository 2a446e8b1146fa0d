"""What an exporter gives back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffrl.export.description import Operation, Tensor


class Written(NamedTuple):
    """A policy in one format, checked, not yet on disk.

    Attributes:
        files: their contents by name, the policy's first.
        inputs, outputs, difference, versions, operations: see `Description`.
        once: acts in one environment by what was read back from the contents.
    """

    files: Mapping[str, bytes]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    difference: float
    versions: dict[str, str]
    once: Callable[[], Any]
    operations: tuple[Operation, ...] = ()
