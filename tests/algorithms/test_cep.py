"""Contrastive energy prediction against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    EIGHT,
    chosen,
    eight_modes,
    make_dataset,
    quick,
    runs_of,
    train_stages,
)

from diffrl.algorithms import cep
from diffrl.diffusion.dpm_solver import dpm_solver
from diffrl.diffusion.samplers import sample
from diffrl.diffusion.schedules import LinearVP, grid, level_at
from diffrl.objectives.energy import contrastive_loss
from diffrl.studies.decoding import guided_model
from diffrl.types import Spec

SCHEDULE = LinearVP()


def test_uniform_labels() -> None:
    """β = 0: the minimum is log K at constant f, and nothing lower is reached."""
    energy, f = jnp.linspace(-1.0, 1.0, 16), jax.random.normal(jax.random.key(0), (16,))
    assert float(contrastive_loss(energy, jnp.full(16, 3.0), 0.0)) == pytest.approx(np.log(16), rel=1e-6)
    assert float(contrastive_loss(energy, f, 0.0)) > np.log(16)


def test_loss_is_at_least_the_labels_entropy() -> None:
    energy, beta = jnp.linspace(-1.0, 1.0, 16), 5.0
    labels = np.asarray(jax.nn.softmax(beta * energy))
    entropy = -np.sum(labels * np.log(labels))
    assert float(contrastive_loss(energy, beta * energy + 2.0, beta)) == pytest.approx(entropy, rel=1e-5)
    assert float(contrastive_loss(energy, 0.9 * beta * energy, beta)) > entropy


@pytest.mark.parametrize(
    ("size", "beta", "t", "slopes"),
    chosen(
        [
            (4, 1.0, 0.3, (0.549, 0.540)),
            (16, 1.0, 0.3, (0.604, 0.593)),
            (64, 1.0, 0.3, (0.624, 0.619)),
            (16, 3.0, 0.3, (1.30, 1.13)),
        ],
        2,
    ),
)
def test_bias_of_small_sets(size: int, beta: float, t: float, slopes: tuple[float, float]) -> None:
    """For q = N(0, 1) and e = x a cubic f fitted to sets of K has these slopes at 0 and 1 (exact: .6296 and 1.889)."""
    data_key, noise_key = jax.random.split(jax.random.key(0))
    x0 = jax.random.normal(data_key, (400_000 // size, size))
    level = level_at(SCHEDULE, jnp.float32(t))
    x = level.alpha * x0 + level.sigma * jax.random.normal(noise_key, x0.shape)

    def loss(c: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(contrastive_loss, in_axes=(0, 0, None))(x0, c[0] * x + c[1] * x**2 + c[2] * x**3, beta))

    @jax.jit
    def newton(c: jax.Array) -> jax.Array:
        return c - jnp.linalg.solve(jax.hessian(loss)(c), jax.grad(loss)(c))

    c = jnp.array([beta * float(level.alpha), 0.0, 0.0])
    for _ in range(6):
        c = newton(c)
    found = (float(c[0]), float(c[0] + 2 * c[1] + 3 * c[2]))
    np.testing.assert_allclose(found, slopes, atol=0.02 * max(1.0, beta))


@pytest.mark.parametrize("beta", chosen([0.0, 3.0, 10.0], 1))
def test_exact_guidance_of_eight_gaussians(beta: float) -> None:
    """With 25 steps of the second-order multistep solver: mode weights within .015 in total variation."""
    start = jax.random.normal(jax.random.key(0), (20_000, 2))
    levels = grid(SCHEDULE, 25, spacing="log_snr")
    x = np.asarray(sample(guided_model(EIGHT, beta), levels, dpm_solver(2), jax.random.key(1), start, unroll=False))
    nearest, found = eight_modes(x)
    expected = np.asarray(jax.nn.softmax(beta * jnp.arange(8) / 7.0))
    assert 0.5 * np.abs(found - expected).sum() < 0.015
    spread = (x - EIGHT.means[nearest])[nearest == 7].std()
    assert spread == pytest.approx(EIGHT.std, rel=0.06)


@pytest.mark.slow
def test_learns_a_tilted_gaussian() -> None:
    """N(0, .3²) with e = x and β = 3 is N(.27, .3²); scale 0 gives the data back."""
    rng = np.random.default_rng(0)
    action = 0.3 * rng.normal(size=(8_000, 1)).clip(-3, 3)
    data = make_dataset(np.zeros((8_000, 1)), action, action[:, 0])
    config = cep.Config(
        learning_rate=2e-3,
        energy_learning_rate=2e-3,
        behavior_hidden_dims=(64, 64),
        energy_hidden_dims=(64, 64),
        behavior_updates=1_500,
        energy_updates=1_500,
        batch_size=256,
    )
    states = train_stages(cep.make(config, Spec.plain(1, 1)), runs_of(config), data)
    state = jax.tree.map(lambda leaf: leaf[0], states)
    for scale, mean in ((0.0, 0.0), (1.0, 0.27)):
        config.act = cep.Act(guidance_scale=scale)
        algorithm = cep.make(config, Spec.plain(1, 1))
        x = np.asarray(quick(algorithm.act)(algorithm.policy(state), (), jnp.zeros((4_000, 1)), jax.random.key(0))[0])
        assert x.mean() == pytest.approx(mean, abs=0.06)
        assert x.std() == pytest.approx(0.3, abs=0.06)
