"""Gaussian cloning: maximum likelihood has closed forms, and its loss a floor, the entropy of the data."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from support import act, make_dataset, quick, runs_of, train_stages

from diffrl import config as configs
from diffrl.algorithms import gaussian_bc
from diffrl.networks.gaussian import LOG_STD_MAX, LOG_STD_MIN, GaussianPolicy
from diffrl.types import Spec

ROWS = 4096
MEANS = np.array([[0.5, -0.3], [-0.2, 0.0]])
STDS = np.array([[0.1, 0.4], [0.3, 0.05]])


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Which of two states, and actions N(MEANS, STDS²) of it."""
    rng = np.random.default_rng(0)
    state = rng.permuted(np.resize([0, 1], ROWS))
    return state, MEANS[state] + STDS[state] * rng.normal(size=(ROWS, 2))


@cache
def trained(state_dependent_std: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Means and deviations `[states, A]` and the average loss on all data, of a policy fitted to the two states."""
    config = gaussian_bc.Config(
        learning_rate=1e-2,
        hidden_dims=(32,),
        state_dependent_std=state_dependent_std,
        num_updates=1000,
        batch_size=512,
    )
    state, action = data()
    algorithm = gaussian_bc.make(config, Spec.plain(2, 2))
    states = train_stages(algorithm, runs_of(config, 1), make_dataset(np.eye(2)[state], action, np.zeros(ROWS)))
    params = jax.tree.map(lambda x: x[0], states.policy.params)
    network = GaussianPolicy((32,), 2, state_dependent_std=state_dependent_std)
    mean, log_std = network.mean_and_log_std(params, jnp.eye(2))
    loss = -network.log_prob(params, jnp.eye(2)[state], jnp.asarray(action, jnp.float32)).mean()
    return np.asarray(mean), np.exp(log_std), float(loss)


def moments() -> tuple[np.ndarray, np.ndarray]:
    """The data's own means and deviations: the maximum-likelihood estimates, `[states, A]`."""
    state, action = data()
    groups = [action[state == k] for k in range(2)]
    return np.stack([group.mean(axis=0) for group in groups]), np.stack([group.std(axis=0) for group in groups])


def test_mean_and_deviation_of_each_state() -> None:
    mean, std, loss = trained(True)
    expected_mean, expected_std = moments()
    np.testing.assert_allclose(mean, expected_mean, atol=0.03)
    np.testing.assert_allclose(std, expected_std, rtol=0.1)
    # The floor: the entropy ½ log(2πe σ²), summed over dimensions, of an average row; states are equally frequent.
    floor = 0.5 * np.log(2 * np.pi * np.e * expected_std**2).sum(axis=1).mean()
    assert floor <= loss < floor + 0.03


def test_free_deviation_is_the_pooled_one() -> None:
    """One σ per dimension for all states: that of the residuals, so that the floor is higher."""
    mean, std, loss = trained(False)
    expected_mean, expected_std = moments()
    np.testing.assert_allclose(mean[:, 1], expected_mean[:, 1], atol=0.08)
    pooled = np.sqrt((expected_std**2).mean(axis=0))
    np.testing.assert_allclose(std, [pooled, pooled], rtol=0.1)
    floor = 0.5 * np.log(2 * np.pi * np.e * pooled**2).sum()
    assert floor <= loss < floor + 0.03
    assert floor > trained(True)[2] + 0.3


@pytest.mark.parametrize("state_dependent_std", [True, False])
def test_log_prob_is_that_of_independent_normals(state_dependent_std: bool) -> None:
    """Also for deviations beyond the bounds, which are clipped."""
    network = GaussianPolicy((8,), 3, state_dependent_std=state_dependent_std)
    observation, action = jax.random.normal(jax.random.key(0), (6, 4)), jax.random.uniform(jax.random.key(1), (6, 3), minval=-1)
    params = quick(network.init)(jax.random.key(2), observation)
    if state_dependent_std:
        params["network"]["Linear_1"]["bias"] = jnp.array([0.1, 0.2, 0.3, -9.0, 0.5, 9.0])
        output = np.asarray(network.network.apply({"params": params["network"]}, observation))
        mean, log_std = np.tanh(output[:, :3]), output[:, 3:]
        assert log_std[:, 0].max() < LOG_STD_MIN
        assert log_std[:, 2].min() > LOG_STD_MAX
    else:
        params["log_std"] = jnp.array([-9.0, 0.5, 9.0])
        mean = np.tanh(np.asarray(network.network.apply({"params": params["network"]}, observation)))
        log_std = np.broadcast_to(params["log_std"], mean.shape)
    expected = scipy.stats.norm.logpdf(action, mean, np.exp(np.clip(log_std, -5.0, 2.0))).sum(axis=1)
    np.testing.assert_allclose(network.log_prob(params, observation, action), expected, rtol=1e-4)


def untrained(deterministic: bool, bias: list[float]) -> tuple[Any, Any]:
    """A policy whose last bias says mean (through tanh) and log σ, at an observation of zeros."""
    config = gaussian_bc.Config(hidden_dims=(8,))
    configs.override(config.act, f"deterministic={str(deterministic).lower()}")  # as the evaluator's --act does
    algorithm = gaussian_bc.make(config, Spec.plain(3, 2))
    states = quick(jax.vmap(algorithm.init))(jax.random.key(0)[None], jax.tree.map(lambda x: jnp.float32([x]), algorithm.hparams))
    last = states.policy.params["network"]["Linear_1"]
    last["kernel"], last["bias"] = jnp.zeros_like(last["kernel"]), jnp.float32([bias])
    return algorithm, states


def test_acting_by_the_mean_and_by_sampling() -> None:
    """The mean whatever the key; samples with mean and deviation of the policy, cut off at the bounds."""
    observation = jnp.zeros((4000, 3))
    bias = [float(np.arctanh(0.2)), float(np.arctanh(0.9)), np.log(0.1), np.log(0.5)]
    for seed in (0, 1):
        np.testing.assert_allclose(act(*untrained(True, bias), observation, seed)[0], np.tile([0.2, 0.9], (4000, 1)), atol=1e-6)
    samples = act(*untrained(False, bias), observation)[0]
    assert samples[:, 0].mean() == pytest.approx(0.2, abs=0.01)
    assert samples[:, 0].std() == pytest.approx(0.1, rel=0.05)
    assert samples.max() == 1.0
    assert np.mean(samples[:, 1] == 1.0) == pytest.approx(scipy.stats.norm.sf((1.0 - 0.9) / 0.5), abs=0.03)
