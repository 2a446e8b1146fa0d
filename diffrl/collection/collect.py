"""Running a recipe: its shards are kept until all are there, then there is one dataset, which appears whole or not at all."""

import contextlib
import errno
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffrl import files, machine, records
from diffrl.collection.recipe import Product, Recipe, RecipeError, Shard
from diffrl.collection.shards import Note, Report, share, shared_path, simulated
from diffrl.errors import UserError

MINARI = "minari"  # the form every recipe's rows are stored in where no other is asked for
LICENSE = "CC0-1.0"  # of the data; simulated numbers, to use as one likes


class CollectionError(UserError, ValueError):
    """The dataset cannot be made; the message says why and what to do."""


class Outcome(NamedTuple):
    """What `collect` did. `seconds` counts simulation, `written` the storing; both 0 where the dataset was there.

    `made_rows` were simulated, `reused_rows` lay there from an earlier attempt; of validation too. `written` counts from the
    simulation's end, so the forms stored before too.
    """

    path: Path
    metadata: dict
    existed: bool
    seconds: float = 0.0
    written: float = 0.0
    made_rows: int = 0
    reused_rows: int = 0


def collect(
    recipe: Recipe,
    *,
    seed: int,
    rows: int,
    workers: int,
    dataset_id: str,
    formats: Sequence[str] = (MINARI,),
    overwrite: bool = False,
    report: Report = lambda done, total: None,
    note: Note = lambda text: None,
) -> dict[str, Outcome]:
    """Make a dataset under Minari's root, in one form or in several of one simulation.

    Rows depend on recipe, seed and rows, not on the number of workers. Finished shards lie in a hidden directory beside the
    dataset until it is complete: an interrupted call goes on where it stopped. Files of other forms than Minari's stand where
    its folder would, with a card in JSON.

    Returns:
        Outcomes by format.

    Raises:
        CollectionError: another dataset of this id exists and `overwrite` is not set, a number is out of range, the id is
            malformed, the recipe has no such format, a package is missing, or the disk cannot be written.
    """
    if rows < 1 or workers < 1 or seed < 0:
        raise CollectionError(f"rows and workers must be at least 1 and seed at least 0, got {rows}, {workers} and {seed}")
    path, known = _check_id(dataset_id), (MINARI, *recipe.formats)
    for format in formats or [""]:
        if format not in known:
            raise CollectionError(f"recipe {recipe.name} is not stored as {format!r}, only as {', '.join(known)}")
    made_by = _made_by(recipe, seed, rows)
    outcomes = {} if overwrite else {name: there for name in formats if (there := _there(path, name, dataset_id, made_by))}
    missing = [name for name in known if name in formats and name not in outcomes]
    if not missing:
        return outcomes
    with _clear_errors(f"recipe {recipe.name}", recipe.extra):
        version = recipe.fingerprint()
        name = ".".join([path.name, *(name for name in missing if name != MINARI)])
        staging = path.parent / _staging_name(name, recipe, seed, rows, version)
        files.inside(staging / "shard", machine.datasets_folder())
        started = time.monotonic()
        parts = recipe.shards(seed, rows)
        shards, reused = simulated(recipe, parts, staging, workers, report, note)
        made = sum(shard.rows for shard in parts) - reused
        stored = time.monotonic()
        made_by |= {"versions": version}
        for format in missing:
            _refuse_full(staging, sum(array.nbytes for arrays in shards.values() for array in arrays.values()))
            if format == MINARI:
                _write(recipe.assemble(seed, rows, shards), dataset_id, staging, made_by)
            else:
                written = recipe.formats[format](_emptied(staging / "files") / path.name, seed, rows, shards)
                _place(written, path, _card(path, format), made_by, overwrite)
            metadata = _read_metadata(path, format)
            assert metadata is not None
            outcomes[format] = Outcome(
                _stored_at(path, metadata), metadata, False, stored - started, time.monotonic() - stored, made, reused
            )
        shutil.rmtree(staging)
    return outcomes


def _there(path: Path, format: str, dataset_id: str, made_by: dict) -> Outcome | None:
    """What is stored already.

    Raises:
        CollectionError: it has other contents.
    """
    existing = _read_metadata(path, format)
    if existing is None or not _stored_at(path, existing).exists():
        return None
    found = existing.get("diffrl") or {}
    if {name: found.get(name) for name in made_by} == made_by:
        return Outcome(_stored_at(path, existing), existing, existed=True)
    raise CollectionError(
        f"dataset {dataset_id!r} exists with other contents ({_summary(found)}, asked for {_summary(made_by)}): "
        "add --overwrite to replace it, or --id to give the new one another name"
    )


@contextlib.contextmanager
def _clear_errors(what: str, extra: str = "envs") -> Iterator[None]:
    """What can go wrong while data are made, as CollectionErrors."""
    try:
        yield
    except ImportError as error:
        raise CollectionError(f"{what} needs {error.name}, which is not installed: pip install 'diffrl[{extra}]'") from error
    except RecipeError as error:
        raise CollectionError(f"{what} failed: {error}") from error
    except OSError as error:
        raise CollectionError(
            f"cannot write under {machine.datasets_folder()}: {error}. Finished parts are kept: the same command goes on"
        ) from error
    except BrokenProcessPool as error:
        raise CollectionError(
            "a worker process died, perhaps for lack of memory. Finished parts are kept: the same command goes on; "
            "try --workers=1"
        ) from error


def prepare(recipes: list[tuple[Recipe, int]], *, seed: int, workers: int, note: Note = lambda text: None) -> None:
    """Do the shared work of several (recipe, rows) at once, so that it runs in parallel; `collect` then finds it done.

    Raises:
        CollectionError: as for `collect`.
    """
    with _clear_errors("the suite"):
        jobs: dict[Path, Shard] = {}
        for recipe, rows in recipes:
            if _made_already(recipe, seed, rows):
                continue
            for shard in recipe.shards(seed, rows):
                jobs |= {shared_path(need, recipe): need for need in shard.needs}
        share(jobs, workers, note)


def _made_already(recipe: Recipe, seed: int, rows: int) -> bool:
    found = (_read_metadata(machine.datasets_folder() / recipe.dataset_id) or {}).get("diffrl") or {}
    return {name: found.get(name) for name in ("recipe", "seed", "rows")} == _made_by(recipe, seed, rows)


def _made_by(recipe: Recipe, seed: int, rows: int) -> dict:
    return {"recipe": recipe.name, "seed": seed, "rows": rows}


def _write(product: Product, dataset_id: str, staging: Path, made_by: dict) -> None:
    """Create the dataset under a root of its own inside the staging directory, then move it into place with one rename.

    Validation episodes become another dataset beside it, which is there first.
    """
    private = _emptied(staging / "root")
    splits = [(dataset_id, product.episodes)]
    if product.validation:
        splits.insert(0, (validation_id(dataset_id), list(product.validation)))
    with _minari_root(private), warnings.catch_warnings():
        # Minari recommends an author's address and a link to the code; the recipe's name and seed say more.
        warnings.simplefilter("ignore", UserWarning)
        for id, episodes in splits:
            _create(id, episodes, product, made_by)
        product.env.close()
        product.eval_env.close()
    aside = _emptied(staging / "replaced")
    for id, _ in splits:
        path = machine.datasets_folder() / id
        if path.exists():
            path.rename(aside / path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        (private / id).rename(path)
    for parent in list(Path(dataset_id).parents)[:-1]:
        namespace = machine.datasets_folder() / parent / "namespace_metadata.json"
        if not namespace.exists():
            files.write(namespace, b"{}", machine.datasets_folder())


def _refuse_full(folder: Path, size: int) -> None:
    """HDF5 may end the process where the disk is full, so that is asked before."""
    needed, free = 1.2 * size, shutil.disk_usage(folder).free
    if free < needed:
        why = f"storing takes about {needed / 1e6:,.3g} MB, and {free / 1e6:,.3g} MB are free: make room"
        raise OSError(errno.ENOSPC, why, str(folder))


def validation_id(dataset_id: str) -> str:
    """Where the validation episodes of a dataset are: "namespace/name-val-v0" for "namespace/name-v0"."""
    name, _, version = dataset_id.rpartition("-v")
    return f"{name}-val-v{version}"


def _create(dataset_id: str, episodes: list[dict], product: Product, made_by: dict) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    dataset = minari.create_dataset_from_buffers(
        dataset_id,
        [EpisodeBuffer(id=None, **episode) for episode in episodes],
        env=product.env,
        eval_env=product.eval_env,
        algorithm_name=product.metadata["algorithm_name"],
        description=product.description,
        requirements=product.requirements,
        data_format="hdf5",
    )
    returns = [float(np.sum(episode["rewards"])) for episode in episodes]
    # Not by Minari's own arguments, for which it would make the environment once more.
    scores = dict(zip(("ref_min_score", "ref_max_score"), product.reference or (), strict=False))
    extra = {**product.metadata, "min_return": min(returns), "max_return": max(returns), "license": LICENSE}
    dataset.storage.update_metadata({**scores, "ref_provenance": product.reference_source, "diffrl": {**made_by, **extra}})


def _place(written: list[Path], path: Path, card: Path, made_by: dict, overwrite: bool) -> None:
    """Move finished files to where the dataset `path` would be; the card, which says that all are there, comes last."""
    taken = [file.name for file in written if path.with_name(file.name).exists()]
    if taken and not overwrite:
        there = path.with_name(taken[0])
        raise CollectionError(f"{there} exists and was not made by a recipe: add --overwrite, or --id for another name")
    made = {**made_by, "license": LICENSE, "files": [file.name for file in written]}
    half = written[0].with_name(card.name)
    records.write(half, {"total_steps": made_by["rows"], "diffrl": made})
    card.unlink(missing_ok=True)
    for file in written:
        file.replace(path.with_name(file.name))
    half.replace(card)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


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
    # What Minari takes, asked before anything is simulated: letters, digits, - and _.
    if not re.fullmatch(r"(?:[-\w]{1,100}/)+[-\w]{1,100}-v\d{1,9}", dataset_id):
        raise CollectionError(
            f"{dataset_id!r} is not a dataset id; write namespace/name-v0, of letters, digits, - and _, each name of 100 at most"
        )
    return machine.datasets_folder() / dataset_id


def _staging_name(name: str, recipe: Recipe, seed: int, rows: int, version: str) -> str:
    return "." + files.slug("_".join([name, recipe.name, f"seed{seed}", f"rows{rows}", version]), 200)


def _card(path: Path, format: str) -> Path:
    """Where what is known of a dataset is written."""
    return path / "data" / "metadata.json" if format == MINARI else path.with_name(f"{path.name}.{format}.json")


def _stored_at(path: Path, metadata: dict) -> Path:
    """The folder or the file that a dataset is loaded from."""
    listed = (metadata.get("diffrl") or {}).get("files")
    return path.with_name(Path(listed[0]).name) if listed else path


def _read_metadata(path: Path, format: str = MINARI) -> dict | None:
    """Metadata of a dataset, {} for something there that is none, None for nothing there."""
    card = _card(path, format)
    if not (path if format == MINARI else card).exists():
        return None
    try:
        return dict(records.foreign(records.content(card), card))
    except (records.RecordError, TypeError, ValueError):
        return {}


def _summary(made_by: dict) -> str:
    if not made_by:
        return "not made by a recipe"
    return ", ".join(f"{name} {made_by.get(name)}" for name in ("recipe", "seed", "rows"))
