"""What a recipe is: a value that says how a machine without a network makes one dataset."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from diffrl.errors import UserError


class RecipeError(UserError, RuntimeError):
    """A recipe could not make its data; the message says why and what to do."""


class Shard(NamedTuple):
    """A unit of parallel work: `work(*arguments, *paths of its needs)` gives arrays by name.

    Attributes:
        name: of its file.
        rows: data rows it makes, of validation too; 0 for reference episodes and trainings.
        work, arguments: a function of a module and what it is called with.
        needs: work that several datasets build on (a behaviour policy's training). Its arrays are stored once, beside the
            datasets, and stay there.
        note: what the user is told while a need is worked on.
    """

    name: str
    rows: int
    work: Callable[..., dict[str, np.ndarray]]
    arguments: tuple[Any, ...]
    needs: tuple["Shard", ...] = ()
    note: str = ""


class Product(NamedTuple):
    """What a recipe makes of its shards: the arguments of `minari.create_dataset_from_buffers`, and more metadata.

    `episodes` holds per episode observations, actions, rewards, terminations and truncations, and so does `validation`, which
    becomes a dataset of its own. `reference` are the returns that count as 0 and 100, None where returns are no score.
    """

    episodes: list[dict[str, Any]]
    env: Any
    eval_env: Any
    metadata: dict[str, Any]
    reference: tuple[float, float] | None
    reference_source: str
    description: str
    requirements: list[str]
    validation: tuple[dict[str, Any], ...] = ()


# (where, and how the names begin; seed; rows; arrays by shard name) -> the files written, the one to name first.
Write = Callable[[Path, int, int, dict[str, dict[str, np.ndarray]]], list[Path]]


class Cost(NamedTuple):
    """What a recipe's data cost, as measured on one machine: what to expect of another.

    Attributes:
        rows_per_second: simulated and stored in Minari's form, of one core's processor time.
        bytes_per_row: on disk, in Minari's form.
        once_seconds: of one core's processor time, for the work that all datasets of a task share.
    """

    rows_per_second: float
    bytes_per_row: float
    once_seconds: float = 0.0


class Recipe(NamedTuple):
    """How to make one dataset.

    Attributes:
        name: also the dataset's id, after "diffrl/". What stands before its first "/" is the family it is listed under.
        summary: one line for --list.
        rows: default number of transitions.
        shards: (seed, rows) -> units of work, none of which depends on another or on where it runs.
        assemble: (seed, rows, arrays by shard name) -> Product.
        fingerprint: () -> versions that the rows depend on; finished shards of others are not reused.
        extra: the extra of this package that brings what the recipe needs.
        formats: other forms than Minari's in which the rows can be stored, by name.
        cost: for --list; None where it is not listed.
    """

    name: str
    summary: str
    rows: int
    shards: Callable[[int, int], list[Shard]]
    assemble: Callable[[int, int, dict[str, dict[str, np.ndarray]]], Product]
    fingerprint: Callable[[], str]
    extra: str = "envs"
    formats: Mapping[str, Write] = MappingProxyType({})
    cost: Cost | None = None

    @property
    def dataset_id(self) -> str:
        return f"diffrl/{self.name}"

    @property
    def family(self) -> str:
        return self.name.split("/", 1)[0]


def split_episodes(rows: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Transitions `[rows, ...]`, an end at each terminal or timeout, as `Product.episodes`."""
    episodes, first = [], 0
    for last in (np.flatnonzero(rows["terminal"] | rows["timeout"]) + 1).tolist():
        observations = np.concatenate([rows["observation"][first:last], rows["next_observation"][last - 1 : last]])
        episodes.append(
            {
                "observations": observations,
                "actions": rows["action"][first:last],
                "rewards": rows["reward"][first:last],
                "terminations": rows["terminal"][first:last],
                "truncations": rows["timeout"][first:last],
            }
        )
        first = last
    return episodes
