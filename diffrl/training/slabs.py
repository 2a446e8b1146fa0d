"""The rows that a training draws from, on the devices.

Data that fit into the devices' memory stay there whole. Larger data are shuffled into a file once and come from it in slabs: a
few hundred thousand rows at a time, of which the next is read while one is trained on.
"""

import dataclasses
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import ConfigError
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.training.devices import SHARED, place
from diffrl.training.memory import free_bytes, on_host, tree_bytes
from diffrl.training.workdir import WorkdirError

WHOLE = 0.5  # data that take less than this share of the memory stay on the devices whole
SLAB = 0.1  # share of the memory that one slab may take; for a moment there are three
LARGEST_SLAB = 2**22  # rows; training waits for the first slab, and longer for a larger one
BLOCK = 2**26  # bytes that are shuffled in memory at a time


def rows_per_slab(asked: int, dataset: Dataset, mesh: Mesh) -> int:
    """How many rows a slab has.

    Args:
        asked: the setting `dataset.slab_rows`; 0 leaves the choice to the sizes of data and memory.
        dataset: with all columns, or its shapes.
        mesh: the devices. A host's cores share its memory, accelerators have memory of their own.

    Returns:
        The number of rows; 0 where the data stay on the devices whole.
    """
    if asked:
        return asked if asked < dataset.size else 0
    free, copies = free_bytes(), mesh.size if on_host() else 1
    held = copies * tree_bytes(dataset)
    if held <= WHOLE * free:
        return 0
    return max(1, min(LARGEST_SLAB, int(SLAB * free / held * dataset.size)))


def open_rows(dataset: Dataset, algorithm: Algorithm, slab_rows: int, mesh: Mesh, directory: Path) -> "Whole | Slabs":
    """Put the rows, with the columns that the method derives from them, where chunks can draw from them.

    Args:
        dataset: in the host's memory.
        algorithm: whose columns they are.
        slab_rows: rows of a slab; 0 for all at once.
        mesh: the devices.
        directory: where the shuffled rows of slabs are written.

    Raises:
        ConfigError: a stage needs all rows at once.
        WorkdirError: the directory has no room.
    """
    if not slab_rows:
        return Whole(attach(dataset, algorithm.columns), mesh)
    check_slabs(algorithm, slab_rows, dataset)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        dataset = attach(dataset, algorithm.columns)
    dataset = dataclasses.replace(dataset, episode_start=None, episode_end=None)  # rows will not be in order of time
    return Slabs(dataset, slab_rows, mesh, directory)


def check_slabs(algorithm: Algorithm, slab_rows: int, dataset: Dataset) -> None:
    """That a method can draw from slabs of so many of the rows.

    Raises:
        ConfigError: a stage needs all rows at once, or they are a mix.
    """
    if dataset.shares:
        raise ConfigError(
            f"dataset.mix draws from all rows, so all must be on the device, and here they would come in slabs of {slab_rows:,}: "
            f"use fewer rows, or --config.dataset.slab_rows={dataset.size}"
        )
    for stage in algorithm.stages:
        if stage.prepare is not None or stage.batch is not None:
            why = "computes something of all rows before it starts" if stage.prepare else "draws from whole episodes"
            raise ConfigError(
                f"stage {stage.name!r} {why}, so all must be on the device, and here they would come in slabs of {slab_rows:,}: "
                f"use fewer rows, or --config.dataset.slab_rows={dataset.size}"
            )


class Whole:
    """All rows, on every device, for data that fit there. Has the methods of `Slabs`."""

    def __init__(self, dataset: Dataset, mesh: Mesh) -> None:
        self.dataset = place(dataset, mesh, SHARED)

    def begin(self, stage: Stage, per_chunk: int) -> None:
        """Do nothing: all stages draw from the same rows."""

    def at(self, update: int) -> Dataset:
        """The rows that an update draws from."""
        del update
        return self.dataset

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Slabs:
    """Rows shuffled once into a file, which is read from its start to its end again and again.

    Slab n holds the rows n·S … (n + 1)·S - 1 of the file, counted on from its start after its end. It is trained on for as many
    whole chunks as let a run draw about S rows. So all rows are equally likely, and which ones an update draws depends on its
    number alone. While a slab is trained on, the next one is read and sent to the devices.
    """

    def __init__(self, dataset: Dataset, rows: int, mesh: Mesh, directory: Path) -> None:
        """Shuffle the rows into a file.

        Args:
            dataset: in the host's memory.
            rows: S, of a slab.
            mesh: the devices that get the slabs.
            directory: where the file lies. It has no name there, so that it is gone when the process is.

        Raises:
            WorkdirError: the directory has no room.
        """
        self.rows, self.size, self.mesh = rows, dataset.size, mesh
        order = np.random.default_rng(0).permutation(dataset.size)
        try:
            self.shuffled = jax.tree.map(lambda x: _write(np.asarray(x), order, directory), dataset)
        except OSError as error:
            needed = tree_bytes(dataset) / 1e9
            raise WorkdirError(
                f"cannot write the shuffled data to {directory} ({error.strerror}): data too large for the devices' memory take "
                f"{needed:.3g} GB there while training runs. Make room, or use another --workdir"
            ) from error
        self.reader = ThreadPoolExecutor(1, "slabs")
        self.slabs: dict[int, Future[Dataset]] = {}

    def begin(self, stage: Stage, per_chunk: int) -> None:
        """Start with the first slab, for a new stage.

        Args:
            stage: what is trained.
            per_chunk: updates of a chunk; a slab serves whole chunks.
        """
        self.updates = per_chunk * max(1, self.rows // (stage.batch_size * per_chunk))
        self.slabs = {}

    def at(self, update: int) -> Dataset:
        """The rows that an update of the stage draws from, by its number in the stage; waits until they are on the devices."""
        number = update // self.updates
        self.slabs = {n: slab for n, slab in self.slabs.items() if n >= number}
        for n in (number, number + 1):
            if n not in self.slabs:
                self.slabs[n] = self.reader.submit(self._read, n)
        return self.slabs[number].result()

    def close(self) -> None:
        """Stop reading ahead."""
        self.reader.shutdown(cancel_futures=True)

    def _read(self, number: int) -> Dataset:
        first = number * self.rows % self.size
        beyond = max(0, first + self.rows - self.size)
        # A copy, so that it is here and now that the file is read.
        read: Any = jax.tree.map(lambda x: np.concatenate([x[first : first + self.rows], x[:beyond]]), self.shuffled)
        return jax.block_until_ready(place(read, self.mesh, SHARED))


def _write(rows: np.ndarray, order: np.ndarray, directory: Path) -> np.ndarray:
    """The rows in another order, in a file mapped into memory. Written, not mapped, so that a full disk is an error."""
    blocks = -(-rows.nbytes // BLOCK)
    with tempfile.TemporaryFile(dir=directory) as file:
        for index in np.array_split(order, blocks):
            file.write(np.ascontiguousarray(rows[index]).data)
        file.flush()
        return np.memmap(file, rows.dtype, "r", shape=rows.shape)
