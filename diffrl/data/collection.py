"""Running a recipe: shards in parallel, kept until all are there, then one dataset that appears whole or not at all.

Imports neither JAX nor a simulator: worker processes start from it.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffrl.data.recipes.base import Product, Recipe, Shard

Report = Callable[[int, int], None]  # (rows done, rows in all)


class CollectionError(ValueError):
    """The dataset cannot be made; the message says why and what to do."""


class Outcome(NamedTuple):
    """What `collect` did. `seconds` counts simulation, `written` the storing; both 0 where the dataset was there."""

    path: Path
    metadata: dict
    existed: bool
    seconds: float = 0.0
    written: float = 0.0
    reused_rows: int = 0


def collect(
    recipe: Recipe,
    *,
    seed: int,
    rows: int,
    workers: int,
    dataset_id: str,
    overwrite: bool = False,
    report: Report = lambda done, total: None,
) -> Outcome:
    """Make a dataset under Minari's root. Rows depend on recipe, seed and rows, not on the number of workers.

    Finished shards lie in a hidden directory beside the dataset until it is complete: an interrupted call goes on where
    it stopped.

    Raises:
        CollectionError: another dataset of this id exists and `overwrite` is not set, a number is out of range, the id is
            malformed, a package is missing, or the disk cannot be written.
    """
    if rows < 1 or workers < 1 or seed < 0:
        raise CollectionError(f"rows and workers must be at least 1 and seed at least 0, got {rows}, {workers} and {seed}")
    path = _check_id(dataset_id)
    made_by = {"recipe": recipe.name, "seed": seed, "rows": rows}
    existing = _read_metadata(path)
    if existing is not None and not overwrite:
        found = existing.get("diffrl") or {}
        if {name: found.get(name) for name in made_by} == made_by:
            return Outcome(path, existing, existed=True)
        raise CollectionError(
            f"dataset {dataset_id!r} exists with other contents ({_summary(found)}, asked for {_summary(made_by)}): "
            "add --overwrite to replace it, or --id to give the new one another name"
        )
    try:
        version = recipe.fingerprint()
        staging = path.parent / _staging_name(path.name, recipe, seed, rows, version)
        staging.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        shards, reused = _run(recipe.shards(seed, rows), staging, workers, rows, report)
        seconds = time.monotonic() - started
        product = recipe.assemble(seed, rows, shards)
        _write(product, dataset_id, path, staging, made_by)
    except ImportError as error:
        raise CollectionError(
            f"recipe {recipe.name} needs {error.name}, which is not installed: pip install 'diffrl[envs]'"
        ) from error
    except OSError as error:
        raise CollectionError(
            f"cannot write under {path.parent}: {error}. Finished parts are kept: the same command goes on"
        ) from error
    except concurrent.futures.process.BrokenProcessPool as error:
        raise CollectionError(
            "a worker process died, perhaps for lack of memory. Finished parts are kept: the same command goes on; "
            "try --workers=1"
        ) from error
    metadata = _read_metadata(path)
    assert metadata is not None
    return Outcome(path, metadata, False, seconds, time.monotonic() - started - seconds, reused)


def root() -> Path:
    """Where Minari keeps datasets: `MINARI_DATASETS_PATH`, or `.minari/datasets` in the user's home."""
    configured = os.environ.get("MINARI_DATASETS_PATH")
    return Path(configured) if configured else Path.home() / ".minari" / "datasets"


def _run(
    shards: list[Shard], staging: Path, workers: int, rows: int, report: Report
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Arrays of all shards by name, and the number of rows that were there already."""
    done: dict[str, dict[str, np.ndarray]] = {}
    for shard in shards:
        arrays = _load_shard(staging / f"{shard.name}.npz")
        if arrays is not None:
            done[shard.name] = arrays
    finished = reused = sum(shard.rows for shard in shards if shard.name in done)
    report(finished, rows)
    waiting = [shard for shard in shards if shard.name not in done]

    def keep(shard: Shard, arrays: dict[str, np.ndarray]) -> None:
        nonlocal finished
        _save_shard(staging / f"{shard.name}.npz", arrays)
        done[shard.name] = arrays
        finished += shard.rows
        report(finished, rows)

    if workers == 1 or len(waiting) <= 1:
        for shard in waiting:
            keep(shard, shard.work(*shard.arguments))
        return done, reused
    # Spawned, not forked: the caller may hold threads (JAX, a progress bar) that a fork would copy half alive.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(waiting)), context, _start_worker) as pool:
        futures = {pool.submit(shard.work, *shard.arguments): shard for shard in waiting}
        try:
            for future in concurrent.futures.as_completed(futures):
                keep(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done, reused


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


def _write(product: Product, dataset_id: str, path: Path, staging: Path, made_by: dict) -> None:
    """Create the dataset under a root of its own inside the staging directory, then move it into place with one rename."""
    import minari
    from minari.data_collector import EpisodeBuffer

    private = staging / "root"
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir()
    with _minari_root(private), warnings.catch_warnings():
        # Minari recommends an author's address and a link to the code; the recipe's name and seed say more.
        warnings.simplefilter("ignore", UserWarning)
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(id=None, **episode) for episode in product.episodes],
            env=product.env,
            eval_env=product.eval_env,
            algorithm_name=product.metadata["algorithm_name"],
            description=product.description,
            requirements=product.requirements,
            data_format="hdf5",
        )
        returns = [float(np.sum(episode["rewards"])) for episode in product.episodes]
        # Not by Minari's own arguments, for which it would make the environment once more.
        scores = {"ref_min_score": product.reference[0], "ref_max_score": product.reference[1]}
        extra = {**product.metadata, "min_return": min(returns), "max_return": max(returns)}
        dataset.storage.update_metadata({**scores, "ref_provenance": product.reference_source, "diffrl": {**made_by, **extra}})
        product.env.close()
        product.eval_env.close()
    aside = staging / "replaced"
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    (private / dataset_id).rename(path)
    for parent in list(Path(dataset_id).parents)[:-1]:
        namespace = root() / parent / "namespace_metadata.json"
        if not namespace.exists():
            namespace.write_text("{}")
    shutil.rmtree(staging)


@contextlib.contextmanager
def _minari_root(path: Path) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _check_id(dataset_id: str) -> Path:
    name = Path(dataset_id).name.rsplit("-v", 1)
    parts = Path(dataset_id).parts
    if len(parts) < 2 or ".." in parts or Path(dataset_id).is_absolute() or len(name) != 2 or not name[1].isdigit():
        raise CollectionError(f"{dataset_id!r} is not a dataset id; write namespace/name-v0")
    return root() / dataset_id


def _staging_name(name: str, recipe: Recipe, seed: int, rows: int, version: str) -> str:
    parts = [name, recipe.name.replace("/", "-"), f"seed{seed}", f"rows{rows}", version.replace(", ", "-").replace(" ", "")]
    return "." + "_".join(parts)


def _read_metadata(path: Path) -> dict | None:
    """Metadata of a dataset, {} for something there that is none, None for nothing there."""
    if not path.exists():
        return None
    try:
        return json.loads((path / "data" / "metadata.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def _summary(made_by: dict) -> str:
    if not made_by:
        return "not made by a recipe"
    return ", ".join(f"{name} {made_by.get(name)}" for name in ("recipe", "seed", "rows"))


def _save_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    half.replace(path)


def _load_shard(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile):  # a disk that lost power; made again
        return None
