"""Distances between samples of known distributions."""

from collections.abc import Callable

import numpy as np
import pytest

from diffrl.studies.distances import mmd, sliced_wasserstein


def normal(seed: int, mean: float = 0.0, n: int = 1_000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) + np.array([mean, 0.0])


def test_sliced_wasserstein_of_a_shift() -> None:
    """W1 of a shift by m along a direction at angle φ is m |cos φ|: 2m/π on average."""
    found = sliced_wasserstein(normal(0), normal(0, mean=1.5), num_projections=2_000)
    assert found == pytest.approx(1.5 * 2 / np.pi, rel=0.03)


def test_mmd_of_a_shift() -> None:
    """With a Gaussian kernel of variance s², MMD² of N(0, I) and N(m, I) in the plane is 2 s²/(s²+2) (1 - e^{-m²/2(s²+2)})."""
    a, b = normal(0, n=3_000), normal(1, mean=1.0, n=3_000)
    width = np.median(((b[:500, None] - b[None, :500]) ** 2).sum(axis=-1))
    expected = np.mean([2 * s / (s + 2) * (1 - np.exp(-1 / (2 * (s + 2)))) for s in width * np.array([0.25, 1.0, 4.0])])
    assert mmd(a, b) ** 2 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("distance", [sliced_wasserstein, mmd])
def test_same_distribution_is_nearer_than_another(distance: Callable[[np.ndarray, np.ndarray], float]) -> None:
    assert 0.0 < 3.0 * distance(normal(0), normal(1)) < distance(normal(0), normal(1, mean=0.5))
    assert distance(normal(0), normal(0)) == 0.0


@pytest.mark.parametrize("distance", [sliced_wasserstein, mmd])
def test_shapes_must_agree(distance: Callable[[np.ndarray, np.ndarray], float]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        distance(normal(0), normal(1, n=10))
