"""The two-dimensional laboratory: distributions whose re-weighted forms p(x) ∝ q(x) e^{βe(x)} are known.

The six of QGPO's figures, which SWG's use too (Lu et al. 2023, `bandit_toy.py`), with their energies: e is "negative energy",
what is high is wanted. As data they are one-step problems without a state: the action is the point, the reward its e.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import DatasetError, Source

ROWS = 1_000_000
PREFIX = "toy/"
_TRUTH_STREAM = 1_000  # of seeds, apart from the training's 0
REACH = 4.5  # of the figures' axes


class Points(NamedTuple):
    """Points `[N, 2]` and their negative energies `[N]`."""

    x: np.ndarray
    energy: np.ndarray


def _circle(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def eight_gaussians(rng: np.random.Generator, n: int) -> Points:
    """Counter-clockwise from north, better all the way round: e = k/7."""
    label = rng.integers(8, size=n)
    centre = 4.0 * _circle(np.pi / 2 + label * np.pi / 4)
    return Points((centre + 0.5 * rng.normal(size=(n, 2))) / 1.414, label / 7.0)


def rings(rng: np.random.Generator, n: int) -> Points:
    """Four circles; from the outermost e = .667, .333, 1, 0, by the circle and not by the noisy radius."""
    label, angle = rng.integers(4, size=n), 2.0 * np.pi * rng.random(n)
    radius = np.array([3.0, 2.25, 1.5, 0.75])[label]
    x = radius[:, None] * _circle(angle)
    return Points(x + 0.08 * rng.normal(size=(n, 2)), np.array([0.667, 0.333, 1.0, 0.0])[label])


def moons(rng: np.random.Generator, n: int) -> Points:
    """Two half circles; the lower one has e = 1, the upper 0."""
    label, angle = rng.integers(2, size=n), np.pi * rng.random(n)
    upper = _circle(angle)
    x = np.where(label[:, None] == 0, upper, np.array([1.0, 0.5]) - upper) + 0.1 * rng.normal(size=(n, 2))
    return Points(2.0 * x + np.array([-1.0, -0.2]), label.astype(float))


def two_spirals(rng: np.random.Generator, n: int) -> Points:
    """Two arms; e falls from 1 at the centre to .06 outside."""
    arm = np.sqrt(rng.random(n)) * 3.0 * np.pi
    x = np.stack([-arm * np.cos(arm), arm * np.sin(arm)], axis=1) + 0.5 * rng.random((n, 2))
    x = np.where(rng.random(n)[:, None] < 0.5, x, -x) / 3.0
    return Points(x + 0.1 * rng.normal(size=(n, 2)), np.clip(1.0 - arm / 10.0, 0.0, 1.0))


def checkerboard(rng: np.random.Generator, n: int) -> Points:
    """Eight squares; every second column of them has e = 1."""
    first = rng.uniform(-2.0, 2.0, size=n)
    second = rng.random(n) - 2.0 * rng.integers(2, size=n) + np.floor(first) % 2
    x = 2.0 * np.stack([first, second], axis=1)
    good = ((x[:, 0] > 0.0) & (x[:, 0] <= 2.0)) | (x[:, 0] <= -2.0)
    return Points(x, good.astype(float))


def swiss_roll(rng: np.random.Generator, n: int) -> Points:
    """One spiral; e = ‖x‖²/9 grows outwards and exceeds 1."""
    u = 1.5 * np.pi * (1.0 + 2.0 * rng.random(n))
    x = (np.stack([u * np.cos(u), u * np.sin(u)], axis=1) + rng.normal(size=(n, 2))) / 5.0
    return Points(x, np.sum(x**2, axis=1) / 9.0)


TOYS: dict[str, Callable[[np.random.Generator, int], Points]] = {
    "8gaussians": eight_gaussians,
    "2spirals": two_spirals,
    "rings": rings,
    "moons": moons,
    "checkerboard": checkerboard,
    "swissroll": swiss_roll,
}


class Mixture(NamedTuple):
    """Equally likely Gaussians N(mean, std² I), each with an energy: means `[K, 2]`, energies `[K]`."""

    means: np.ndarray
    std: float
    energy: np.ndarray


def eight_gaussians_exactly() -> Mixture:
    """What `eight_gaussians` draws from."""
    return Mixture(4.0 * _circle(np.pi / 2 + np.arange(8) * np.pi / 4) / 1.414, 0.5 / 1.414, np.arange(8) / 7.0)


def rings_exactly(per_ring: int = 128) -> Mixture:
    """What `rings` draws from, with points on the circles so dense that their Gaussians flow together (to 0.4 %)."""
    circle = _circle(2.0 * np.pi * np.arange(per_ring) / per_ring)
    means = np.concatenate([radius * circle for radius in (3.0, 2.25, 1.5, 0.75)])
    return Mixture(means, 0.08, np.repeat([0.667, 0.333, 1.0, 0.0], per_ring))


def moons_exactly(per_moon: int = 64) -> Mixture:
    """What `moons` draws from, likewise."""
    upper = _circle(np.pi * (np.arange(per_moon) + 0.5) / per_moon)
    means = 2.0 * np.concatenate([upper, np.array([1.0, 0.5]) - upper]) + np.array([-1.0, -0.2])
    return Mixture(means, 0.2, np.repeat([0.0, 1.0], per_moon))


MIXTURES: dict[str, Callable[[], Mixture]] = {
    "8gaussians": eight_gaussians_exactly,
    "rings": rings_exactly,
    "moons": moons_exactly,
}


@lru_cache(maxsize=4)
def points_of(name: str, n: int, seed: int) -> Points:
    """n points of a toy.

    Raises:
        DatasetError: no such toy.
    """
    if name not in TOYS:
        raise DatasetError(f"there is no toy {name!r}; choose one of {', '.join(TOYS)}")
    return TOYS[name](np.random.default_rng(seed), n)


def load(id: str) -> Source:
    """`toy/NAME` as a million one-step episodes: observation 0, action x, reward e, terminal.

    `toy/NAME@targets` asks for points near a target instead: the observation is a target in [-4.5, 4.5]², the reward
    -‖x - target‖² (SRPO's figure 3). Actions are bounded by the smallest and largest coordinate of all, so that training sees
    them in [-1, 1] on one scale.

    Raises:
        DatasetError: no such toy.
    """
    name, _, variant = id.removeprefix(PREFIX).partition("@")
    if variant not in ("", "targets"):
        raise DatasetError(f"toy {id!r}: after @ only 'targets' is known, got {variant!r}")
    points = points_of(name, ROWS, seed=0)
    if variant:
        observation = np.random.default_rng(1).uniform(-REACH, REACH, (ROWS, 2))
        reward = -np.sum((points.x - observation) ** 2, axis=1)
    else:
        observation, reward = np.zeros((ROWS, 1)), points.energy
    return from_arrays(
        observation=observation,
        action=points.x,
        reward=reward,
        terminal=np.ones(ROWS),
        next_observation=observation,
        action_low=float(points.x.min()) - 1e-3,
        action_high=float(points.x.max()) + 1e-3,
        id=id,
        description=f"{name}: a two-dimensional distribution with energies (Lu et al. 2023), one step, no state",
    )


def truth(name: str, beta: float, n: int, seed: int, pool: int = 2_000_000) -> np.ndarray:
    """n independent draws of q(x) e^{βe(x)}, `[n, 2]`: importance resampling from `pool` points that no training saw.

    With replacement, unlike the papers': without it many draws at large β run out of good points and lean to worse ones. At β of
    10 and more the swiss roll's e, which has no bound, leaves hundreds of different points only.
    """
    points = points_of(name, pool, _TRUTH_STREAM + seed)
    chosen = np.random.default_rng((_TRUTH_STREAM, seed)).choice(pool, size=n, p=softmax(beta * points.energy))
    return points.x[chosen]


class EnergyOf:
    """e of any point: that of its nearest neighbour among 200,000 points of the toy, since some energies belong to labels."""

    def __init__(self, name: str) -> None:
        from scipy.spatial import KDTree  # a fifth of a second that no training needs

        points = points_of(name, 200_000, seed=7)
        self.tree, self.energy = KDTree(points.x), points.energy

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`[..., 2]` -> `[...]`."""
        return self.energy[self.tree.query(x)[1]]
