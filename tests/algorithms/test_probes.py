"""Probe datasets: problems so small that what a method must do is known, trained through the library's chunks."""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from support import act, make_dataset, runs_of, train_stages

from diffrl.algorithms import bc, diffusion_bc, iql, srpo
from diffrl.data.dataset import Dataset
from diffrl.registry import make
from diffrl.types import Spec

ROWS = 4096
TARGET = np.array([0.6, -0.4])


def uniform_bandit() -> Dataset:
    """One state, actions uniform in the square, reward -‖a - TARGET‖², over after one step."""
    action = np.random.default_rng(0).uniform(-1, 1, (ROWS, 2))
    return make_dataset(np.ones((ROWS, 1)), action, -np.sum((action - TARGET) ** 2, axis=1))


def bimodal_bandit() -> Dataset:
    """One state, actions ½N(.5, .1²) + ½N(-.5, .1²), reward -½(a - 1)²: the upper mode pays more."""
    rng = np.random.default_rng(0)
    action = np.clip(0.5 * rng.permuted(np.resize([1.0, -1.0], ROWS)) + 0.1 * rng.normal(size=ROWS), -1, 1)[:, None]
    return make_dataset(np.ones((ROWS, 1)), action, -0.5 * (action[:, 0] - 1) ** 2)


def policy_actions(config: Any, dataset: Dataset, num_seeds: int = 2, sweep: str = "", batch: int = 1) -> np.ndarray:
    """Train all runs and act in the one state: `[runs, batch, A]`."""
    algorithm = make(config, Spec.plain(1, dataset.action_dim))
    states = train_stages(algorithm, runs_of(config, num_seeds, sweep=sweep), dataset)
    return act(algorithm, states, jnp.ones((batch, 1)))


def srpo_config(**changes: Any) -> srpo.Config:
    small: dict[str, Any] = {
        "learning_rate": 1e-3,
        "tau": 0.05,
        "behavior_hidden_dim": 32,
        "behavior_blocks": 1,
        "critic_hidden_dims": (32, 32),
        "policy_hidden_dims": (32,),
        "behavior_updates": 3000,
        "critic_updates": 2000,
        "policy_updates": 2000,
        "behavior_batch_size": 128,
        "critic_batch_size": 128,
        "policy_batch_size": 128,
    }
    return srpo.Config(**(small | changes))


def test_bc_stays_at_the_mean() -> None:
    """Regression ignores rewards: the mean action of the data, here near 0 in both dimensions."""
    config = bc.Config(learning_rate=1e-2, hidden_dims=(32,), num_updates=600, batch_size=256)
    dataset = uniform_bandit()
    expected = np.asarray(dataset.rows[:, 1:3]).mean(axis=0)
    np.testing.assert_allclose(policy_actions(config, dataset)[:, 0], np.broadcast_to(expected, (2, 2)), atol=0.1)


@pytest.mark.slow
def test_iql_moves_to_the_rewarded_action() -> None:
    """Weights exp(β (Q - V)) with β = 10: the weighted mean of the data, computed here from the exact Q (V cancels)."""
    config = iql.Config(learning_rate=1e-3, tau=0.05, hidden_dims=(32, 32), num_updates=2500, batch_size=128, beta=10.0)
    dataset = uniform_bandit()
    action = np.asarray(dataset.rows[:, 1:3])
    weight = np.exp(-10.0 * np.sum((action - TARGET) ** 2, axis=1))
    expected = (weight[:, None] * action).sum(axis=0) / weight.sum()
    assert np.linalg.norm(expected - TARGET) < 0.1
    np.testing.assert_allclose(policy_actions(config, dataset)[:, 0], np.broadcast_to(expected, (2, 2)), atol=0.1)


@pytest.mark.slow
def test_srpo_moves_to_the_rewarded_action() -> None:
    """Data this wide (σ = .58) pull with c_s ≈ .18: at β = 2 the policy goes to 4 c / 4.18, up to the
    error of a small learnt Q. The data's mean is .72 away from c.
    """
    actions = policy_actions(srpo_config(beta=2.0, critic_batch_size=256), uniform_bandit())
    assert np.linalg.norm(actions[:, 0] - TARGET * 4 / 4.18, axis=-1).max() < 0.25


def test_bc_falls_between_two_modes() -> None:
    """The mean of two modes at ±.5 is an action that is not in the data."""
    config = bc.Config(learning_rate=1e-2, hidden_dims=(32,), num_updates=600, batch_size=256)
    np.testing.assert_allclose(policy_actions(config, bimodal_bandit()), 0.0, atol=0.1)


@pytest.mark.slow
def test_diffusion_bc_samples_both_modes() -> None:
    """Half of the samples near each mode and hardly any between: what regression cannot represent."""
    config = diffusion_bc.Config(
        learning_rate=1e-3,
        hidden_dim=32,
        num_blocks=1,
        num_updates=4000,
        batch_size=128,
        act=diffusion_bc.Act(num_denoising_steps=20),
    )
    for samples in policy_actions(config, bimodal_bandit(), batch=2000)[..., 0]:
        upper, lower = np.abs(samples - 0.5) < 0.3, np.abs(samples + 0.5) < 0.3
        assert upper.mean() == pytest.approx(0.5, abs=0.12)
        assert lower.mean() == pytest.approx(0.5, abs=0.12)
        assert (upper | lower).mean() > 0.9
        assert samples[upper].mean() == pytest.approx(0.5, abs=0.08)
        assert samples[lower].mean() == pytest.approx(-0.5, abs=0.08)


@cache
def _bimodal(weighting: str, betas: str) -> np.ndarray:
    return policy_actions(srpo_config(weighting=weighting), bimodal_bandit(), num_seeds=2, sweep=f"beta={betas}")[:, 0, 0]


@pytest.mark.slow
def test_srpo_with_score_weighting_ends_in_the_rewarded_mode() -> None:
    """ω = α/σ keeps the modes apart, and β = .5 is enough to leave the worse one: a* = .522 for the exact score."""
    np.testing.assert_allclose(_bimodal("score", "0.5"), 0.522, atol=0.1)


@pytest.mark.slow
def test_srpo_with_vds_weighting_averages_the_modes() -> None:
    """The paper's default ω = σ² does not: its force is nearly linear through 0, so the policy rests between the modes, at
    .056 for β = .01 and .225 for β = .05, where the data have hardly any action. The force is weak
    there (slope .17), so a small error of the learnt score moves the resting point much.
    """
    actions = _bimodal("vds", "0.01,0.05").reshape(2, 2)
    np.testing.assert_allclose(actions[0], 0.0562, atol=0.17)
    np.testing.assert_allclose(actions[1], 0.2253, atol=0.17)
    assert np.all(actions[1] > actions[0])
