"""The second source of batches: a buffer of a run's own transitions, on the device, that grows inside the compiled chunk.

Counts are of the loop, not of the buffer, and equal in all runs: under `vmap` an insertion of rows stays one slice.
On disk a buffer is what was inserted between two checkpoints, a file each, so that no transition is saved twice.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffrl import files
from diffrl.data.columns import ColumnsFn
from diffrl.data.dataset import Dataset
from diffrl.errors import UserError
from diffrl.types import Transition

_FILE = re.compile(r"(\d+)-(\d+)\.npy")


class ReplayError(UserError, RuntimeError):
    """A saved buffer is missing or incomplete; the message says what to do."""


@flax.struct.dataclass
class Episodes:
    """Where the episodes of a ring begin: what `Replay` keeps where batches are drawn from whole episodes.

    Episodes are numbered in the order in which an environment has them. An episode ends where the next one begins, so two
    entries of `began` say all of it; of those in the ring no two share an entry, since each has a row there.

    Attributes:
        number: of the episode that each row belongs to, in the row's place.
        began: the count at which an episode began, at its number modulo the capacity.
    """

    number: Int[Array, "*runs envs capacity"]
    began: Int[Array, "*runs envs capacity"]


@flax.struct.dataclass
class Replay:
    """Rings of the last `capacity` transitions of each of a run's `E` environments, packed as a Dataset's rows.

    `episodes` is None where nobody asks for them.
    """

    rows: Float[Array, "*runs envs capacity packed"]
    episodes: Episodes | None
    observation_dim: int = flax.struct.field(pytree_node=False)
    action_dim: int = flax.struct.field(pytree_node=False)

    @classmethod
    def empty(cls, num_envs: int, capacity: int, observation_dim: int, action_dim: int, episodes: bool = False) -> "Replay":
        """Rings of zeros; with `episodes` they keep account of where episodes begin."""
        rows = jnp.zeros((num_envs, capacity, 2 * observation_dim + action_dim + 3))
        number, began = jnp.zeros((2, num_envs, capacity), jnp.int32)
        return cls(rows, Episodes(number, began) if episodes else None, observation_dim, action_dim)

    @property
    def capacity(self) -> int:
        return self.rows.shape[-2]

    def insert(self, transition: Transition, count: Int[Array, ""]) -> "Replay":
        """With one more transition of each environment `[E, ...]`, after `count` of them."""
        columns = [
            transition.observation,
            transition.action,
            transition.next_observation,
            transition.reward[:, None],
            transition.terminal[:, None],
            transition.timeout[:, None],
        ]
        row = jnp.concatenate([jnp.asarray(column, jnp.float32) for column in columns], axis=-1)[:, None]
        # A literal 0 keeps its own type, and the indices of a slice must have one.
        at, zero = count % self.capacity, jnp.zeros_like(count)
        rows = jax.lax.dynamic_update_slice(self.rows, row, (zero, at, zero))
        if self.episodes is None:
            return dataclasses.replace(self, rows=rows)
        before = (count - 1) % self.capacity
        flags = jax.lax.dynamic_index_in_dim(self.rows, before, axis=1, keepdims=False)[:, -2:]
        begins = (count == 0) | jnp.any(flags > 0.5, axis=-1)
        last = jax.lax.dynamic_index_in_dim(self.episodes.number, before, axis=1, keepdims=False)
        number = jnp.where(count == 0, 0, last + begins)
        number_at = (jnp.arange(len(number)), number % self.capacity)
        began = self.episodes.began.at[number_at].set(jnp.where(begins, count, self.episodes.began[number_at]))
        numbers = jax.lax.dynamic_update_slice(self.episodes.number, number[:, None], (zero, at))
        return dataclasses.replace(self, rows=rows, episodes=Episodes(numbers, began))

    def dataset(
        self,
        count: Int[Array, ""],
        columns: ColumnsFn | None = None,
        lookahead: int = 1,
        before: Dataset | None = None,
        share: float | None = None,
    ) -> "Experience":
        """What is still here of `count` transitions of each environment, as a Dataset.

        Args:
            count: how many were inserted.
            columns: derived from each row and the `lookahead` - 1 rows after it, as from the last rows of a dataset: the newest
                transition ends what is known of its episode without ending it.
            before: rows that come first, with their columns: those of training on a dataset.
            share: of the draws, that they get; None for all rows alike.
        """
        stored, shares = jnp.minimum(count, self.capacity), ()
        if before is not None and share is not None:
            shares = ((before.size, share), (len(self.rows) * stored, 1.0 - share))
        return Experience(
            self.rows.reshape(-1, self.rows.shape[-1]),
            self.observation_dim,
            self.action_dim,
            replay=self,
            count=count,
            stored=stored,
            shares=shares,
            derive=columns,
            lookahead=lookahead,
            before=before,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)  # pyright: ignore[reportGeneralTypeIssues]
class Experience(Dataset):
    """A buffer as a Dataset, made anew inside the program for each batch: rows by index, and the bounds of their episodes.

    Rows are numbered in order of time, environment by environment, after those of `before`; `size` is a traced number. An
    episode whose beginning was overwritten begins at the oldest row that is left, and the newest row ends what is known of its
    episode. `rows` are the rings', one after another.

    Attributes:
        stored: transitions of each environment that are still here.
        replay, count, derive, lookahead, before: see `Replay.dataset`.
    """

    replay: Replay
    count: Int[Array, ""]
    stored: Int[Array, ""]
    derive: ColumnsFn | None
    lookahead: int
    before: Dataset | None

    @property
    def size(self) -> Int[Array, ""]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._first + len(self.replay.rows) * self.stored

    def __getitem__(self, index: Int[Array, "*batch"]) -> Transition:  # pyright: ignore[reportIncompatibleMethodOverride]
        recent = self._recent(jnp.maximum(index - self._first, 0))
        if self.before is None:
            return recent
        return self._either(index, self.before[jnp.minimum(index, self._first - 1)], recent)

    def episode_of(self, index: Int[Array, "*batch"]) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
        """Where the episodes of these rows begin, and one past where they end.

        Raises:
            ValueError: the buffer, or the data before it, keep no account of episodes.
        """
        episodes = self.replay.episodes
        if episodes is None:
            raise ValueError("this buffer keeps no account of episodes: Replay.empty(..., episodes=True) makes one that does")
        capacity = self.replay.capacity
        env, age = jnp.divmod(jnp.maximum(index - self._first, 0), self.stored)
        number = episodes.number[env, self._slot(age)]
        newest = episodes.number[env, (self.count - 1) % capacity]
        oldest = self.count - self.stored
        start = jnp.maximum(episodes.began[env, number % capacity] - oldest, 0)
        end = jnp.where(number == newest, self.stored, episodes.began[env, (number + 1) % capacity] - oldest)
        base = self._first + env * self.stored
        if self.before is None:
            return base + start, base + end
        return self._either(index, self.before.episode_of(jnp.minimum(index, self._first - 1)), (base + start, base + end))

    @property
    def _first(self) -> int:
        """The number of the buffer's first row."""
        return 0 if self.before is None else self.before.size

    def _slot(self, age: Array) -> Array:
        return (self.count - self.stored + age) % self.replay.capacity

    def _either(self, index: Array, old: Any, recent: Any) -> Any:
        def choose(old: Array, recent: Array) -> Array:
            return jnp.where((index < self._first).reshape(*index.shape, *[1] * (recent.ndim - index.ndim)), old, recent)

        return jax.tree.map(choose, old, recent)

    def _recent(self, index: Array) -> Transition:
        env, age = jnp.divmod(index, self.stored)
        if self.derive is None:
            return super().__getitem__(env * self.replay.capacity + self._slot(age))
        derive, ahead = self.derive, age[..., None] + jnp.arange(self.lookahead)
        known = jnp.minimum(ahead, self.stored - 1)
        rows = self.rows[env[..., None] * self.replay.capacity + self._slot(known)]
        rows = rows.reshape(-1, *rows.shape[-2:])  # [batch, lookahead, packed]

        def derived(window: Array, newest: Array) -> dict[str, Array]:
            window = window.at[:, -1].max(newest.astype(window.dtype))
            return {name: column[0] for name, column in derive(self._of(window)).items()}

        extras = jax.vmap(derived)(rows, (ahead >= self.stored - 1).reshape(rows.shape[:2]))
        found = dataclasses.replace(self._of(rows[:, 0])[:], extras=extras)
        return jax.tree.map(lambda x: x.reshape(*index.shape, *x.shape[1:]), found)

    def _of(self, rows: Array) -> Dataset:
        return Dataset(rows, observation_dim=self.observation_dim, action_dim=self.action_dim)


def save_rows(path: Path, rows: Float[Array, "runs envs capacity packed"], start: int, stop: int) -> None:
    """Write what was inserted at counts `start` … `stop` - 1, of all runs; of more than the capacity what is left of it."""
    capacity = rows.shape[-2]
    start = max(start, stop - capacity)
    slots = np.arange(start, stop) % capacity
    new = np.asarray(rows[:, :, slots])
    _write(path / f"{start:012d}-{stop:012d}.npy", new)


def load_rows(path: Path, stop: int, capacity: int | None = None) -> Float[np.ndarray, "runs envs steps packed"]:
    """Saved transitions up to count `stop`, in order of time.

    Args:
        capacity: of the buffer they are for; what it had forgotten between checkpoints may be missing. None: nothing may.

    Raises:
        ReplayError: a part is missing or damaged.
    """
    found = {}
    for file in sorted(path.glob("*.npy")) if path.is_dir() else []:
        match = _FILE.fullmatch(file.name)
        if match is not None:
            found[int(match[2])] = (int(match[1]), file)
    parts, at = [], stop
    while at > 0 and at in found:
        at, file = found[at]
        try:
            parts.insert(0, np.load(file, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise ReplayError(f"{file} is damaged ({error}): it cannot be resumed; use another --workdir") from error
    if not parts or (at > 0 and (capacity is None or stop - at < capacity)):
        raise ReplayError(f"{path} has no transitions before {at:,}, of {stop:,}: it cannot be resumed; use another --workdir")
    return np.concatenate(parts, axis=2)


def restored(empty: Replay, path: Path, stop: int) -> Replay:
    """The rings of all runs `[R, ...]` as they were after `stop` insertions; `empty` tells their sizes."""
    if stop == 0:
        return empty
    capacity = empty.capacity
    saved = load_rows(path, stop, capacity)
    kept = min(saved.shape[2], capacity)
    slots, newest = np.arange(stop - kept, stop) % capacity, saved[:, :, saved.shape[2] - kept :]
    rows = np.zeros(empty.rows.shape, np.float32)
    rows[:, :, slots] = newest
    if empty.episodes is None:
        return dataclasses.replace(empty, rows=jnp.asarray(rows))
    # Numbered anew from the oldest row that is left: what came before it is not asked for any more.
    ended = (newest[:, :, :-1, -2:] > 0.5).any(axis=-1)
    number, began = np.zeros((2, *empty.rows.shape[:-1]), np.int32)
    numbers = np.concatenate([np.zeros((*ended.shape[:2], 1), np.int32), np.cumsum(ended, axis=2, dtype=np.int32)], axis=2)
    number[:, :, slots] = numbers
    began[:, :, 0] = stop - kept
    run, env, row = np.nonzero(ended)
    began[run, env, numbers[run, env, row + 1]] = stop - kept + row + 1
    return dataclasses.replace(empty, rows=jnp.asarray(rows), episodes=Episodes(jnp.asarray(number), jnp.asarray(began)))


def give_up_episodes(path: Path, stop: int) -> None:
    """Note on disk that no episode goes on after count `stop`: the newest transitions are terminals or become timeouts.

    For simulators whose state is not saved: the episodes under way end there, and nothing may be learnt across.
    """
    for file in path.glob(f"*-{stop:012d}.npy"):
        rows = np.load(file, allow_pickle=False)
        rows[:, :, -1, -1] = rows[:, :, -1, -2] < 0.5
        _write(file, rows)


def _write(path: Path, rows: np.ndarray) -> None:
    files.write(path, lambda file: np.save(file, rows, allow_pickle=False), path.parents[1])
