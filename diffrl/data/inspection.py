"""What is in a dataset: facts of its rows, counted. Whether they are well is said elsewhere."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffrl.data import episodes
from diffrl.data.build import TOLERANCE, ActionBounds, action_bounds
from diffrl.data.dataset import Source
from diffrl.data.episodes import Ends, Rows

_COLUMNS = ("observation", "action", "reward", "next_observation", "terminal", "timeout")
_LARGEST = float(np.finfo(np.float32).max)  # what is beyond is not finite in training
AT_BOUND = 0.99  # of the way from the middle of the bounds


class Field(NamedTuple):
    """One field of the rows, column by column; a field `[N]` has one. Statistics are of the finite numbers, nan where none is.

    Attributes:
        shape, dtype: as the loader gives it.
        low, high, mean, std: of each column, float64.
        bad: how many numbers of each column are not finite as float32.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]
    mean: Float[np.ndarray, " columns"]
    std: Float[np.ndarray, " columns"]
    bad: Int[np.ndarray, " columns"]

    @property
    def constant(self) -> list[int]:
        """Columns that hold one number."""
        return np.flatnonzero((self.low == self.high) & (self.bad == 0)).tolist()


class Actions(NamedTuple):
    """Actions against their bounds; nothing is counted of discrete ones.

    Attributes:
        low, high: bounds, empty for discrete actions.
        known: whether data or environment say them, or they are only taken to be -1 and 1.
        beyond: rows with a number outside, which clipping would change.
        whole: whether all numbers are integers.
        at_bound: share of all numbers that lie at a bound or beyond.
        reach: of each column the part of its bounds that the data span.
    """

    low: np.ndarray
    high: np.ndarray
    known: bool
    beyond: int
    whole: bool
    at_bound: float
    reach: np.ndarray


class Facts(NamedTuple):
    """What is in a dataset.

    Attributes:
        fields: `observation, action, reward, next_observation, terminal, timeout`.
        actions: against their bounds.
        duplicates: rows of which there is another before them, equal in all but the timeout, which a loader may have set.
        lengths: rows of each episode that is left.
        returns: of each episode as recorded.
        has_rewards: False where no rewards were recorded, and those of the rows stand for none.
        terminals, timeouts: ends of either kind.
        full: terminals that end an episode of the most rows any has.
        goes_on: terminal rows whose next observation is the following row's; None where that is no finding, since next
            observations were taken from there.
        ends: what the loader found where episodes end.
    """

    fields: dict[str, Field]
    actions: Actions
    duplicates: int
    lengths: Int[np.ndarray, " episodes"]
    returns: Float[np.ndarray, " episodes"]
    has_rewards: bool
    terminals: int
    timeouts: int
    full: int
    goes_on: int | None
    ends: Ends

    @property
    def rows(self) -> int:
        return self.fields["reward"].shape[0]


def inspect(source: Source, bounds: ActionBounds = "known") -> Facts:
    """Count what is in the rows of a source, in blocks, so that large data are never copied whole.

    Args:
        source: rows as a loader gives them.
        bounds: of actions, as in `build.Transforms`.

    Raises:
        DatasetError: its bounds of actions are none.
    """
    rows, ends = source.transitions, source.recorded.ends
    stops = episodes.ends(rows)
    terminal = np.flatnonzero(np.asarray(rows.terminal)[:-1])
    meet = ~episodes.jumps(rows.observation, rows.next_observation)[terminal] if ends.own_next and len(terminal) else terminal[:0]
    lengths = np.diff(stops, prepend=0)
    return Facts(
        fields={name: _field(name, np.asarray(getattr(rows, name))) for name in _COLUMNS},
        actions=_actions(source, bounds),
        duplicates=_duplicates(rows),
        lengths=lengths,
        returns=source.recorded.returns,
        has_rewards=source.has_rewards,
        terminals=int(np.sum(rows.terminal)),
        timeouts=int(np.sum(rows.timeout)),
        full=int(np.sum(rows.terminal[stops - 1] & (lengths == lengths.max()))),
        goes_on=int(meet.sum()) if ends.own_next else None,
        ends=ends,
    )


def _field(name: str, value: np.ndarray) -> Field:
    width = value.size // len(value)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    total, squares, count = np.zeros(width), np.zeros(width), np.zeros(width, np.int64)
    first = value[0].reshape(-1).astype(np.float64)
    origin = np.where(np.abs(first) <= _LARGEST, first, 0.0)  # sums of numbers of one large offset keep their digits
    for numbers in _columns(value):
        finite = np.abs(numbers) <= _LARGEST
        low = np.minimum(low, np.where(finite, numbers, np.inf).min(axis=1))
        high = np.maximum(high, np.where(finite, numbers, -np.inf).max(axis=1))
        offset = np.where(finite, numbers - origin[:, None], 0.0)
        total, squares, count = total + offset.sum(axis=1), squares + np.square(offset).sum(axis=1), count + finite.sum(axis=1)
    known, several = count > 0, np.maximum(count, 1)
    mean = total / several
    std = np.sqrt(np.maximum(squares / several - mean**2, 0.0))
    return Field(
        name=name,
        shape=value.shape,
        dtype=str(value.dtype),
        low=np.where(known, low, np.nan),
        high=np.where(known, high, np.nan),
        mean=np.where(known, origin + mean, np.nan),
        std=np.where(known, std, np.nan),
        bad=len(value) - count,
    )


def _columns(value: np.ndarray) -> Iterator[Float[np.ndarray, "columns rows"]]:
    """Rows in blocks, each column by itself: reducing many short rows takes numpy ten times as long."""
    for block in episodes.blocks(len(value)):
        yield np.ascontiguousarray(value[block].reshape(len(value[block]), -1).T, np.float64)


def _actions(source: Source, bounds: ActionBounds) -> Actions:
    if source.discrete:
        nothing = np.zeros(0)
        return Actions(nothing, nothing, source.num_actions > 0, 0, True, 0.0, nothing)
    action, (low, high, unknown) = source.transitions.action, action_bounds(source, bounds)
    middle, half = (high + low)[:, None] / 2, (high - low)[:, None] / 2
    least, most = np.full((2, len(low)), np.nan)
    outside, at_bound, whole = 0, 0, True
    for numbers in _columns(action):
        away = np.abs(numbers - middle)
        outside += int((away > half * (1 + 2 * TOLERANCE)).any(axis=0).sum())
        at_bound += int((away >= AT_BOUND * half).sum())
        whole = whole and bool((numbers == np.round(numbers)).all())
        least, most = np.fmin(least, np.fmin.reduce(numbers, axis=1)), np.fmax(most, np.fmax.reduce(numbers, axis=1))
    known, reach = bounds == "data" or not unknown, (most - least) / (high - low)
    return Actions(low, high, known, outside, whole, at_bound / action.size, reach)


def _duplicates(rows: Rows) -> int:
    """By the 64 bits of a hash of each row's bytes: of 10^7 different rows two share theirs with a chance of 3e-6."""
    hashes = np.empty(len(rows.reward), np.int64)
    for block in episodes.blocks(len(hashes)):
        wide = np.concatenate([np.asarray(value[block]).reshape(len(value[block]), -1) for value in rows[:-1]], axis=1)
        whole = wide.view(np.dtype((np.void, wide.strides[0]))).ravel().tolist()
        hashes[block] = np.fromiter(map(hash, whole), np.int64, len(whole))
    hashes.sort()
    return int((hashes[1:] == hashes[:-1]).sum())
