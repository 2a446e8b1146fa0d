"""Packing, transforms, fingerprints and the checks of `build.build`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrl import records
from diffrl.data import episodes
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import FIELDS, DatasetError, Source, fingerprint
from diffrl.data.episodes import Recorded, Rows


def transitions(rows=7, observation=3, action=2, seed=0) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows(
        observation=(5 + 3 * rng.standard_normal((rows, observation))).astype(np.float32),
        action=rng.uniform(-2, 2, (rows, action)).astype(np.float32),
        reward=rng.standard_normal(rows).astype(np.float32),
        next_observation=(5 + 3 * rng.standard_normal((rows, observation))).astype(np.float32),
        terminal=np.arange(rows) == 2,
        timeout=np.arange(rows) == 4,
    )


def episode_returns(t: Rows) -> np.ndarray:
    return np.array([part.sum() for part in np.split(t.reward, episodes.ends(t)[:-1])], np.float64)


def source(t: Rows | None = None, **changes) -> Source:
    t = transitions() if t is None else t
    bound = np.full(t.action.shape[-1], 2.0, np.float32)
    recorded = Recorded(t, episode_returns(t) if t.reward.ndim == 1 and len(t.reward) else np.zeros(1))
    return Source(**{"recorded": recorded, "action_low": -bound, "action_high": bound, "id": "test/a-v0", **changes})


def test_packing_round_trip():
    t = transitions()
    dataset, spec, card = build(source(t), Transforms())
    back = dataset[jnp.arange(7)]
    for name in FIELDS:
        expected = getattr(t, name) / 2 if name == "action" else getattr(t, name)
        np.testing.assert_allclose(getattr(back, name), expected, atol=1e-6)
        assert getattr(back, name).dtype == (bool if name in ("terminal", "timeout") else jnp.float32)
    assert dataset[jnp.zeros((4, 5), int)].observation.shape == (4, 5, 3)
    assert dataset[2:5].reward.shape == (3,)
    assert jax.tree.leaves(dataset)[0].shape == (dataset.size, 2 * 3 + 2 + 3)
    assert (card.rows, card.episodes, spec.observation_dim, spec.action_dim) == (7, 3, 3, 2)
    for value in (card, spec):
        assert records.convert(records.plain(value), type(value), "") == value


def test_episodes_end_at_terminals_timeouts_and_the_end():
    t = transitions()
    assert episodes.ends(t).tolist() == [3, 5, 7]
    returns = episode_returns(t)
    np.testing.assert_allclose(returns, [t.reward[:3].sum(), t.reward[3:5].sum(), t.reward[5:].sum()], rtol=1e-5)


def test_standardising_uses_the_data_and_spares_constants():
    t = transitions(500)
    t.observation[:, 1] = 4.0
    dataset, spec, _ = build(source(t), Transforms(standardize_observations=True))
    rows = dataset[:]
    np.testing.assert_allclose(rows.observation.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.observation.std(axis=0), [1, 0, 1], atol=1e-5)
    assert spec.observation_std[1] == 1.0
    np.testing.assert_allclose(
        rows.next_observation * np.array(spec.observation_std) + np.array(spec.observation_mean), t.next_observation, atol=1e-4
    )


def test_reward_transforms():
    t = transitions()
    returns = episode_returns(t)
    dataset, _, card = build(source(t), Transforms(reward_scale="return_range", reward_factor=4.0, reward_shift=-1.0))
    scale = 4 * 1000 / (returns.max() - returns.min())
    assert card.reward_scale == pytest.approx(scale)
    np.testing.assert_allclose(dataset[:].reward, t.reward * scale - 1, rtol=1e-4, atol=1e-3)
    hundredfold, _, scaled = build(source(t), Transforms(reward_factor=100.0))
    assert scaled.reward_scale == 100.0
    np.testing.assert_allclose(hundredfold[:].reward, 100 * t.reward, rtol=1e-6)
    # The card speaks in the environment's own reward.
    assert card.return_max == pytest.approx(returns.max())
    t.reward[:] = 0
    with pytest.raises(DatasetError, match="all are equal"):
        build(source(t), Transforms(reward_scale="return_range"))
    unknown = Transforms()
    unknown.reward_scale = "range"
    with pytest.raises(DatasetError, match="unknown; choose one of"):
        build(source(t), unknown)


@pytest.mark.parametrize("name", FIELDS)
def test_fingerprint_changes_with_one_bit(name):
    before = fingerprint(transitions())
    assert before == fingerprint(transitions())
    t = transitions()
    raw = getattr(t, name).view(np.uint8).reshape(-1)
    raw[0] ^= 1
    assert fingerprint(t) != before


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"reward": np.zeros(0, np.float32)}, "no transitions"),
        ({"action": np.zeros((6, 2), np.float32)}, r"action has shape \(6, 2\) where reward has 7 rows"),
        ({"reward": np.zeros((7, 1), np.float32)}, "reward has shape"),
        ({"observation": np.full((7, 3), np.inf, np.float32)}, "observation has 21 values that are not finite, first in row 0"),
        ({"next_observation": np.zeros((7, 4), np.float32)}, "differ"),
        ({"action": np.full((7, 2), 2.1, np.float32)}, "7 actions lie outside"),
    ],
)
def test_bad_rows_are_refused(changed, message):
    t = transitions()._replace(**changed)
    with pytest.raises(DatasetError, match=message):
        build(source(t), Transforms())


@pytest.mark.parametrize("low, high, message", [([-1.0], [1.0], "2 entries, their bounds 1"), ([0, 0], [0, 1], "low < high")])
def test_bad_bounds_are_refused(low, high, message):
    with pytest.raises(DatasetError, match=message):
        build(source(action_low=np.array(low, np.float32), action_high=np.array(high, np.float32)), Transforms())
