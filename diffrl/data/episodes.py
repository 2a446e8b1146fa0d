"""What ends an episode, decided here for every source of data: raw rows in the host's memory, in order of time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# Of a jump: IQL's code (Kostrikov et al. 2021) cuts D4RL's rows where observations differ by more.
TOLERANCE = 1e-6
_BLOCK = 2**16  # rows looked at together, so that large data are never copied whole


class Rows(NamedTuple):
    """Raw transitions as a loader finds them: a Transition's fields as numpy arrays `[N, ...]`.

    Actions are real numbers `[N, A]`, or integers `[N, 1]` where they are discrete. Shapes and values are not to be trusted
    before `build.build` has checked them.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray


class Stretches(NamedTuple):
    """Rewards in order of time, before any row was dropped, and where nothing goes on from a row to the next.

    A stretch ends with a terminal and where the environment was set to another state. A timeout after which the state goes on, as
    in D4RL's maze2d, where it says that the target moved, ends an episode of the data but no stretch.

    Attributes:
        reward, terminal: `[recorded]`.
        last: `[recorded]`, whether the row is the last of a stretch.
    """

    reward: np.ndarray
    terminal: np.ndarray
    last: np.ndarray


class Ends(NamedTuple):
    """What was found where episodes end, for reports on the data.

    Attributes:
        both: rows flagged as terminal and as timeout, which are terminal.
        unflagged: ends without a flag, where observations do not meet.
        dropped: rows that had no next observation.
        own_next: whether next observations came with the rows; otherwise they are the following rows'.
    """

    both: int = 0
    unflagged: int = 0
    dropped: int = 0
    own_next: bool = True


class Recorded(NamedTuple):
    """Rows in which every end of an episode has a flag, and the returns `[episodes]` (float64) before any row was dropped.

    `stretches` are None where they are not known: such data are not compared with episodes of an evaluation.
    """

    rows: Rows
    returns: Float[np.ndarray, " episodes"]
    stretches: Stretches | None = None
    ends: Ends = Ends()


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
    both = int((terminal & timeout).sum())
    cut, unflagged = timeout.copy(), 0
    if next_observation is not None:
        cut |= jumps(observation, next_observation)
        unflagged = int((cut & ~timeout & ~terminal).sum())
    cut[-1] = True
    cut &= ~terminal
    returns = returns_of(reward, terminal | cut)
    stretches = Stretches(reward, terminal, terminal | (cut & ~_goes_on(observation, next_observation, cut)))
    if next_observation is not None:
        return Recorded(
            Rows(observation, action, reward, next_observation, terminal, cut), returns, stretches, Ends(both, unflagged)
        )
    following = np.concatenate([observation[1:], observation[-1:]])
    keep = ~cut
    cut = np.append(cut[1:], False) & ~terminal
    rows = Rows(*(x[keep] for x in (observation, action, reward, following, terminal, cut)))
    return Recorded(rows, returns, stretches, Ends(both, dropped=int((~keep).sum()), own_next=False))


def joined(parts: Sequence[Recorded]) -> Recorded:
    """What several recordings have, one after another."""
    rows = Rows(*map(np.concatenate, zip(*(part.rows for part in parts), strict=True)))
    known = [part.stretches for part in parts if part.stretches is not None]
    stretches = Stretches(*map(np.concatenate, zip(*known, strict=True))) if len(known) == len(parts) else None
    both, unflagged, dropped, own_next = zip(*(part.ends for part in parts), strict=True)
    ends = Ends(sum(both), sum(unflagged), sum(dropped), all(own_next))
    return Recorded(rows, np.concatenate([part.returns for part in parts]), stretches, ends)


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
    if len(found.returns) == len(stop):
        returns = found.returns[first:last]
    else:  # there are episodes of which no row was kept
        returns = returns_of(rows.reward, rows.terminal | rows.timeout)
    return Recorded(thinned if every == 1 else thinned._replace(timeout=~thinned.terminal), returns, ends=found.ends)


def jumps(
    observation: Float[np.ndarray, "rows observation"], next_observation: Float[np.ndarray, "rows observation"]
) -> Bool[np.ndarray, " rows"]:
    """Whether the next observation of a row is not the following row's; no row follows the last, and none is a jump there.

    Numbers are equal up to `TOLERANCE`, those beyond ±1 up to that share of them: together, by the norm of the differences.
    """
    found = np.zeros(len(observation), bool)
    for rows in blocks(len(observation) - 1):
        found[:-1][rows] = ~_meets(next_observation[:-1][rows], observation[1:][rows])
    return found


def _goes_on(observation: np.ndarray, next_observation: np.ndarray | None, cut: np.ndarray) -> np.ndarray:
    """Of rows that are cut `[N]`, whether the next is seen in the same state: the one they led to, or once more their own."""
    found, at = np.zeros(len(cut), bool), np.flatnonzero(cut[:-1])
    for rows in blocks(len(at)):
        here = at[rows]
        after = observation[here + 1]
        found[here] = _meets(observation[here], after)
        if next_observation is not None:
            found[here] |= _meets(next_observation[here], after)
    return found


def _meets(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether rows of observations are equal up to `TOLERANCE`."""
    with np.errstate(over="ignore", invalid="ignore"):  # `build.build` says which values are not finite
        return np.linalg.norm((one - other) / np.maximum(1.0, np.abs(other)), axis=1) <= TOLERANCE


def as_evaluated(stretches: Stretches, steps: int) -> Float[np.ndarray, " episodes"]:
    """Returns as an environment counts them that stops after `steps`: of so many consecutive rows, or of those up to a terminal.

    What is left of a stretch, fewer rows without a terminal, is no such episode. Where more than half of the rows are left, the
    others say little about the data, and there are none.
    """
    n = len(stretches.reward)
    first = np.append(0, np.flatnonzero(stretches.last[:-1]) + 1)
    length = np.diff(np.append(first, n))
    begin = np.flatnonzero((np.arange(n) - np.repeat(first, length)) % steps == 0)
    length = np.diff(np.append(begin, n))
    whole = (length == steps) | stretches.terminal[begin + length - 1]
    if 2 * length[whole].sum() < n:
        return np.zeros(0)
    return np.add.reduceat(np.asarray(stretches.reward, np.float64), begin)[whole]


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
