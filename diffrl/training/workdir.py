"""What identifies an experiment on disk, and the refusal to mix two of them, or two trainers, in one directory."""

import dataclasses
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from diffrl.config import RESUMABLE, Config, flatten, load, to_json
from diffrl.data.dataset import Card
from diffrl.types import Spec

# Of a card: younger than some workdirs, and told by the rows and the config, which are compared.
_TOLD = ("comparable_return", "comparable_episodes", "clipped_actions")


class WorkdirError(RuntimeError):
    """The workdir cannot be used: not writable, or it belongs to another experiment."""


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
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir}: {error.strerror}") from error
    with lock:
        _lock(lock, workdir)
        identity = {
            "dataset.json": dataclasses.asdict(card),
            "spec.json": dataclasses.asdict(spec),
            "config.json": to_json(config),
        }
        # The config goes last: a directory that has it has the others.
        for name, values in identity.items():
            if (workdir / "config.json").exists():
                check_same(workdir / name, values)
            else:
                write_json(workdir / name, values)
        write_json(workdir / "versions.json", _versions())
        yield


def _lock(lock: Any, workdir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise WorkdirError(
            f"{workdir} is in use by another trainer ({lock.read().strip() or 'unknown'}); wait for it, stop it, or use another "
            "--workdir"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise WorkdirError(f"cannot lock {workdir}: {error.strerror}") from error
        return  # a file system without locks: whoever mounted it that way must see to it that one trainer runs at a time
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()


def check_same(path: Path, values: dict[str, Any], ignore: tuple[str, ...] = RESUMABLE + _TOLD) -> None:
    """Compare a JSON file with the values it would get now.

    Raises:
        WorkdirError: they differ in more than `ignore`; the message lists the differences.
    """
    # What is younger than the workdir has its default there.
    there = to_json(load(path.parent)) if path.name == "config.json" else _defaults(path.name) | json.loads(path.read_text())
    saved, wanted = flatten(there), flatten(json.loads(json.dumps(values)))
    different = [
        name for name in sorted(saved.keys() | wanted.keys()) if saved.get(name) != wanted.get(name) and name not in ignore
    ]
    if different:
        lines = "".join(f"\n  {name}: {saved.get(name)!r} there, {wanted.get(name)!r} now" for name in different[:10])
        raise WorkdirError(
            f"{path.parent} was started with another {path.stem}:{lines}\n"
            "Use another --workdir, or the settings it was started with"
        )


def _defaults(name: str) -> dict[str, Any]:
    fields = dataclasses.fields({"dataset.json": Card, "spec.json": Spec}[name])
    return json.loads(json.dumps({field.name: field.default for field in fields if field.default is not dataclasses.MISSING}))


def _versions() -> dict[str, Any]:
    packages = ("diffrl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "minari", "gymnasium", "mujoco")
    versions: dict[str, Any] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.devices()[0]
    return versions | {"python": platform.python_version(), "device": device.device_kind, "devices": jax.device_count()}


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def append_json(path: Path, values: dict[str, Any]) -> None:
    """Add one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
