"""Damaged and strange arrays in memory, in .npz and in HDF5 files: refused by name, or trained on."""

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strange_data import FAULTS, FIELDS, IN_MEMORY, TRANSFORMS, A, Arrays, N, damaged, few, fuzz, many, refused_or_trained, whole

from diffrl.data import hdf5, npz
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms


def test_whole_data_pass() -> None:
    """The yardstick: without faults nothing is refused, and the rows arrive as they were."""
    source = refused_or_trained("fine", lambda: from_arrays(**whole(), id="fine"), Transforms())
    assert source is not None
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(source.transitions, name), whole()[name])


def in_memory(arrays: Arrays, transforms: Transforms) -> None:
    source = refused_or_trained("mine", lambda: from_arrays(**{"terminal": None, **arrays, "id": "mine"}), transforms)
    if source is not None and arrays.get("next_observation") is not None:
        for name in ("observation", "reward", "next_observation"):
            if arrays[name] is None:  # no rewards
                continue
            np.testing.assert_array_equal(getattr(source.transitions, name), np.asarray(arrays[name], np.float32))


@few
@given(damaged(tuple(IN_MEMORY)), st.sampled_from(TRANSFORMS))
def test_arrays_in_memory(arrays: Arrays, transforms: Transforms) -> None:
    in_memory(arrays, transforms)


@pytest.mark.slow
@many
@given(damaged(tuple(IN_MEMORY)), st.sampled_from(TRANSFORMS))
def test_more_arrays_in_memory(arrays: Arrays, transforms: Transforms) -> None:
    in_memory(arrays, transforms)


# What OGBench's files add, and names in plural.
OGBENCH = st.dictionaries(
    st.sampled_from(("masks", "valids", "qpos", "action_low", "action_high")), st.sampled_from(tuple(FAULTS))
)


def npz_file(folder: Path, arrays: Arrays, extra: dict[str, str], plural: bool) -> None:
    more = {name: FAULTS[fault](np.ones(A if "action" in name else N, np.float32)) for name, fault in extra.items()}
    path = folder / "data.npz"
    np.savez(path, **{f"{name}s" if plural else name: array for name, array in arrays.items()}, **more)
    refused_or_trained(str(path), lambda: npz.load_file(str(path)), Transforms())
    refused_or_trained(str(folder), lambda: npz.load_directory(str(folder)), Transforms(), train=False)


@few
@given(damaged(), OGBENCH, st.booleans())
def test_npz_files(tmp_path: Path, arrays: Arrays, extra: dict[str, str], plural: bool) -> None:
    npz_file(tmp_path, arrays, extra, plural)


@pytest.mark.slow
@many
@given(damaged(), OGBENCH, st.booleans())
def test_more_npz_files(tmp_path: Path, arrays: Arrays, extra: dict[str, str], plural: bool) -> None:
    npz_file(tmp_path, arrays, extra, plural)


def flipped(folder: Path, changes: list[tuple[int, int]], length: int) -> None:
    path = folder / "flipped.npz"
    np.savez(path, **whole())
    content = bytearray(path.read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    path.write_bytes(content[: length % len(content)])
    refused_or_trained(str(path), lambda: npz.load_file(str(path)), Transforms(), train=False)


CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4)


@fuzz(max_examples=150)
@given(CHANGES, st.one_of(st.just(-1), st.integers(0, 2**16)))
def test_npz_files_with_other_bytes(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    flipped(tmp_path, changes, length)


@pytest.mark.slow
@many
@given(CHANGES, st.one_of(st.just(-1), st.integers(0, 2**16)))
def test_npz_files_with_more_other_bytes(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    flipped(tmp_path, changes, length)


def hdf5_file(folder: Path, arrays: Arrays, oddity: str, max_episode_steps: int | None) -> None:
    path = folder / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            array = np.asarray(array)
            file[f"{name}s"] = array.astype("S9") if array.dtype.kind == "U" else array  # HDF5 knows no fixed UTF-32
        if oddity == "group":
            del file["rewards"]
            file["rewards/inner"] = np.zeros(N)
        elif oddity == "dangling":
            del file["rewards"]
            file["rewards"] = h5py.SoftLink("/nowhere")
        elif oddity == "empty":
            del file["rewards"]
            file["rewards"] = h5py.Empty("f")
    load = functools.partial(hdf5.load, str(path), max_episode_steps=max_episode_steps)
    refused_or_trained(str(path), load, Transforms(standardize_observations=True))


ODDITIES = st.sampled_from(("none", "none", "none", "group", "dangling", "empty"))


@few
@given(damaged(), ODDITIES, st.sampled_from((None, 1, 2)))
def test_hdf5_files(tmp_path: Path, arrays: Arrays, oddity: str, max_episode_steps: int | None) -> None:
    hdf5_file(tmp_path, arrays, oddity, max_episode_steps)


@pytest.mark.slow
@many
@given(damaged(), ODDITIES, st.sampled_from((None, 1, 2)))
def test_more_hdf5_files(tmp_path: Path, arrays: Arrays, oddity: str, max_episode_steps: int | None) -> None:
    hdf5_file(tmp_path, arrays, oddity, max_episode_steps)
