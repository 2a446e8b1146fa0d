"""What ends an episode, decided here for every source of data: raw rows in the host's memory, in order of time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# Of a jump: IQL's code (Kostrikov et al. 2021) cuts D4RL's rows where observations differ by more.
TOLERANCE = 1e-6
_BLOCK = 2**16  # rows looked at together, so that large data are never copied whole


class Rows(NamedTuple):
    """Raw transitions as a loader finds them: a Transition's fields as numpy arrays `[N, ...]`.

    Actions are real numbers `[N, A]`, or integers `[N, 1]` where they are discrete. Shapes and values are not to be trusted
    before `dataset.build` has checked them.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray


class Recorded(NamedTuple):
    """Rows in which every end of an episode has a flag, and the returns `[episodes]` (float64) before any row was dropped."""

    rows: Rows
    returns: Float[np.ndarray, " episodes"]


def recorded(
    observation: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminal: np.ndarray,
    timeout: np.ndarray,
    next_observation: np.ndarray | None = None,
) -> Recorded:
    """Rows cut into episodes.

    An episode ends after a terminal, after a timeout, at a jump (the next observation is not the following row's), and with the
    data. A row that is terminal is no timeout; jumps and the end of the data become timeouts.

    Without `next_observation` the next observation is the following row's. The last row of an episode that was cut has none
    and is dropped, and the row before it is marked as cut in its place. A terminal row needs none and is kept: what stands there
    is the first of the next episode, or at the end of the data its own.

    Args:
        observation: `[N, O]`.
        action: `[N, A]`, or integers `[N, 1]`.
        reward: `[N]`.
        terminal, timeout: `[N]` booleans.
        next_observation: `[N, O]`, or None.
    """
    cut = timeout | jumps(observation, next_observation) if next_observation is not None else timeout.copy()
    cut[-1] = True
    cut &= ~terminal
    returns = returns_of(reward, terminal | cut)
    if next_observation is not None:
        return Recorded(Rows(observation, action, reward, next_observation, terminal, cut), returns)
    following = np.concatenate([observation[1:], observation[-1:]])
    keep = ~cut
    cut = np.append(cut[1:], False) & ~terminal
    return Recorded(Rows(*(x[keep] for x in (observation, action, reward, following, terminal, cut))), returns)


def selected(found: Recorded, first: int, count: int, every: int) -> Recorded:
    """Some of the episodes, and of their rows every so many.

    Rows with others left out between them do not meet: each is an episode's piece of its own, that is a timeout unless terminal.
    Returns are those of the chosen episodes, before any row of theirs is left out.

    Args:
        found: rows whose ends have flags.
        first, count: which episodes, in order of time; a count of 0 takes all from the first on.
        every: the first row of an episode is kept and each so many rows on.

    Raises:
        ValueError: there are fewer episodes.
    """
    stop = ends(found.rows)
    start = np.append(0, stop[:-1])
    last = first + (count or max(len(stop) - first, 1))
    if last > len(stop):
        raise ValueError(f"there are {len(stop)} episodes, asked for those up to {last}")
    chosen = slice(start[first], stop[last - 1])
    rows = Rows(*(column[chosen] for column in found.rows))
    begin = np.repeat(start[first:last], (stop - start)[first:last]) - start[first]
    kept = (np.arange(len(begin)) - begin) % every == 0
    thinned = Rows(*(column[kept] for column in rows))
    returns = returns_of(rows.reward, rows.terminal | rows.timeout)
    return Recorded(thinned if every == 1 else thinned._replace(timeout=~thinned.terminal), returns)


def jumps(
    observation: Float[np.ndarray, "rows observation"], next_observation: Float[np.ndarray, "rows observation"]
) -> Bool[np.ndarray, " rows"]:
    """Whether the next observation of a row is not the following row's; no row follows the last, and none is a jump there.

    Numbers are equal up to `TOLERANCE`, those beyond ±1 up to that share of them: together, by the norm of the differences.
    """
    found = np.zeros(len(observation), bool)
    for rows in blocks(len(observation) - 1):
        with np.errstate(over="ignore", invalid="ignore"):  # `dataset.build` says which values are not finite
            after = observation[1:][rows]
            off = (next_observation[:-1][rows] - after) / np.maximum(1.0, np.abs(after))
            found[:-1][rows] = ~(np.linalg.norm(off, axis=1) <= TOLERANCE)
    return found


def ends(rows: Rows) -> Int[np.ndarray, " episodes"]:
    """Index one past the last row of every episode, of rows whose ends have flags."""
    found = np.flatnonzero(np.asarray(rows.terminal) | np.asarray(rows.timeout)) + 1
    n = len(rows.reward)
    return found if len(found) and found[-1] == n else np.append(found, n)


def bounds(rows: Rows) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """For each row where its episode begins, and one past where it ends, int32; of rows whose ends have flags."""
    stop = ends(rows).astype(np.int32)
    start = np.append(np.int32(0), stop[:-1])
    return np.repeat(start, stop - start), np.repeat(stop, stop - start)


def returns_of(reward: Float[np.ndarray, " rows"], end: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " episodes"]:
    """Undiscounted sum of rewards of each episode, float64; `end` marks last rows, the data's last among them."""
    first = np.append(0, np.flatnonzero(end)[:-1] + 1)
    return np.add.reduceat(np.asarray(reward, np.float64), first)


def blocks(rows: int) -> Iterator[slice]:
    """Slices that cover so many rows."""
    return (slice(first, first + _BLOCK) for first in range(0, rows, _BLOCK))
