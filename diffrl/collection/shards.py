"""Shards of a recipe: simulated in parallel, each stored when it is done, found again by the next attempt.

Imports neither JAX nor a simulator: worker processes start from it.
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from diffrl import files, machine
from diffrl.collection.recipe import Recipe, Shard

Report = Callable[[int, int], None]  # (rows done, rows in all)
Note = Callable[[str], None]  # told what is worked on before there are rows


def shared_path(need: Shard, recipe: Recipe) -> Path:
    """Where work is stored that several shards or recipes need."""
    parts = [need.name, *map(str, need.arguments), recipe.fingerprint()]
    return machine.datasets_folder() / ".shared" / (files.slug("_".join(parts), 200) + ".npz")


def share(jobs: dict[Path, Shard], workers: int, note: Note) -> None:
    """Work that is not there yet, stored where `shared_path` says."""
    missing = {path: shard for path, shard in jobs.items() if not path.exists()}
    for shard in missing.values():
        note(shard.note)
    by_name = {str(path): shard for path, shard in missing.items()}
    for name, arrays in _compute({name: (shard.work, shard.arguments) for name, shard in by_name.items()}, workers):
        _save_shard(Path(name), arrays)


def simulated(
    recipe: Recipe, shards: list[Shard], staging: Path, workers: int, report: Report, note: Note
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Simulate what does not lie under `staging` yet.

    Args:
        workers: processes.
        report, note: are told how far it is.

    Returns:
        Arrays of all shards by name, and the number of rows that were there already.

    Raises:
        BrokenProcessPool, ImportError, RecipeError, OSError: as `collect.collect` puts into words.
    """
    done: dict[str, dict[str, np.ndarray]] = {}
    for shard in shards:
        arrays = _load_shard(staging / f"{shard.name}.npz")
        if arrays is not None:
            done[shard.name] = arrays
    finished = reused = sum(shard.rows for shard in shards if shard.name in done)
    total = sum(shard.rows for shard in shards)
    waiting = {shard.name: shard for shard in shards if shard.name not in done}
    needs = {need: shared_path(need, recipe) for shard in waiting.values() for need in shard.needs}
    share({path: need for need, path in needs.items()}, workers, note)
    report(finished, total)
    calls = {name: (shard.work, (*shard.arguments, *(needs[need] for need in shard.needs))) for name, shard in waiting.items()}
    for name, arrays in _compute(calls, workers):
        _save_shard(staging / f"{name}.npz", arrays)
        done[name] = arrays
        finished += waiting[name].rows
        report(finished, total)
    return done, reused


def _compute(calls: dict[str, tuple[Callable, tuple]], workers: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Results by name, in the order in which they are ready."""
    if workers == 1 or len(calls) <= 1:
        for name, (work, arguments) in calls.items():
            yield name, work(*arguments)
        return
    # Spawned, not forked: the caller may hold threads (JAX, a progress bar) that a fork would copy half alive.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(calls)), context, _start_worker) as pool:
        futures = {pool.submit(work, *arguments): name for name, (work, arguments) in calls.items()}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    # An interrupt is the parent's to handle; here it would print a traceback for each worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker whose parent was killed would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _save_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    files.write(path, lambda file: np.savez(file, allow_pickle=False, **arrays), machine.datasets_folder())


def _load_shard(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with files.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (EOFError, ValueError, zipfile.BadZipFile):  # a disk that lost power; made again
        return None
