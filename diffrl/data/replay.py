"""The second source of batches: a buffer of a run's own transitions, on the device, that grows inside the compiled chunk.

Counts are of the loop, not of the buffer, and equal in all runs: under `vmap` an insertion stays one slice.
On disk a buffer is what was inserted between two checkpoints, a file each, so that no transition is saved twice.
"""

import dataclasses
import re
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffrl.data.columns import ColumnsFn
from diffrl.data.dataset import Dataset
from diffrl.types import Key, Transition

_FILE = re.compile(r"(\d+)-(\d+)\.npy")


class ReplayError(RuntimeError):
    """A saved buffer is missing or incomplete; the message says what to do."""


@flax.struct.dataclass
class Replay:
    """Rings of the last `capacity` transitions of each of a run's `E` environments, packed as a Dataset's rows."""

    rows: Float[Array, "*runs envs capacity packed"]
    observation_dim: int = flax.struct.field(pytree_node=False)
    action_dim: int = flax.struct.field(pytree_node=False)

    @classmethod
    def empty(cls, num_envs: int, capacity: int, observation_dim: int, action_dim: int) -> "Replay":
        return cls(jnp.zeros((num_envs, capacity, 2 * observation_dim + action_dim + 3)), observation_dim, action_dim)

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
        at = (jnp.zeros_like(count), count % self.capacity, jnp.zeros_like(count))
        return dataclasses.replace(self, rows=jax.lax.dynamic_update_slice(self.rows, row, at))

    def draw(
        self, key: Key, count: Int[Array, ""], batch_size: int, columns: ColumnsFn | None = None, lookahead: int = 1
    ) -> Transition:
        """A batch drawn uniformly with replacement from the last `count` transitions of each environment that are still here.

        Args:
            columns: derived from each row and the `lookahead` - 1 rows after it, as from the last rows of a dataset: the newest
                transition ends what is known of its episode without ending it.
        """
        env_key, age_key = jax.random.split(key)
        stored = jnp.minimum(count, self.capacity)
        env = jax.random.randint(env_key, (batch_size, 1), 0, self.rows.shape[0])
        age = jax.random.randint(age_key, (batch_size, 1), 0, stored) + jnp.arange(lookahead)
        rows = self.rows[env, (count - stored + jnp.minimum(age, stored - 1)) % self.capacity]  # [B, lookahead, packed]
        if columns is None:
            return self._dataset(rows[:, 0])[:]
        rows = rows.at[..., -1].max((age >= stored - 1).astype(rows.dtype))

        def first(window: Array) -> Transition:
            dataset = self._dataset(window)
            derived = {name: column[0] for name, column in columns(dataset).items()}
            return dataclasses.replace(dataset[jnp.int32(0)], extras=derived)

        return jax.vmap(first)(rows)

    def _dataset(self, rows: Array) -> Dataset:
        return Dataset(rows, observation_dim=self.observation_dim, action_dim=self.action_dim)


def save_rows(path: Path, rows: Float[Array, "runs envs capacity packed"], start: int, stop: int) -> None:
    """Write what was inserted at counts `start` … `stop` - 1, of all runs; of more than the capacity what is left of it."""
    capacity = rows.shape[-2]
    start = max(start, stop - capacity)
    slots = np.arange(start, stop) % capacity
    new = np.asarray(rows[:, :, slots])
    path.mkdir(parents=True, exist_ok=True)
    temporary = path / f".{start}-{stop}.tmp"
    with temporary.open("wb") as file:
        np.save(file, new, allow_pickle=False)
    temporary.replace(path / f"{start:012d}-{stop:012d}.npy")


def load_rows(path: Path, stop: int, capacity: int | None = None) -> Float[np.ndarray, "runs envs steps packed"]:
    """Saved transitions up to count `stop`, in order of time.

    Args:
        capacity: of the buffer they are for; what it had forgotten between checkpoints may be missing. None: nothing may.

    Raises:
        ReplayError: a part is missing or damaged.
    """
    files = {}
    for file in sorted(path.glob("*.npy")) if path.is_dir() else []:
        match = _FILE.fullmatch(file.name)
        if match is not None:
            files[int(match[2])] = (int(match[1]), file)
    parts, at = [], stop
    while at > 0 and at in files:
        at, file = files[at]
        try:
            parts.insert(0, np.load(file, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise ReplayError(f"{file} is damaged ({error}): it cannot be resumed; use another --workdir") from error
    if at > 0 and (capacity is None or stop - at < capacity):
        raise ReplayError(f"{path} has no transitions before {at:,}, of {stop:,}: it cannot be resumed; use another --workdir")
    return np.concatenate(parts, axis=2)


def restored(
    empty: Float[Array, "runs envs capacity packed"], path: Path, stop: int
) -> Float[Array, "runs envs capacity packed"]:
    """The rings as they were after `stop` insertions."""
    if stop == 0:
        return empty
    capacity = empty.shape[-2]
    saved = load_rows(path, stop, capacity)
    kept = min(saved.shape[2], capacity)
    rows = np.zeros(empty.shape, np.float32)
    rows[:, :, np.arange(stop - kept, stop) % capacity] = saved[:, :, saved.shape[2] - kept :]
    return jnp.asarray(rows)
