"""Data in slabs: every row as often as any other, nothing torn apart, and a resumed run sees the same."""

from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from programs import TINY_SRPO, assert_same_checkpoints, collect, run
from support import make_dataset

from diffrl.algorithm import Stage
from diffrl.algorithms import iql, qsm, swg
from diffrl.config import ConfigError
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.registry import make
from diffrl.training import slabs
from diffrl.training.chunk import make_chunk
from diffrl.training.devices import make_mesh
from diffrl.training.memory import tree_bytes
from diffrl.training.slabs import Slabs, Whole, open_rows, rows_per_slab
from diffrl.training.workdir import WorkdirError
from diffrl.types import Key, Metrics, Spec, Transition

SIZE, BATCH, PER_CHUNK = 1000, 16, 5


def numbered(size: int = SIZE) -> Dataset:
    """Each row's observation is its number; episodes of 50 rows."""
    number = np.arange(size, dtype=np.float32)[:, None]
    dataset = make_dataset(number, number / size, number[:, 0], number + 1, False, np.arange(1, size + 1) % 50 == 0)
    return jax.tree.map(np.asarray, dataset)


@flax.struct.dataclass
class Counting:
    """How often each row was drawn."""

    step: Any
    hparams: Any
    counts: Any


def count_rows(state: Counting, batch: Transition, key: Key) -> tuple[Counting, Metrics]:
    """An update that learns nothing but what it was given."""
    del key
    counts = state.counts.at[batch.observation[:, 0].astype(jnp.int32)].add(1)
    return state.replace(counts=counts), {"mean": jnp.mean(batch.reward)}  # pyright: ignore


def drawn(data: Whole | Slabs, updates: int, runs: int = 1) -> np.ndarray:
    """Counts `[R, N]` after so many updates of the trainer's own chunks."""
    stage = Stage("count", updates, BATCH, count_rows)
    mesh = make_mesh(runs, jax.devices()[:1])
    chunk = make_chunk(stage, PER_CHUNK, mesh)
    states: Any = Counting(jnp.zeros(runs, jnp.int32), (), jnp.zeros((runs, SIZE), jnp.int32))
    alive, keys = jnp.ones(runs, bool), jax.random.split(jax.random.key(3), runs)
    data.begin(stage, PER_CHUNK)
    for step in range(0, updates, PER_CHUNK):
        states, alive, _ = chunk(states, alive, keys, {}, data.at(step), jnp.int32(step))
    data.close()
    return np.asarray(states.counts)


def opened(tmp_path: Path, rows: int = 300, dataset: Dataset | None = None) -> Slabs:
    """Slabs on the first device."""
    return Slabs(numbered() if dataset is None else dataset, rows, make_mesh(1, jax.devices()[:1]), tmp_path)


def test_slabs_cover_the_data_evenly_and_in_an_order_of_their_own(tmp_path: Path) -> None:
    """300 rows at a time of 1,000: ten slabs hold every row three times, and neighbours in time are apart."""
    data = opened(tmp_path)
    data.begin(Stage("any", 1, BATCH, count_rows), PER_CHUNK)
    assert data.updates == 15  # 300 rows / 16 are 18.75 updates: three whole chunks
    held = np.concatenate([np.asarray(data.at(15 * n).rows[:, 0]) for n in range(10)])
    data.close()
    np.testing.assert_array_equal(np.bincount(held.astype(int), minlength=SIZE), 3)
    for n in range(3):
        assert len(np.unique(held[300 * n : 300 * (n + 1)])) == 300
    assert abs(np.corrcoef(held[:1000][:-1], held[:1000][1:])[0, 1]) < 0.1
    assert not list(tmp_path.iterdir())


def test_an_update_belongs_to_its_slab_whatever_was_asked_before(tmp_path: Path) -> None:
    """A resumed run starts in the middle."""
    data, resumed = opened(tmp_path), opened(tmp_path)
    for each in (data, resumed):
        each.begin(Stage("any", 1, BATCH, count_rows), PER_CHUNK)
    seen = [np.asarray(data.at(step).rows) for step in range(0, 60, PER_CHUNK)]
    for step in (20, 55):
        np.testing.assert_array_equal(resumed.at(step).rows, seen[step // PER_CHUNK])
    assert not np.array_equal(seen[2], seen[3])
    np.testing.assert_array_equal(seen[0], seen[2])
    data.close()
    resumed.close()


@pytest.mark.parametrize("kind", ["slabs", "whole"])
def test_rows_are_drawn_uniformly(kind: str, tmp_path: Path) -> None:
    """160,000 draws of 1,000 rows: no row is favoured (χ²), nor any place in its episode, nor a part of the data."""
    updates = 10_000
    data = opened(tmp_path) if kind == "slabs" else Whole(numbered(), make_mesh(1, jax.devices()[:1]))
    counts = drawn(data, updates)[0]
    assert counts.sum() == updates * BATCH
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert scipy.stats.chisquare(counts.reshape(20, 50).sum(axis=0)).pvalue > 1e-3
    assert scipy.stats.chisquare(counts.reshape(20, 50).sum(axis=1)).pvalue > 1e-3


def test_runs_draw_from_a_slab_independently(tmp_path: Path) -> None:
    """Counts of two runs have no more in common than the slabs that served."""
    a, b = drawn(opened(tmp_path), 2000, runs=2)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_columns_go_with_their_rows(tmp_path: Path) -> None:
    """They are derived in order of time, before anything is shuffled."""
    algorithm = make(qsm.Config(n_step=3), Spec.plain(1, 1))
    whole = attach(numbered(), algorithm.columns)
    data = open_rows(numbered(), algorithm, 300, make_mesh(1, jax.devices()[:1]), tmp_path)
    data.begin(algorithm.stages[0], 1)
    slab = data.at(0)
    data.close()
    number = np.asarray(slab.rows[:, 0]).astype(int)
    assert set(slab.columns) == set(whole.columns)
    assert len(whole.columns) >= 3
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(slab.columns[name], np.asarray(column)[number], err_msg=name)


def test_the_choice_is_made_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the memory is for data that stay; a host's devices share it."""
    dataset, one = numbered(), make_mesh(1, jax.devices()[:1])
    size = tree_bytes(dataset)
    for free, expected in ((2 * size, 0), (2 * size - 1, 199), (size, 100), (size // 1000, 1)):
        monkeypatch.setattr(slabs, "free_bytes", lambda free=free: free)
        assert rows_per_slab(0, dataset, one) == expected
    assert rows_per_slab(400, dataset, one) == 400
    assert rows_per_slab(SIZE, dataset, one) == 0
    monkeypatch.setattr(slabs, "free_bytes", lambda: 2 * size)
    assert rows_per_slab(0, dataset, make_mesh(2)) == 100
    monkeypatch.setattr(slabs, "on_host", lambda: False)
    assert rows_per_slab(0, dataset, make_mesh(2)) == 0


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is always full."""
    full = partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(slabs.tempfile, "TemporaryFile", lambda dir: full())
    with pytest.raises(WorkdirError, match=r"No space left on device.*GB there while training"):
        opened(tmp_path)


def test_methods_that_need_all_rows_at_once_say_so(tmp_path: Path) -> None:
    algorithm, mesh = make(swg.Config(), Spec.plain(1, 1)), make_mesh(1, jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"stage '.*' computes something of all rows.*slab_rows=1000"):
        open_rows(numbered(), algorithm, 300, mesh, tmp_path)
    assert isinstance(open_rows(numbered(), make(iql.Config(), Spec.plain(1, 1)), 0, mesh, tmp_path), Whole)


@pytest.mark.slow
def test_a_training_on_slabs_resumes_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Stopped in the middle of a slab; on the way it says what it does."""
    collect(tmp_path)
    train = ("launch/train.py", *TINY_SRPO, "--config.dataset.slab_rows=100")
    whole = run(tmp_path, *train, f"--workdir={tmp_path / 'whole'}")
    assert "slabs of 100 rows" in whole.stdout
    killed = ("tests/resume/killed_trainer.py", "after", "2", *train[1:])
    run(tmp_path, *killed, f"--workdir={tmp_path / 'cut'}", code=None)
    assert not (tmp_path / "cut" / "DONE").exists()
    # A resumed training keeps its slabs, even where another machine would choose otherwise.
    run(tmp_path, "launch/train.py", *TINY_SRPO, f"--workdir={tmp_path / 'cut'}")
    assert_same_checkpoints(tmp_path / "whole", tmp_path / "cut")
