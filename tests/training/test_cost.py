"""What a stage costs is asked of the very program that trains, without making an array."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support import make_dataset, quick_compilation, runs_of

from diffrl.algorithms import bc
from diffrl.data.dataset import Dataset
from diffrl.registry import make
from diffrl.sweeps.costs import Limit, StageCost, distinct_runs, limit_of
from diffrl.training.cost import compile_chunk, inputs, peak_bytes, run_chunks, shapes
from diffrl.training.devices import make_mesh
from diffrl.training.memory import tree_bytes
from diffrl.types import Spec


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    """Trees of shapes in place of arrays pass through classes that are annotated with arrays."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


CONFIG = bc.Config(hidden_dims=(64, 64), batch_size=16)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """1,000 rows of 3 observations and 2 actions: 44 kB."""
    rng = np.random.default_rng(0)
    return make_dataset(rng.normal(size=(1000, 3)), rng.uniform(-1, 1, (1000, 2)), np.zeros(1000))


def needed(dataset: Dataset, num_runs: int, num_devices: int = 1) -> int:
    algorithm, runs = make(CONFIG, Spec.plain(3, 2)), runs_of(CONFIG, num_runs)
    mesh = make_mesh(num_runs, jax.devices()[:num_devices])
    stage = algorithm.stages[0]
    given = shapes(algorithm, stage, runs, dataset, mesh)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(given))
    with quick_compilation():
        chunk = compile_chunk(stage, 4, mesh, given)
    return peak_bytes(chunk, algorithm, stage, runs, given, mesh, num_runs)


@pytest.mark.parametrize("num_runs", [2, 3])
def test_shapes_are_those_of_the_real_inputs(dataset: Dataset, num_runs: int) -> None:
    """Padding (3 runs on 2 devices) and placement included; the program made of shapes takes the arrays."""
    algorithm, runs = make(CONFIG, Spec.plain(3, 2)), runs_of(CONFIG, num_runs)
    mesh, stage = make_mesh(num_runs, jax.devices()[:2]), algorithm.stages[0]
    given = inputs(algorithm, stage, runs, dataset, mesh)
    abstract = shapes(algorithm, stage, runs, dataset, mesh)
    assert jax.tree.structure(given) == jax.tree.structure(abstract)
    for array, shape in zip(jax.tree.leaves(given), jax.tree.leaves(abstract), strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)
    with quick_compilation():
        chunk = compile_chunk(stage, 4, mesh, abstract)
    times, after = run_chunks(chunk, given, 2)
    assert len(times) == 2
    np.testing.assert_array_equal(after.states.step, np.full(after.alive.shape, 8))


def test_memory_grows_with_runs_and_is_shared_out_over_devices(dataset: Dataset) -> None:
    """A run holds its parameters three times (Adam's two moments); a checkpoint and what of it is being written hold more."""
    one, four, eight = needed(dataset, 1), needed(dataset, 4), needed(dataset, 8)
    algorithm, runs = make(CONFIG, Spec.plain(3, 2)), runs_of(CONFIG, 1)
    state = tree_bytes(jax.eval_shape(algorithm.init, runs.keys[0], algorithm.hparams))
    assert state > 3 * 4 * 64 * 64
    assert one > tree_bytes(dataset) + 3 * state
    assert eight - four == pytest.approx(4 * (four - one) / 3, rel=0.05)
    assert needed(dataset, 8, num_devices=4) == pytest.approx(needed(dataset, 2), rel=0.05)


def test_a_dataset_given_as_shapes_costs_the_same(dataset: Dataset) -> None:
    assert needed(jax.eval_shape(lambda: dataset), 2) == needed(dataset, 2)


def test_runs_that_nothing_tells_apart_are_counted_once(dataset: Dataset) -> None:
    """A learning rate is read by the first update; two of them and two seeds are four runs from the start."""
    algorithm = make(CONFIG, Spec.plain(3, 2))
    (runs,) = distinct_runs(algorithm, runs_of(CONFIG, 2, sweep="learning_rate=0.1,0.2"), dataset)
    assert runs.seeds == [0, 1, 0, 1]
    assert runs.hparams.learning_rate.tolist() == jnp.asarray([0.1, 0.1, 0.2, 0.2]).tolist()


def test_the_limit_is_what_was_said_or_what_there_is() -> None:
    assert limit_of(1.5) == Limit(1_500_000_000, "as --memory_gb says", True)
    found = limit_of(0.0)
    assert 10**8 < found.bytes < 10**14
    assert StageCost("a", 4, 2, 10, 100).seconds is None
