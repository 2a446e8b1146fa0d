"""What a recipe is: a value that says how a machine without a network makes one dataset."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Shard(NamedTuple):
    """A unit of parallel work: `work(*arguments)` gives arrays by name."""

    name: str
    rows: int  # data rows it makes; 0 for reference episodes
    work: Callable[..., dict[str, np.ndarray]]
    arguments: tuple[Any, ...]


class Product(NamedTuple):
    """What a recipe makes of its shards: the arguments of `minari.create_dataset_from_buffers`, and more metadata.

    `episodes` holds per episode observations, actions, rewards, terminations and truncations.
    """

    episodes: list[dict[str, Any]]
    env: Any
    eval_env: Any
    metadata: dict[str, Any]
    reference: tuple[float, float]
    reference_source: str
    description: str
    requirements: list[str]


class Recipe(NamedTuple):
    """How to make one dataset.

    Attributes:
        name: also the dataset's id, after "diffrl/".
        summary: one line for --list.
        rows: default number of transitions.
        shards: (seed, rows) -> units of work, none of which depends on another or on where it runs.
        assemble: (seed, rows, arrays by shard name) -> Product.
        fingerprint: () -> versions that the rows depend on; finished shards of others are not reused.
    """

    name: str
    summary: str
    rows: int
    shards: Callable[[int, int], list[Shard]]
    assemble: Callable[[int, int, dict[str, dict[str, np.ndarray]]], Product]
    fingerprint: Callable[[], str]

    @property
    def dataset_id(self) -> str:
        return f"diffrl/{self.name}"
