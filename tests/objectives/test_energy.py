"""What each loss of the energies finds where a whole population is one set: three places x_t, each with its own energies e."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from support import quick

from diffrl.objectives.energy import ENERGY_LOSSES, LARGEST_EXPONENT, EnergyLoss

PLACE = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
ENERGY = np.array([-1.0, 0.3, 0.4, 2.0, 0.0, 0.1, 1.5, -0.7, 0.6])
BETA = 1.7


def at_each_place(function: Any) -> np.ndarray:
    return np.array([function(ENERGY[place == PLACE]) for place in range(3)])


OPTIMA = {
    "contrastive": at_each_place(lambda e: np.log(np.mean(np.exp(BETA * e)))),
    "mse": at_each_place(lambda e: BETA * np.mean(e)),
    "exponential": at_each_place(lambda e: np.log(np.mean(np.exp(BETA * (e - ENERGY.max()))))),
}


@pytest.mark.parametrize("name", list(OPTIMA))
def test_optimum(name: EnergyLoss) -> None:
    """log E[e^{βe} | x_t], up to a constant that only the contrastive loss leaves free; of "mse" E[βe | x_t] instead."""

    @quick
    def value_and_gradient(f: jax.Array) -> Any:
        return jax.value_and_grad(lambda f: ENERGY_LOSSES[name](jnp.asarray(ENERGY), f[PLACE], BETA))(f)

    def of(f: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), value_and_gradient(jnp.asarray(f)))

    with jax.enable_x64(True):
        found = minimize(of, np.array([0.3, -0.2, 0.1]), jac=True, tol=1e-12).x
    free = found[0] - OPTIMA[name][0] if name == "contrastive" else 0.0
    np.testing.assert_allclose(found - free, OPTIMA[name], atol=1e-5)


def test_only_the_mean_differs() -> None:
    """Two of the optima are one function up to a constant, and the third is another: the data can tell them apart."""
    np.testing.assert_allclose(np.diff(OPTIMA["contrastive"]), np.diff(OPTIMA["exponential"]))
    assert np.abs(np.diff(OPTIMA["contrastive"]) - np.diff(OPTIMA["mse"])).min() > 0.1


@pytest.mark.parametrize("name", list(ENERGY_LOSSES))
def test_labels_carry_no_gradient(name: EnergyLoss) -> None:
    f = jnp.linspace(-1.0, 1.0, len(ENERGY))
    gradient = quick(jax.grad(lambda e, f: ENERGY_LOSSES[name](e, f, BETA), argnums=(0, 1)))(jnp.asarray(ENERGY), f)
    np.testing.assert_array_equal(gradient[0], 0.0)
    assert np.all(np.isfinite(gradient[1]))
    assert np.max(np.abs(gradient[1])) > 1e-3


def test_the_exponential_is_bounded() -> None:
    """Beyond e^4.5 a prediction costs no more, and e^-100 is the least label: finite at any β."""
    loss, energy = ENERGY_LOSSES["exponential"], jnp.array([0.0, 1.0])
    at = [float(loss(energy, jnp.full(2, f), 1e6)) for f in (LARGEST_EXPONENT, 50.0)]
    ceiling = np.exp(LARGEST_EXPONENT)
    assert at[0] == at[1] == pytest.approx((ceiling**2 + (ceiling - 1.0) ** 2) / 2)
