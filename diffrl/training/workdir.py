"""What identifies an experiment on disk, and the refusal to mix two of them, or two trainers, in one directory."""

import dataclasses
import errno
import fcntl
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from diffrl import files, records
from diffrl.config import RESUMABLE, Config, flatten, load, to_json
from diffrl.data.dataset import Card
from diffrl.errors import UserError
from diffrl.records import Finite, Natural, Width
from diffrl.types import Spec

TIMINGS = Path("metrics", "timings.jsonl")
LOST = "put a copy of it back, or train in another --workdir"
# Of a card: younger than some workdirs, and told by the rows and the config, which are compared.
_TOLD = ("comparable_return", "comparable_episodes", "clipped_actions")


class WorkdirError(UserError, RuntimeError):
    """The workdir cannot be used: not writable, or it belongs to another experiment."""


@dataclasses.dataclass(frozen=True)
class Versions:
    """With what a workdir was last trained.

    Attributes:
        packages: their versions, by name; None for those that are not installed.
        python, device, devices: of the process.
        x64: whether arrays of double precision were allowed (JAX_ENABLE_X64), which decides the types of what is saved.
    """

    packages: dict[str, str | None]
    python: str
    device: str
    devices: Natural
    x64: bool


@dataclasses.dataclass(frozen=True)
class Done:
    """A training that has ended: its last step, the runs that diverged, and how many of the steps were of interaction."""

    step: Natural = 0
    diverged: tuple[Natural, ...] = ()
    online_steps: Natural = 0


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a part of a stage took, from one start of the trainer.

    Attributes:
        stage: its name.
        unit: what is counted: "updates", or online "steps" of every environment.
        start, end: the first and one past the last of them.
        runs, distinct_runs: runs that were trained, and how many different ones they still were.
        compile_seconds, seconds: compiling, and the rest.
        per_second: units, of each run.
    """

    stage: str
    unit: str
    start: Natural
    end: Natural
    runs: Width
    distinct_runs: Width
    compile_seconds: Finite
    seconds: Finite
    per_second: Finite


@contextmanager
def claimed(workdir: Path, config: Config, spec: Spec, card: Card) -> Iterator[None]:
    """Own a workdir for the time of a `with` block: write what identifies the experiment, or check that it is the same one.

    The ownership is a lock of the operating system, which ends with the process however that ends. Of several hosts' processes
    the first owns it for all.

    Raises:
        WorkdirError: not writable, another trainer is at work in it, or it holds another config or dataset; the message lists
            the differences.
    """
    if jax.process_index() > 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for written_late in (TIMINGS, "DONE"):
            files.inside(workdir / written_late, workdir)
        lock = files.extend(workdir / ".lock")
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir}: {error.strerror}") from error
    with lock:
        _lock(lock, workdir)
        if (workdir / "versions.json").exists():
            check_precision(workdir)
        # The config goes last: a directory that has it has the others.
        for name, value in {"dataset.json": card, "spec.json": spec, "config.json": config}.items():
            if (workdir / "config.json").exists():
                check_same(workdir / name, value)
            else:
                records.write(workdir / name, to_json(config) if value is config else value)
        records.write(workdir / "versions.json", _versions())
        yield


def _lock(lock: Any, workdir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        who = lock.read(200).decode(errors="replace").strip() or "unknown"
        raise WorkdirError(
            f"{workdir} is in use by another trainer ({who}); wait for it, stop it, or use another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise WorkdirError(f"cannot lock {workdir}: {error.strerror}") from error
        return  # a file system without locks: whoever mounted it that way must see to it that one trainer runs at a time
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}".encode())
    lock.flush()


def check_same(path: Path, value: Config | Card | Spec) -> None:
    """Compare a file with what it would hold now.

    Raises:
        WorkdirError: they differ in more than may change; the message lists the differences.
        RecordError, ConfigError: the file is damaged.
    """
    there = load(path.parent) if isinstance(value, Config) else records.read(path, type(value), LOST)
    saved, wanted = (flatten(to_json(one) if isinstance(one, Config) else records.plain(one)) for one in (there, value))
    different = [
        name
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name) and name not in RESUMABLE + _TOLD
    ]
    if different:
        lines = "".join(f"\n  {name}: {saved.get(name)!r} there, {wanted.get(name)!r} now" for name in different[:10])
        raise WorkdirError(
            f"{path.parent} was started with another {path.stem}:{lines}\n"
            "Use another --workdir, or the settings it was started with"
        )


def check_precision(workdir: Path) -> None:
    """That this process has the types of arrays that the workdir's checkpoints hold.

    Raises:
        WorkdirError: it has not; the message names the setting.
        RecordError: the file that says so is damaged.
    """
    there = records.read(workdir / "versions.json", Versions, LOST).x64
    if there != jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise WorkdirError(f"{workdir} was trained with JAX_ENABLE_X64={int(there)}: set it in the environment")


def _versions() -> Versions:
    packages = ("diffrl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "minari", "gymnasium", "mujoco")
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    x64 = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    return Versions(versions, platform.python_version(), jax.devices()[0].device_kind, jax.device_count(), x64)
