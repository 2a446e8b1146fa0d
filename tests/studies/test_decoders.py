"""Ways of decoding on exact models: the models against numbers, and what is known of the decoders."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from diffrl.data.toys import MIXTURES, points_of
from diffrl.diffusion.schedules import Level, level_at
from diffrl.studies import decoding
from diffrl.studies.distances import sliced_wasserstein

SMALL = "8gaussians"


@pytest.mark.parametrize("toy", MIXTURES)
def test_mixtures_are_the_toys(toy: str) -> None:
    """No farther from the toy's points than other points of the toy are; the energies' means agree."""
    mixture, n = MIXTURES[toy](), 20_000
    ours = decoding.true_points(mixture, 0.0, n, np.random.default_rng(0))
    some, others = points_of(toy, n, 1), points_of(toy, n, 2)
    assert sliced_wasserstein(ours, some.x) < 2.0 * sliced_wasserstein(others.x, some.x)
    assert mixture.energy.mean() == pytest.approx(some.energy.mean(), abs=0.01)


def posterior_weights(z: np.ndarray, clean: np.ndarray, level: Level) -> np.ndarray:
    """p(clean | z), over many clean points."""
    log_weight = -0.5 * np.sum((z - float(level.alpha) * clean) ** 2, axis=1) / float(level.sigma) ** 2
    return scipy.special.softmax(log_weight)


def test_model_and_value_are_posterior_means() -> None:
    """Against importance weights of a million clean points."""
    mixture, beta, x = MIXTURES[SMALL](), 3.0, np.array([[0.3, 0.9]])
    level = level_at(decoding.SCHEDULE, jnp.float32(0.4))
    points = points_of(SMALL, 1_000_000, 5)
    weight = posterior_weights(x, points.x, level)
    x0 = decoding.model_of(mixture)(jnp.asarray(x, jnp.float32), level).x0
    np.testing.assert_allclose(x0[0], weight @ points.x, atol=0.01)
    value = decoding.soft_value(mixture, beta)(jnp.asarray(x, jnp.float32), level)
    assert float(value[0]) == pytest.approx(np.log(weight @ np.exp(beta * points.energy)), abs=0.01)


def test_the_weight_is_predicted_with_the_point() -> None:
    """Of z = (x, w) the noise that SWG's network is to learn, likewise."""
    mixture, beta, z = MIXTURES[SMALL](), 3.0, np.array([[0.3, 0.9, 0.2]])
    level, points = level_at(decoding.SCHEDULE, jnp.float32(0.4)), points_of(SMALL, 1_000_000, 5)
    clean = np.column_stack([points.x, np.exp(beta * (points.energy - 1.0))])
    mean = posterior_weights(z, clean, level) @ clean
    of_point, of_weight = decoding.weighted_noise(mixture, beta)(jnp.asarray(z, jnp.float32), jnp.full(1, 0.4))
    predicted = (z - float(level.sigma) * np.concatenate([of_point, of_weight], axis=1)) / float(level.alpha)
    np.testing.assert_allclose(predicted[0], mean, atol=0.01)


def test_table_and_picture(tmp_path: Path) -> None:
    cells = {
        SMALL: [
            decoding.Cell(family, name, calls, beta, np.array([0.1, 0.2]))
            for beta in decoding.BETAS
            for family, name, calls in ((decoding.TRUE, decoding.TRUE, 0), ("f", "f of 2", 29), ("f", "f of 8", 1_130))
        ]
    }
    lines = decoding.to_markdown(cells).splitlines()
    assert lines[0] == "|  | calls | 8gaussians, β = 3 | 8gaussians, β = 10 |"
    assert lines[-1].startswith("| f of 8 | 1,130 | 0.150 (0.100 … 0.200) |")
    assert decoding.picture(cells, tmp_path / "a.png").stat().st_size > 5_000


@pytest.mark.slow
def test_calls_and_distances() -> None:
    """Calls are those of the methods; exact guidance is near the truth, where the model alone is far."""
    found = {each.name: each for each in decoding.decoders(MIXTURES[SMALL](), 10.0)}
    assert found["SVDD, predicted data, M = 8"].calls == 113
    assert found["SVDD, soft value, M = 8"].calls == 15
    assert found["softmax of N = 32"].calls == 480
    true = decoding.true_points(MIXTURES[SMALL](), 10.0, 500, np.random.default_rng(0))
    distance = {}
    for name in ("the model alone", "QGPO: energy guidance", "SVDD, soft value, M = 8"):
        drawn = jax.jit(found[name].draw, static_argnums=1)(jax.random.key(0), 500)
        distance[name] = sliced_wasserstein(np.asarray(drawn), true)
    assert distance["QGPO: energy guidance"] < 0.2 < distance["SVDD, soft value, M = 8"] < 0.6
    assert distance["the model alone"] > 1.5
