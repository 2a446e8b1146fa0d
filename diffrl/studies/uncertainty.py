"""Which measure of uncertainty knows where a fit is wrong: smoothed distance to the data, a Gaussian process, an ensemble.

The one-dimensional example of Suh et al. 2023 (released code, `admissibility_stability`). Nothing has units.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve

from diffrl.diffusion import empirical
from diffrl.learner import forward
from diffrl.networks.ensembles import ensemble
from diffrl.networks.mlp import MLP
from diffrl.studies.scores import fit
from diffrl.types import Key

FITTED, SIGMA = np.array([[0.771896], [-0.844175], [0.959292]], np.float32), 0.1


class Uncertainty(NamedTuple):
    """A fit of y = x² sin x, how unsure it is, and its true error |prediction - y|; all `[n]`.

    `value` is a deviation, as y, or a distance, as x; `scale` is what the figure of the released code multiplies it by.
    """

    name: str
    scale: float
    prediction: np.ndarray
    value: np.ndarray
    error: np.ndarray

    @property
    def needed(self) -> float:
        """The factor that it has to be multiplied by to cover the error wherever that is above 0.03."""
        wrong = self.error > 0.03
        with np.errstate(divide="ignore"):
            return float(np.max(self.error[wrong] / self.value[wrong]))

    @property
    def minima(self) -> Int[np.ndarray, " k"]:
        """Indices of inner points below both neighbours: where a descent on it may end."""
        values = self.value
        return 1 + np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:]))


def target(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The function that is fitted."""
    return x**2 * np.sin(x)


def uncertainties(key: Key, x: Float[np.ndarray, " n"], *, updates: int = 1000, width: int = 512) -> tuple[Uncertainty, ...]:
    """Three measures of uncertainty of a fit to three points: smoothed distance, Gaussian process, ensemble of three.

    The distance is √(2 (d_σ² + σ² log N)) ≥ min |x - z_i|: times the error's Lipschitz constant a bound of the error. It is no
    model's own and goes with the ensemble's mean.
    """
    at, points = jnp.asarray(x, jnp.float32)[:, None], jnp.asarray(FITTED)
    network = ensemble(MLP, 3)((width, width), 1, activation=nn.elu)
    goal = jnp.asarray(target(FITTED))
    params = fit(network, (points,), lambda params, _: jnp.mean((forward(network, params, points) - goal) ** 2), key, updates)
    members = np.asarray(forward(network, params, at), np.float64)[..., 0]
    mean, variance = gaussian_process(FITTED[:, 0], target(FITTED[:, 0]), x)
    squared = 2.0 * SIGMA**2 * (np.asarray(empirical.energy(at, points, SIGMA), np.float64) + np.log(len(FITTED)))
    found = (
        ("smoothed distance", 0.4, members.mean(axis=0), np.sqrt(squared)),
        ("Gaussian process", 3.0, mean, np.sqrt(variance)),
        ("ensemble of 3", 40.0, members.mean(axis=0), members.std(axis=0)),
    )
    return tuple(Uncertainty(*one, np.abs(one[2] - target(x))) for one in found)


def gaussian_process(
    x: Float[np.ndarray, " rows"], y: Float[np.ndarray, " rows"], at: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and variance of the noise-free process with kernel a exp(-½ (x - x')²/l²), at the likeliest l in [0.1, 10] and a."""

    def kernel(one: np.ndarray, other: np.ndarray, length: float) -> np.ndarray:
        return np.exp(-0.5 * ((one[:, None] - other) / length) ** 2)

    def solve(length: float, right: np.ndarray) -> tuple[np.ndarray, float]:
        factor = cho_factor(kernel(x, x, length) + 1e-10 * np.eye(len(x)), lower=True)
        return cho_solve(factor, right), 2.0 * float(np.sum(np.log(np.diag(factor[0]))))

    x, y, at = x.astype(np.float64), y.astype(np.float64), at.astype(np.float64)

    def surprise(length: float) -> float:
        weights, log_determinant = solve(length, y)
        return len(x) * float(np.log(y @ weights / len(x))) + log_determinant  # the likeliest amplitude is put in

    length = min(np.geomspace(0.1, 10.0, 400).tolist(), key=surprise)
    weights, _ = solve(length, y)
    cross = kernel(x, at, length)
    variance = (y @ weights / len(x)) * (1.0 - np.sum(cross * solve(length, cross)[0], axis=0))
    return weights @ cross, np.maximum(variance, 0.0)
