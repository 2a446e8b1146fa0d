"""Imitation over numbers of demonstrations: who sees which rows, and the study from data to table."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import quick_compilation, unchecked

from diffrl.algorithms import bc, edm
from diffrl.collection.classic import balance, episode, make
from diffrl.config import Config, DatasetConfig
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError, Source
from diffrl.studies import imitation

EVERY = 20


def numbered(lengths: tuple[int, ...]) -> Source:
    """Episodes of these lengths, whose rows hold their own numbers."""
    n = sum(lengths)
    ends = np.isin(np.arange(n), np.cumsum(lengths) - 1)
    return from_arrays(observation=np.arange(n)[:, None], action=np.arange(n) % 2, reward=np.zeros(n), terminal=ends)


def test_repetitions_share_episodes() -> None:
    """Repetition k of N sees episodes k … k + N - 1, every 20th row of each: ⌈T/20⌉ of them, those of the dataset's setting."""
    source = numbered((500, 89, 107, 41, 20))
    dataset, _, _ = build(source, Transforms())
    seen = imitation.demonstrations(dataset, EVERY, (1, 3), 3)
    np.testing.assert_array_equal(seen.count, [25, 5, 6, 36, 14, 10])
    np.testing.assert_array_equal(seen.first, [0, 25, 30, 0, 25, 30])
    assert seen.dataset.size == 25 + 5 + 6 + 3 + 1
    for run, (first, number) in enumerate([(0, 1), (1, 1), (2, 1), (0, 3), (1, 3), (2, 3)]):
        alone, _, _ = build(source, Transforms(first_episode=first, num_episodes=number, keep_every=EVERY))
        here = slice(seen.first[run], seen.first[run] + seen.count[run])
        np.testing.assert_array_equal(seen.dataset[here].observation, alone[:].observation)
        np.testing.assert_array_equal(seen.dataset[here].action, alone[:].action)
    with pytest.raises(DatasetError, match="5 repetitions of 3 demonstrations take 7 episodes, not 5"):
        imitation.demonstrations(dataset, EVERY, (1, 3), 5)


def test_a_run_draws_its_own_rows() -> None:
    """All of them, alike, and no other's."""
    dataset, _, _ = build(numbered((60, 60, 60)), Transforms())
    columns = {"first_row": jnp.int32(70), "rows": jnp.int32(10)}
    batch = imitation.own_rows(dataclasses.replace(dataset, columns=columns), jax.random.key(0), 5_000)
    assert batch.extras == {}
    found = np.bincount(np.asarray(batch.observation[:, 0], int), minlength=180)
    np.testing.assert_array_equal(np.flatnonzero(found), np.arange(70, 80))
    assert found[70:80].min() > 400


def study() -> imitation.Study:
    cells = [
        imitation.Cell(method, n, (25 * n,) * 3, tuple(500.0 - k * shift for k in range(3)), (0.9, 0.95, 1.0))
        for method, shift in (("one", 0.0), ("other", 60.0))
        for n in (1, 3)
    ]
    return imitation.Study("CartPole-v1", "d", EVERY, 22.2, 500.0, 8000, 20, 10_000, {"one": 1.0, "other": 2.0}, tuple(cells))


def test_table_picture_and_record(tmp_path: Path) -> None:
    found = study()
    assert imitation.read(imitation.write(found, tmp_path / "a.json")) == found
    text = imitation.to_markdown([found])
    assert "| 1 | 25 | 500.0 (500.0 … 500.0) | 440.0 (380.0 … 500.0) |" in text
    assert "| 3 | 75 |" in text
    assert "the published expert's 500" in text
    assert imitation.picture(found, tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.slow
def test_from_demonstrations_to_the_study(monkeypatch: Any) -> None:
    """Two methods, two numbers, two repetitions on CartPole: what is cloned for longer agrees more with the expert."""
    env = make("CartPole-v1")
    lived = [{name: part[:60] for name, part in episode(env, balance, seed).items()} for seed in range(4)]
    for one in lived:
        one["timeout"][-1] = True
    columns: dict[str, Any] = {name: np.concatenate([one[name] for one in lived]) for name in lived[0]}
    source = from_arrays(**columns, env_id="CartPole-v1")._replace(ref_min_score=22.2, ref_max_score=500.0)
    monkeypatch.setattr(DatasetConfig, "source", lambda self: source)
    size: Any = {"hidden_dims": (16,), "num_updates": 300, "learning_rate": 1e-2}
    configs = {
        "a": Config(edm.Config(**size, buffer_size=50, chain_steps=1), DatasetConfig(keep_every=3)),
        "b": Config(bc.Config(**size, batch_size=32), DatasetConfig(keep_every=3)),
    }
    said: list[str] = []
    with quick_compilation(), unchecked():
        found = imitation.compare(configs.__getitem__, ("a", "b"), numbers=(1, 2), repetitions=2, episodes=1, say=said.append)
    assert [(cell.method, cell.demonstrations, cell.pairs) for cell in found.cells] == [
        *(("edm", 1, (20, 20)), ("edm", 2, (40, 40))),
        *(("bc", 1, (20, 20)), ("bc", 2, (40, 40))),
    ]
    assert (found.env_id, found.held_out, found.random, found.expert) == ("CartPole-v1", 60, 22.2, 500.0)
    assert all(0 < score <= 500 for cell in found.cells for score in cell.returns)
    assert all(min(cell.matches) > 0.6 for cell in found.cells)
    assert any("300 of 300 updates of 4 runs" in text for text in said)
