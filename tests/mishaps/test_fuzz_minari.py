"""Damaged and strange Minari datasets, contents and metadata: refused by name, or trained on."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import jax
import minari
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from strange_data import FAULTS, A, O, few, many, refused_or_trained

from diffrl.data import minari as minari_loader
from diffrl.data.build import Transforms
from diffrl.data.dataset import DatasetError

Box, Dict, Tuple, Discrete = (getattr(gymnasium.spaces, name) for name in ("Box", "Dict", "Tuple", "Discrete"))
GOAL = Dict({name: Box(-9, 9, (2,), np.float32) for name in ("observation", "achieved_goal", "desired_goal")})


def minari_dataset(
    root: Path, id: str, observation_space: Any, lengths: tuple[int, ...] = (3, 1, 2), actions: Any = None
) -> Path:
    """A dataset of sampled observations, episodes of one step among them."""
    observation_space.seed(0)
    actions = Box(-1, 1, (A,), np.float32) if actions is None else actions
    none = np.zeros(actions.shape, actions.dtype) + getattr(actions, "start", 0)
    episodes = [
        EpisodeBuffer(
            id=None,
            observations=jax.tree.map(lambda *parts: np.stack(parts), *[observation_space.sample() for _ in range(steps + 1)]),
            actions=np.stack([none] * steps),
            rewards=np.arange(steps, dtype=np.float64),
            terminations=np.arange(steps) == steps - 1,
            truncations=np.zeros(steps, bool),
        )
        for steps in lengths
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari would like to know the author
            minari.create_dataset_from_buffers(id, episodes, observation_space=observation_space, action_space=actions)
    return root / id / "data"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a dataset of goals, one without, and one of discrete actions."""
    root = tmp_path_factory.mktemp("minari")
    minari_dataset(root, "test/goal-v0", GOAL)
    minari_dataset(root, "test/box-v0", Box(-9, 9, (O,), np.float32))
    minari_dataset(root, "test/discrete-v0", Box(-9, 9, (O,), np.float32), actions=Discrete(A + 1, start=-2))
    return root


@pytest.mark.parametrize(
    ("space", "width"),
    [
        (Box(-1, 1, (), np.float32), 1),
        (Box(-1, 1, (2, 3), np.float64), 6),
        (Box(0, 9, (3,), np.int64), 3),
        (Box(0, 255, (4,), np.uint8), 4),
        (Dict({"b": Box(-1, 1, (2,)), "a": Dict({"c": Box(-1, 1, ()), "d": Tuple((Box(-1, 1, (2, 2)), Box(0, 1, (1,))))})}), 8),
        (Tuple((Box(-1, 1, (2,)), Dict({"x": Box(-1, 1, (1,))}))), 3),
        (Box(0, 1, (0,), np.float32), None),
        (Discrete(3), None),
        (Dict({"a": Box(-1, 1, (2,)), "n": Discrete(2)}), None),
        (Tuple((Discrete(2), Box(-1, 1, (2,)))), None),
        (gymnasium.spaces.MultiBinary(3), None),
        (gymnasium.spaces.MultiDiscrete([2, 2]), None),
    ],
    ids=str,
)
def test_observations_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Any, width: int | None) -> None:
    """0-d, nested Dict and Tuple are flattened; what has no numbers, or labels in their place, is refused."""
    minari_dataset(tmp_path, "test/kind-v0", space)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    source = refused_or_trained("test/kind-v0", lambda: minari_loader.load("test/kind-v0"), Transforms())
    assert (source is None) == (width is None)
    if source is not None:
        assert source.transitions.observation.shape == (6, width)
        assert source.transitions.timeout.sum() == 0
        assert source.transitions.terminal.sum() == 3


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)
SPEC = {"id": "X-v0", "entry_point": "x:Y", "kwargs": {}, "additional_wrappers": [], "max_episode_steps": 5}
METADATA_NAMES = (
    *("env_spec", "eval_env_spec", "observation_space", "action_space", "dataset_id", "data_format", "minari_version"),
    *("ref_min_score", "ref_max_score", "ref_provenance", "description", "total_episodes", "total_steps"),
)
METADATA = st.dictionaries(
    st.sampled_from(METADATA_NAMES),
    st.one_of(
        JSON,
        st.dictionaries(st.sampled_from(sorted(SPEC)), JSON, max_size=2).map(lambda changes: json.dumps({**SPEC, **changes})),
        JSON.map(lambda space: json.dumps({"type": "Box", "shape": [2], "dtype": "float32", "low": space, "high": 1})),
    ),
    max_size=2,
)
CONTENTS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from(("observations", "actions", "rewards", "terminations", "truncations"))),
    st.sampled_from((*FAULTS, "missing", "group")),
    max_size=2,
)


def minari_folder(template: Path, root: Path, name: str, contents: dict[tuple[int, str], str], metadata: dict[str, Any]) -> None:
    id = f"test/{name}-v0"
    shutil.rmtree(root / id, ignore_errors=True)
    shutil.copytree(template / id, root / id)
    with h5py.File(root / id / "data" / "main_data.hdf5", "a") as file:
        for (episode, field), fault in contents.items():
            parent = file[f"episode_{episode}"]
            if isinstance(parent[field], h5py.Group):
                parent, field = parent[field], "desired_goal"
            old = parent[field][()]
            del parent[field]
            if fault == "group":
                parent.create_group(field)
            elif fault != "missing":
                new = np.asarray(FAULTS[fault](old))
                parent[field] = new.astype("S9") if new.dtype.kind == "U" else new
    path = root / id / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **metadata}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        refused_or_trained(id, lambda: minari_loader.load(id), Transforms(), train=False)


@few
@given(st.sampled_from(("box", "goal", "discrete")), CONTENTS, METADATA)
def test_minari_datasets(
    template: Path, tmp_path: Path, name: str, contents: dict[tuple[int, str], str], metadata: dict[str, Any]
) -> None:
    minari_folder(template, tmp_path, name, contents, metadata)


@pytest.mark.slow
@many
@given(st.sampled_from(("box", "goal", "discrete")), CONTENTS, METADATA)
def test_more_minari_datasets(
    template: Path, tmp_path: Path, name: str, contents: dict[tuple[int, str], str], metadata: dict[str, Any]
) -> None:
    minari_folder(template, tmp_path, name, contents, metadata)


@pytest.mark.parametrize(
    "lengths", [(1,), (0,), *(pytest.param(slow, marks=pytest.mark.slow) for slow in ((1, 1, 1, 1), (2, 0, 2)))], ids=str
)
def test_short_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]) -> None:
    """Episodes of one step are trained on; one without steps is refused by its number."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder = minari_dataset(tmp_path, "test/short-v0", Box(-9, 9, (O,), np.float32), tuple(max(steps, 1) for steps in lengths))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        for i, steps in enumerate(lengths):
            for name in ("observations", "actions", "rewards", "terminations", "truncations"):
                old = file[f"episode_{i}"][name][()]
                del file[f"episode_{i}"][name]
                file[f"episode_{i}"][name] = old[: steps + (name == "observations")]
    source = refused_or_trained("test/short-v0", lambda: minari_loader.load("test/short-v0"), Transforms())
    assert (source is None) == (0 in lengths)
    if 0 in lengths:
        with pytest.raises(DatasetError, match=f"episode {lengths.index(0)} has no steps"):
            minari_loader.load("test/short-v0")
