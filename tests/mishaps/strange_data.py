"""Data with faults, and what must become of them: a DatasetError that names the dataset, or rows that can be trained on."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from support import quick_compilation, runs_of

from diffrl.algorithms import bc, iql
from diffrl.data import columns, episodes
from diffrl.data.build import LARGEST, Transforms, build
from diffrl.data.dataset import Dataset, DatasetError, Source
from diffrl.registry import make
from diffrl.training.chunk import make_chunk
from diffrl.training.devices import make_mesh
from diffrl.training.train import init_states
from diffrl.types import Spec

N, O, A = 6, 2, 1  # noqa: E741 - rows, and numbers in an observation and an action
FIELDS = ("observation", "action", "reward", "terminal", "timeout", "next_observation")
TRANSFORMS = (
    Transforms(),
    Transforms(standardize_observations=True, reward_scale="return_range"),
    Transforms(standardize_observations=True, clip_actions=True),
)
Arrays = dict[str, Any]
fuzz = functools.partial(
    settings, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few, many = fuzz(max_examples=100), fuzz(max_examples=3000)


def whole(seed: int = 0, rows: int = N) -> Arrays:
    """Data that nothing is wrong with: two episodes, the first of which ends by timeout."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(size=(rows + 1, O)).astype(np.float32)
    return {
        "observation": observation[:-1],
        "action": rng.uniform(-1, 1, (rows, A)).astype(np.float32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminal": np.arange(rows) == rows - 1,
        "timeout": np.arange(rows) == rows // 2 - 1,
        "next_observation": observation[1:],
    }


def put(value: Any) -> Callable[[Any], Any]:
    """A change of one number."""

    def change(x: Any) -> Any:
        array = np.array(x, np.result_type(x, np.float64))
        array[len(array) // 2 :][:1] = value
        return array

    return change


FAULTS: dict[str, Callable[[Any], Any]] = {
    "nan": put(np.nan),
    "inf": put(np.inf),
    "-inf": put(-np.inf),
    "float32 overflows": put(1e300),
    "its square overflows": put(-1e25),
    "large": put(1e7),
    "out of bounds": put(1.5),
    "half": lambda x: np.asarray(x).astype(np.float16),
    "double": lambda x: np.asarray(x).astype(np.float64),
    "integers": lambda x: np.round(np.asarray(x)).astype(np.int64),
    "booleans": lambda x: np.asarray(x) > 0,
    "bytes": lambda x: np.round(np.abs(x)).astype(np.uint8),
    "complex": lambda x: np.asarray(x) + 1j,
    "strings": lambda x: np.asarray(x).astype(str),
    "byte strings": lambda x: np.asarray(x).astype("S9"),
    "0-d": lambda x: np.float32(0.5),
    "no rows": lambda x: np.asarray(x)[:0],
    "a row less": lambda x: np.asarray(x)[:-1],
    "a row more": lambda x: np.concatenate([x, np.asarray(x)[-1:]]),
    "an axis more": lambda x: np.asarray(x)[..., None],
    "an axis less": lambda x: np.asarray(x).ravel(),
    "no numbers": lambda x: np.zeros((len(x), 0), np.float32),
    "constant": lambda x: np.zeros_like(x),
    "all set": lambda x: np.ones_like(x),
    "one row": lambda x: np.asarray(x)[:1],
}
IN_MEMORY: dict[str, Callable[[Any], Any]] = {
    "ragged": lambda x: [[1.0], [1.0, 2.0]],
    "objects": lambda x: np.array([{}] * len(x)),
    "nothing": lambda x: None,
    "dates": lambda x: np.full(np.shape(x), np.datetime64("2020-01-01")),
    "text": lambda x: "abc",
}


@st.composite
def damaged(draw: st.DrawFn, more: tuple[str, ...] = ()) -> Arrays:
    """Whole data with up to two faults, cut to any number of rows."""
    rows = draw(st.sampled_from((N, N, N, 1)))
    arrays = whole(rows=rows)
    for name in draw(st.sets(st.sampled_from(("next_observation", "timeout")))):
        del arrays[name]
    for name in draw(st.sets(st.sampled_from(sorted(arrays)), max_size=2)):
        arrays[name] = (FAULTS | IN_MEMORY)[draw(st.sampled_from((*FAULTS, *more)))](arrays[name])
    return arrays


@functools.cache
def trainer(method: str) -> Callable[[Dataset], dict[str, np.ndarray]]:
    """Three updates of a method on any dataset of O and A numbers; compiled once for a number of rows."""
    config = {"bc": bc, "iql": iql}[method].Config(hidden_dims=(4,), num_updates=3, batch_size=4)
    algorithm, runs, mesh = make(config, Spec.plain(O, A)), runs_of(config), make_mesh(1, jax.devices()[:1])
    chunk, states = make_chunk(algorithm.stages[0], 3, mesh), init_states(algorithm, runs)

    def train(dataset: Dataset) -> dict[str, np.ndarray]:
        # Chunks donate their states.
        given = jax.tree.map(jnp.copy, states), jnp.ones(1, bool), runs.keys, {}, dataset, jnp.int32(0)
        return jax.device_get(chunk(*given)[-1])

    return train


@jax.jit
def derived(dataset: Dataset) -> dict[str, jax.Array]:
    """What methods derive from the rows."""
    bounded = {"return": columns.returns_to_go(dataset, 0.9)} | columns.n_step(dataset, 3, 0.9)
    return bounded | columns.windows(dataset, 2) | columns.action_chunks(dataset, 2)


def check_episodes(source: Source, dataset: Dataset) -> None:
    """Every end has one flag, every row its episode, and rows of one episode meet."""
    t = source.transitions
    end = t.terminal | t.timeout
    assert not (t.terminal & t.timeout).any()
    assert end[-1]
    row = np.arange(dataset.size)
    start, stop = np.asarray(dataset.episode_start), np.asarray(dataset.episode_end)
    assert ((start <= row) & (row < stop)).all()
    assert (end == (row == stop - 1)).all()
    assert (t.terminal | ~episodes.jumps(t.observation, t.next_observation) | end).all()
    assert len(source.recorded.returns) >= end.sum()


def refused_or_trained(id: str, load: Callable[[], Source], transforms: Transforms, train: bool = True) -> Source | None:
    """The source if its rows can be trained on; whatever is refused is refused by name."""
    refusal = ""
    try:
        source = load()
        dataset, spec, _ = build(source, transforms)
    except DatasetError as error:
        refusal = str(error)
    if refusal:
        assert id in refusal
        assert "\n" not in refusal
        return None
    rows = np.asarray(dataset.rows)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() <= LARGEST
    assert np.abs(np.asarray(dataset[:].action)).max() <= 1.0 + 1e-4
    check_episodes(source, dataset)
    if train and (spec.observation_dim, spec.action_dim) == (O, A):
        with quick_compilation():
            found = {"derived": derived(dataset), "bc": trainer("bc")(dataset), "iql": trainer("iql")(dataset)}
        for path, value in jax.tree_util.tree_leaves_with_path(found):
            assert np.isfinite(value).all(), path
    return source
