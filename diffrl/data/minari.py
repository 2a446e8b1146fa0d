"""Minari datasets, local or remote, as raw transitions."""

import os
import queue
import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from diffrl import machine, records
from diffrl.data import arrow, foreign
from diffrl.data.arrays import actions, flags, numbers
from diffrl.data.dataset import DatasetError, Source
from diffrl.data.episodes import Recorded, Rows, recorded
from diffrl.envs.env_spec import read, without_display
from diffrl.envs.flatten import FlattenError, flatten, parts_of, select_keys

_PROBE_SECONDS = 3.0
# Keys that gymnasium 1.x does not know in specs written by older versions; as Minari itself does.
_OLD_SPEC_KEYS = ("apply_api_compatibility", "autoreset")


def load(id: str, *, download: bool = False, observation_keys: tuple[str, ...] | None = None) -> Source:
    """Read a Minari dataset, stored as HDF5, Arrow or Parquet, with actions in a box or discrete ones.

    Terminations and truncations are kept apart; an episode whose last step is neither ends in a timeout. Where the
    collecting environment moved its goal within an episode, the first row of an episode carries the goal of the one
    before (Minari issue 265): it gets the goal of its second row, the one its reward was computed with.

    Args:
        id: Minari's name of the dataset, `namespace/name-vN`.
        download: fetch it from Minari's server when it is not on this machine.
        observation_keys: for Dict observations, the keys to concatenate, in order; None for the default of `flatten`.

    Raises:
        DatasetError: it is not there, cannot be fetched, is damaged, or has observations or actions of another kind.
    """
    try:
        from minari.dataset.minari_dataset import MinariDataset
    except ImportError as error:
        raise DatasetError(
            f"dataset {id!r} is read with {error.name}, which is not installed: pip install 'diffrl[envs]'"
        ) from None
    path = dataset_path(id)
    if not (path / "data").exists():
        if not download:
            raise DatasetError(f"dataset {id!r} is not on this machine (looked in {path}). {how_to_get(id)}")
        _download(id)
    try:
        for part in sorted((path / "data").glob("*.hdf5")):
            with foreign.hdf5(id, part):
                foreign.refuse_too_large(id, part.stat().st_size)
        metadata: dict[str, Any] = _metadata(path)
        # Where one is missing Minari makes the environment to ask it, and with it runs whatever code the file names.
        missing = [name for name in ("observation_space", "action_space") if not isinstance(metadata.get(name), str)]
        dataset = None if missing else MinariDataset(path / "data")
    except Exception as error:
        raise _damaged(id, path, error) from error
    if dataset is None:
        raise DatasetError(f"dataset {id!r} has no {' and no '.join(missing)} in its metadata; make or fetch it anew")
    try:
        keys = select_keys(dataset.observation_space, observation_keys)
    except FlattenError as error:
        raise DatasetError(f"dataset {id!r}: {error}") from None
    if observation_keys and keys is None:
        given = ", ".join(observation_keys)
        raise DatasetError(f"dataset {id!r}: observation keys {given} were given, but the observation has no keys")
    space = dataset.action_space
    discrete = type(space).__name__ == "Discrete"
    low, high = (None, None) if discrete else _action_bounds(id, space)
    try:
        columnar = dataset.storage.FORMAT in ("arrow", "parquet")
        episodes = list(arrow.episodes(dataset.storage) if columnar else dataset.iterate_episodes())
    except Exception as error:
        raise _damaged(id, path, error) from error
    if not episodes:
        raise DatasetError(f"dataset {id!r} has no episodes")
    fix_goal = keys is not None and "desired_goal" in keys and _moves_goal(metadata.get("env_spec"))
    minimum, maximum = (_score(id, metadata, name) for name in ("ref_min_score", "ref_max_score"))
    return Source(
        recorded=_recorded(id, [_transitions(episode, keys, fix_goal, discrete, id) for episode in episodes]),
        id=id,
        action_low=low,
        action_high=high,
        num_actions=int(space.n) if discrete else 0,
        first_action=int(space.start) if discrete else 0,
        observation_parts=parts_of(dataset.observation_space, keys),
        env_spec=_modern(metadata.get("eval_env_spec") or metadata.get("env_spec")),
        observation_keys=keys,
        ref_min_score=None if maximum is None else minimum,
        ref_max_score=None if minimum is None else maximum,
        ref_provenance=str(metadata.get("ref_provenance") or ("" if maximum is None else f"Minari metadata of {id}")),
        description=str(metadata.get("description") or ""),
    )


def dataset_path(id: str) -> Path:
    """Directory of a dataset: under `MINARI_DATASETS_PATH`, or under `.minari/datasets` in the user's home."""
    return machine.datasets_folder() / id


def how_to_get(id: str) -> str:
    """How the dataset comes to this machine: the command that puts it there, where there is one."""
    if id.startswith("diffrl/"):
        return f"Make it with: diffrl-collect --recipe={id.removeprefix('diffrl/')} (diffrl-collect --list shows what there is)"
    if not re.search(r"-v\d+$", id):
        return "Minari's ids end in a version, as mujoco/hopper/expert-v0 does; a file or a folder is named by its path"
    if Path(id).is_absolute():
        return "Copy its folder there anew"
    return f"Fetch it with: diffrl-collect --download={id}, or copy its folder there from a machine that has it"


def _damaged(id: str, path: Path, error: Exception) -> DatasetError:
    # h5py, pyarrow, json and Minari each raise their own kinds for a file cut short; the cure is one.
    if isinstance(error, ImportError):
        return DatasetError(f"dataset {id!r} needs a package that is not installed ({error}): pip install 'diffrl[envs]'")
    return foreign.unreadable(id, error, f"delete {path} and make it anew. {how_to_get(id)}")


def _transitions(episode: Any, keys: tuple[str, ...] | None, fix_goal: bool, discrete: bool, id: str) -> Rows:
    where = f"{id}, episode {episode.id}"
    reward = numbers(where, "rewards", episode.rewards, 1)
    steps = len(reward)
    if steps == 0:
        raise DatasetError(f"dataset {id!r}: episode {episode.id} has no steps; leave it out, as `minari.split_dataset` can")
    try:
        with np.errstate(over="ignore"):  # `build` refuses what is not finite
            rows = flatten(episode.observations, keys)
            if fix_goal:
                goal = np.array(episode.observations["desired_goal"])
                goal[:1] = goal[1:2]
                rows = flatten({**episode.observations, "desired_goal": goal}, keys)
            action = np.asarray(episode.actions).reshape(len(episode.actions), -1)
            if discrete and action.dtype.kind not in "iu":
                raise TypeError(f"actions of type {action.dtype} are not discrete")
            action = actions(where, action) if discrete else numbers(where, "actions", action, 2)
    except (KeyError, TypeError, ValueError) as error:
        # Parts that are missing, ragged, of unequal length or no numbers.
        raise DatasetError(f"dataset {where!r} is malformed: {_first_line(error)}") from error
    for name, value, expected in (
        ("observations", rows, steps + 1),
        ("actions", episode.actions, steps),
        ("terminations", episode.terminations, steps),
        ("truncations", episode.truncations, steps),
    ):
        if len(value) != expected:
            raise DatasetError(
                f"dataset {id!r}: episode {episode.id} has {len(value)} {name} for {steps} steps; expected {expected}"
            )
    terminal, timeout = flags(where, "terminations", episode.terminations), flags(where, "truncations", episode.truncations)
    timeout[-1] |= not terminal[-1]
    return Rows(
        observation=rows[:-1],
        action=action,
        reward=reward,
        next_observation=rows[1:],
        terminal=terminal,
        timeout=timeout,
    )


def _recorded(id: str, parts: list[Rows]) -> Recorded:
    for name in ("observation", "action"):
        widths = sorted({getattr(part, name).shape[1] for part in parts})
        if len(widths) > 1:
            raise DatasetError(f"dataset {id!r}: {name} has {' or '.join(map(str, widths))} numbers a row, by episode")
    rows = Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return recorded(**rows._asdict())


def _action_bounds(id: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    if type(space).__name__ != "Box" or space.dtype.kind != "f":
        kind = "integer Box" if type(space).__name__ == "Box" else type(space).__name__
        raise DatasetError(f"dataset {id!r} has {kind} actions; only Box actions of real numbers and Discrete ones are supported")
    low, high = np.asarray(space.low, np.float32).ravel(), np.asarray(space.high, np.float32).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DatasetError(f"dataset {id!r}: the action space has no bounds ({space}); diffusion needs finite ones")
    return low, high


def _metadata(path: Path) -> dict[str, Any]:
    file = path / "data" / "metadata.json"
    return dict(records.foreign(records.content(file), file))


def _score(id: str, metadata: dict[str, Any], name: str) -> float | None:
    score = metadata.get(name)
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score)):
        raise DatasetError(f"dataset {id!r}: {name} in its metadata is {score!r}, expected a number")
    return None if score is None else float(score)


def _moves_goal(env_spec: str | None) -> bool:
    kwargs = read(env_spec or "").get("kwargs") or {}
    return bool(kwargs.get("reset_target", False)) and bool(kwargs.get("continuing_task", True))


def _modern(env_spec: str | None) -> str | None:
    if env_spec is None:
        return None
    known = {key: value for key, value in read(env_spec).items() if key not in _OLD_SPEC_KEYS}
    return without_display(records.foreign_text(known))


def _download(id: str) -> None:
    from minari.storage import hosting
    from minari.storage.remotes import DEFAULT_REMOTE

    kind = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE).split("://", maxsplit=1)[0]
    offline = (
        f"Its server cannot be reached from here: check the network, or copy its folder to {dataset_path(id)} from a machine "
        "that has it; `diffrl-collect --list` names the datasets that can be made without a network"
    )
    # Minari's client tries five times, which takes half a minute: ask first whether anybody is there.
    if kind == "hf" and not _reachable(_hub()):
        raise DatasetError(f"dataset {id!r} cannot be downloaded. {offline}")
    try:
        hosting.download_dataset(id)
    except ImportError as error:
        package = "minari[gcs]" if kind == "gcp" else "minari[hf]"
        raise DatasetError(f"downloading {id!r} needs a client that is not installed: pip install '{package}'") from error
    except ValueError as error:
        raise DatasetError(f"dataset {id!r} cannot be downloaded: {_first_line(error)}") from error
    except Exception as error:
        # Each remote has its own exceptions for a failing network, and none of them is part of Minari's interface.
        raise DatasetError(f"dataset {id!r} cannot be downloaded ({_first_line(error)}). {offline}") from error


def _hub() -> str:
    """Address of the hub where Minari's own remote lives, from its client; HF_ENDPOINT overrides it.

    Raises:
        DatasetError: the client is not installed.
    """
    try:
        from huggingface_hub.constants import ENDPOINT
    except ImportError as error:
        raise DatasetError("downloading needs a client that is not installed: pip install 'minari[hf]'") from error
    return os.environ.get("HF_ENDPOINT", ENDPOINT)


def _reachable(url: str) -> bool:
    """Whether the host of `url`, or the proxy that stands before it, accepts a connection within a few seconds."""
    parts = urllib.parse.urlparse(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlparse(proxy if "://" in proxy else f"{parts.scheme}://{proxy}")
    answer: queue.Queue[bool] = queue.Queue()

    def connect() -> None:
        try:
            port = parts.port or (80 if parts.scheme == "http" else 443)
            socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS).close()
            answer.put(True)
        except OSError:
            answer.put(False)

    # In a thread, because looking up a name has no timeout of its own.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return answer.get(timeout=2 * _PROBE_SECONDS)
    except queue.Empty:
        return False


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
