"""How batches are drawn from a Dataset: the usual values of `Stage.batch`.

Pure functions of a dataset, a key and a size; randomness is counted by whoever makes the key. What they ask of a dataset is its
`size`, rows by index, and the bounds of a row's episode, so a buffer that grows gives the same.
"""

from typing import Protocol, runtime_checkable

import jax

from diffrl.data.dataset import Dataset
from diffrl.types import Key, Transition


@runtime_checkable
class BatchFn(Protocol):
    """A batch `[B, ...]` per field, drawn with this key from the dataset and its columns."""

    def __call__(self, dataset: Dataset, key: Key, batch_size: int) -> Transition: ...


def uniform(dataset: Dataset, key: Key, batch_size: int) -> Transition:
    """Transitions drawn uniformly with replacement."""
    return dataset[jax.random.randint(key, (batch_size,), 0, dataset.size)]
