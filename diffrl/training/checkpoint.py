"""Checkpoints: items `state`, `policy` and `metadata` per step, asynchronous and atomic. The only file that imports orbax."""

import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax import Array

from diffrl import files, records
from diffrl.errors import UserError
from diffrl.records import Natural
from diffrl.types import Policy, State

# orbax numbers the saves of a process, and a save that begins beside another may take its number and wait for it for ever.
_BEGINNING = threading.Lock()


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, cannot be read or cannot be written; the message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """The training that another one started from (`training/init_from.py`): fields of its State, after so many updates."""

    workdir: str
    step: Natural
    fields: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training was when a checkpoint was saved.

    Attributes:
        step: updates of every run, over all stages; online, steps of the environment after these.
        stage, stage_index, num_stages: where among the stages that was.
        rows: of each run, its row in the saved states: equal runs share one.
        diverged, dropped: by run, the step at which it stopped.
        slab_rows: rows on a device at a time (`training/slabs.py`); 0 for all.
        init_from: what it started from, if not from fresh networks.
        checksums: of the arrays of each item, by path.
    """

    step: Natural
    stage: str
    stage_index: Natural
    num_stages: Natural
    rows: tuple[Natural, ...] = ()
    diverged: dict[Natural, Natural] = dataclasses.field(default_factory=dict)
    dropped: dict[Natural, Natural] = dataclasses.field(default_factory=dict)
    slab_rows: Natural = 0
    init_from: Origin | None = None
    checksums: dict[str, dict[str, Natural]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows and len(set(self.rows)) != max(self.rows) + 1:
            raise ValueError("rows leaves out rows of the saved states")
        if self.rows and (unknown := [run for run in (*self.diverged, *self.dropped) if run >= len(self.rows)]):
            raise ValueError(f"run {unknown[0]} stopped, and there are {len(self.rows)} runs")


class Checkpoints:
    """The checkpoints of one workdir.

    A step appears under its final name only once it is whole: a process killed inside a save leaves a temporary folder
    that no reader takes for a checkpoint and the next writer removes. What is read is compared with checksums taken of the
    arrays before they were written. Nothing is ever unpickled: arrays come as arrays, the rest as JSON.
    """

    def __init__(self, workdir: Path, *, write: bool = False, max_to_keep: int = 0) -> None:
        """Open for reading, or with `write` for saving as well.

        Args:
            workdir: the training directory; checkpoints lie in its folder `checkpoints`.
            max_to_keep: number of latest steps kept when writing; 0 keeps all.

        Raises:
            CheckpointError: opened for reading where nothing was saved.
        """
        _ignore_late_completions()
        _expect_readers()
        self.path = Path(workdir).absolute() / "checkpoints"
        if not write and not self.path.is_dir():
            raise CheckpointError(f"{workdir} has no checkpoints yet")
        if write:
            files.inside(self.path / "step", self.path.parent)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep or None,
            create=write,
            cleanup_tmp_directories=write,
            read_only=not write,
            enable_async_checkpointing=write,
        )
        items = ("state", "policy", "metadata")
        self._manager = self._look(lambda: ocp.CheckpointManager(self.path, item_names=items, options=options))

    def steps(self) -> list[int]:
        """Saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def reload(self) -> None:
        """Notice steps that another process saved or removed."""
        self._look(self._manager.reload)

    def save(self, state: State, policy: Policy, progress: Progress) -> None:
        """Start saving; returns when the arrays are copied. They must not be donated before: pass a snapshot.

        Raises:
            CheckpointError: this save could not begin or the one before it did not end, as when the disk is full.
        """
        progress = dataclasses.replace(progress, checksums={"state": _checksums(state), "policy": _checksums(policy)})
        try:
            with _BEGINNING:
                self._manager.save(
                    progress.step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
                        policy=ocp.args.StandardSave(policy),  # pyright: ignore[reportCallIssue]
                        metadata=ocp.args.JsonSave(records.plain(progress)),  # pyright: ignore[reportCallIssue]
                    ),
                )
        except Exception as error:  # orbax, tensorstore and the file system each raise their own kinds
            raise self._unsaved(error) from error

    def restore_state(self, step: int, abstract: State) -> State:
        """The state, in the structure, shapes, dtypes and shardings of `abstract`."""
        return self._restore_arrays(step, "state", abstract)

    def restore_policy(self, step: int, abstract: Policy) -> Policy:
        """The policy of all runs; optimisers and critics are not read."""
        return self._restore_arrays(step, "policy", abstract)

    def progress(self, step: int) -> Progress:
        """What was said of a step when it was saved."""
        values = self._restore(step, "metadata", ocp.args.JsonRestore())  # pyright: ignore[reportCallIssue]
        try:
            return records.convert(values, Progress, "its description")
        except records.RecordError as error:
            raise self._damaged(step, "metadata", str(error)) from error

    def rows(self, step: int, num_runs: int) -> tuple[int, ...]:
        """Of each run, its row in the states that were saved at a step.

        Raises:
            CheckpointError: it is of another number of runs, or cannot be read.
        """
        rows = self.progress(step).rows
        if len(rows) != num_runs:
            raise self._damaged(step, "metadata", f"it has {len(rows)} runs, not {num_runs}")
        return rows

    def wait(self) -> None:
        """Until the save under way is on disk.

        Raises:
            CheckpointError: it did not end.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # see `save`
            raise self._unsaved(error) from error

    def close(self) -> None:
        """Wait for the save under way, and let go; raises as `wait` does."""
        self.wait()
        self._manager.close()

    def _restore_arrays(self, step: int, item: str, abstract: Any) -> Any:
        restored = self._restore(step, item, ocp.args.StandardRestore(abstract))  # pyright: ignore[reportCallIssue]
        expected, found = self.progress(step).checksums.get(item, {}), _checksums(restored)
        if bad := [name for name in found if found[name] != expected.get(name)]:
            raise self._damaged(step, item, f"{len(bad)} arrays are not what was saved, first {bad[0]}")
        return restored

    def _restore(self, step: int, item: str, args: Any) -> Any:
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"{self.path} has no checkpoint of step {step}; there are: {steps}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # see `save`
            raise self._damaged(step, item, str(error).splitlines()[0][:300] if str(error) else repr(error)) from error

    def _look(self, look: Callable[[], Any]) -> Any:
        """What orbax finds, which reads the descriptions of all steps."""
        try:
            return _beside_removals(look)
        except (ValueError, OverflowError, RecursionError) as error:
            raise self._undescribed(error) from error

    def _undescribed(self, error: Exception) -> CheckpointError:
        """Which step's own description is damaged, which orbax does not say."""
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        for folder in sorted(path for path in self.path.iterdir() if path.name.isdigit()):
            try:
                records.read(folder / "_CHECKPOINT_METADATA", dict)
                reader.metadata(folder)
            except (ValueError, OverflowError, RecursionError) as fault:
                said = f"checkpoint {folder} cannot be read ({str(fault)[:300]})"
                return CheckpointError(f"{said}; move that folder away and the same command goes on from the one before")
        return CheckpointError(f"{self.path} cannot be read: {error}")

    def _damaged(self, step: int, item: str, reason: str) -> CheckpointError:
        before = [other for other in self.steps() if other < step]
        remedy = f"move that folder away and the same command goes on from {before[-1]}" if before else "there is none before it"
        return CheckpointError(f"checkpoint {self.path / str(step)} cannot be read ({item}: {reason}); {remedy}")

    def _unsaved(self, error: Exception) -> CheckpointError:
        whole = [int(path.name) for path in self.path.iterdir() if path.name.isdigit()] if self.path.is_dir() else []
        last = f"the last whole checkpoint is {max(whole)}" if whole else "there is no whole checkpoint yet"
        return CheckpointError(
            f"a checkpoint could not be saved in {self.path}: {str(error).splitlines()[0][:300] if str(error) else repr(error)}; "
            f"{last}. Make room or mend the file system, and the same command goes on from there"
        )


def _beside_removals(look: Callable[[], Any]) -> Any:
    """What orbax finds in a folder; it looks again where another process removes a step between its listing and its reading."""
    for _ in range(100):
        try:
            return look()
        except (FileNotFoundError, NotADirectoryError):
            time.sleep(0.05)
    return look()


@cache
def _ignore_late_completions() -> None:
    """After an error tensorstore goes on with the other arrays and complains, traceback and all, that nobody waits for them."""
    usual = sys.unraisablehook

    def quiet(what: Any) -> None:
        if not (isinstance(what.exc_value, RuntimeError) and "Event loop is closed" in str(what.exc_value)):
            usual(what)

    sys.unraisablehook = quiet


@cache
def _expect_readers() -> None:
    """orbax warns whoever opens checkpoints for reading that they are open for reading."""
    told = ("CheckpointManagerOptions.read_only=True", "Given directory is read only")
    logging.getLogger("absl").addFilter(lambda record: not record.getMessage().startswith(told))


def _checksums(tree: Any) -> dict[str, int]:
    """A number per array that changes with any of its bits, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


@jax.jit
def _sums(leaves: list[Array]) -> list[Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(x: Array) -> Array:
    """Words times odd numbers, summed modulo 2³²: an odd factor is invertible, so no single changed word goes unseen."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        words = x.astype(jnp.uint32)
    elif x.dtype.itemsize == 8:
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)  # two for each number
    else:
        words = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    words = words.ravel()
    return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)
