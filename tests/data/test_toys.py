"""The laboratory's distributions: component weights, spirals and energies as the project's SWG and QGPO cards print them."""

import numpy as np
import pytest

from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.toys import TOYS, EnergyOf, load, points_of, truth

EIGHT = {
    1.0: [0.0719, 0.0829, 0.0957, 0.1104, 0.1273, 0.1469, 0.1694, 0.1955],
    3.0: [0.0179, 0.0275, 0.0423, 0.0649, 0.0996, 0.1529, 0.2347, 0.3602],
    10.0: [0.0000, 0.0001, 0.0006, 0.0025, 0.0105, 0.0437, 0.1822, 0.7604],
}


def shares(x: np.ndarray) -> np.ndarray:
    """Share of the points nearest to each centre of the eight Gaussians."""
    angle = np.pi / 2 + np.arange(8) * np.pi / 4
    centre = 4.0 / 1.414 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.bincount(np.argmin(((x[:, None] - centre) ** 2).sum(axis=-1), axis=1), minlength=8) / len(x)


@pytest.mark.parametrize("beta", EIGHT)
def test_truth_of_eight_gaussians(beta: float) -> None:
    n = 10_000
    found = shares(truth("8gaussians", beta, n, seed=1, pool=300_000))
    np.testing.assert_allclose(found, EIGHT[beta], atol=4 * 0.5 / np.sqrt(n) + 0.003)


@pytest.mark.parametrize(("beta", "radius"), [(0.0, 2.120), (1.0, 1.942), (5.0, 1.232), (10.0, 0.741), (15.0, 0.530)])
def test_truth_of_two_spirals(beta: float, radius: float) -> None:
    """The mean radius shrinks as β prefers the centre."""
    x = truth("2spirals", beta, 10_000, seed=1, pool=500_000)
    assert np.linalg.norm(x, axis=1).mean() == pytest.approx(radius, abs=0.03)


def test_other_toys() -> None:
    """Weights of rings, moons and checkerboard at β = 3; the swiss roll's energy."""
    rings = points_of("rings", 100_000, 0)
    radius = np.linalg.norm(truth("rings", 3.0, 10_000, 1, 300_000), axis=1)
    outer_to_inner = np.histogram(radius, [0.0, 1.1, 1.9, 2.6, 4.0])[0][::-1] / 10_000
    np.testing.assert_allclose(outer_to_inner, [0.23708, 0.08704, 0.64382, 0.03205], atol=0.025)
    assert sorted(set(rings.energy)) == [0.0, 0.333, 0.667, 1.0]
    for name in ("moons", "checkerboard"):
        points = points_of(name, 100_000, 0)
        weight = np.exp(3.0 * points.energy)
        assert weight[points.energy == 1].sum() / weight.sum() == pytest.approx(0.95257, abs=0.003)
    roll = points_of("swissroll", 1_000, 0)
    np.testing.assert_allclose(roll.energy, (roll.x**2).sum(axis=1) / 9.0)
    assert roll.energy.max() > 1.0


@pytest.mark.parametrize("name", TOYS)
def test_points_depend_on_the_seed_alone(name: str) -> None:
    a, b, c = (points_of(name, 500, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.x, b.x)
    assert not np.array_equal(a.x, c.x)
    assert np.abs(a.x).max() < 6.0


def test_as_a_dataset() -> None:
    """One scale for both axes, actions in [-1, 1], rewards the energies."""
    dataset, spec, card = build(load("toy/rings"), Transforms())
    assert card.rows == card.episodes == 1_000_000
    assert spec.action_low[0] == spec.action_low[1]
    rows = dataset[slice(1000)]
    assert np.abs(np.asarray(rows.action)).max() <= 1.0
    assert bool(np.asarray(rows.terminal).all())
    np.testing.assert_allclose(rows.reward, points_of("rings", 1_000_000, 0).energy[:1000], atol=1e-6)


def test_energy_of_a_point_is_its_neighbours() -> None:
    points = points_of("8gaussians", 2_000, 3)
    assert np.mean(EnergyOf("8gaussians")(points.x) == points.energy) > 0.95


def test_unknown_toy() -> None:
    with pytest.raises(DatasetError, match="8gaussians, 2spirals"):
        load("toy/pinwheel")
