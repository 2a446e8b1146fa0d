"""SAC: the squashed density, the direction of the entropy's weight, and a bandit with a known maximum-entropy policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import act, make_dataset, quick, runs_of, train_stages

from diffrl.algorithms import sac
from diffrl.networks.gaussian import squashed
from diffrl.registry import make
from diffrl.types import Spec

KEY = jax.random.key(0)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.8, 0.0), (-1.0, -0.5)])
def test_squashed_density_integrates_to_its_histogram(mean: float, log_std: float) -> None:
    """e^(log density) against the share of samples in bins of the action."""
    shape = (400_000, 1)
    action, log_prob = squashed(jnp.full(shape, mean), jnp.full(shape, log_std), KEY)
    counts, edges = np.histogram(np.asarray(action)[:, 0], bins=40, range=(-0.95, 0.95))
    centres = (edges[1:] + edges[:-1]) / 2
    expected = counts / len(action) / np.diff(edges)
    order = np.argsort(np.asarray(action)[:, 0])
    found = np.interp(centres, np.asarray(action)[order, 0], np.exp(np.asarray(log_prob)[order]))
    np.testing.assert_allclose(found, expected, atol=0.03 * expected.max() + 0.01)


@pytest.mark.parametrize(("deficit", "grows"), [(-3.0, True), (3.0, False)])
def test_entropy_weight_follows_the_entropy(deficit: float, grows: bool) -> None:
    """Target entropy is minus the deficit times the dimensions: a policy more certain than wanted gets a larger weight."""
    config = sac.Config(hidden_dims=(16,), batch_size=32, num_updates=1, entropy_deficit=deficit)
    algorithm = sac.make(config, Spec.plain(2, 1))
    state = quick(algorithm.init)(KEY, algorithm.hparams)
    rng = np.random.default_rng(0)
    data = make_dataset(rng.normal(size=(32, 2)), rng.uniform(-1, 1, (32, 1)), np.zeros(32))
    after, _ = quick(algorithm.stages[0].update)(state, data[:], KEY)
    assert (float(after.log_entropy_weight.params) > float(state.log_entropy_weight.params)) is grows


@pytest.mark.slow
def test_policy_finds_the_rewarded_action_at_the_wanted_entropy() -> None:
    """A bandit that pays -(a - .4)²: the mean action is near .4 and the entropy near -1, its target."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (8192, 1))
    data = make_dataset(np.ones((8192, 1)), action, -((action[:, 0] - 0.4) ** 2))
    config = sac.Config(hidden_dims=(64, 64), learning_rate=3e-3, tau=0.05, num_updates=2_000, batch_size=128)
    config = dataclasses.replace(config, initial_entropy_weight=0.1)
    algorithm = make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, 2), data)
    np.testing.assert_allclose(act(algorithm, states, jnp.ones((1, 1))), 0.4, atol=0.12)
    assert algorithm.explore is not None
    policy = algorithm.policy(jax.tree.map(lambda x: x[0], states))
    drawn = np.asarray(quick(algorithm.explore)(policy, (), jnp.ones((4096, 1)), KEY)[0])
    # The entropy of N(m, s²) is -1 at s = .089.
    assert 0.04 < drawn.std() < 0.25
    sampled = sac.make(dataclasses.replace(config, act=sac.Act(deterministic=False)), Spec.plain(1, 1))
    assert np.asarray(quick(sampled.act)(policy, (), jnp.ones((64, 1)), KEY)[0]).std() > 0.02
