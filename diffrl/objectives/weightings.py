"""What a loss of V says of a policy: generalised implicit Q-learning (Hansen-Estruch et al. 2023, arXiv 2304.10573, sec. 4).

With V = argmin E f(Q(s, a) - V) over the data's actions, f convex and least at 0, V is the value of π ∝ w μ for the weight
w = |f'(A)| / |A| of the advantage A = Q - V (theorem 4.1).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffrl.objectives.value import expectile_loss

Number = Float[Array, ""] | np.floating | float


class Weighting(NamedTuple):
    """w of an advantage, and the loss of V that goes with it; both are given hyper-parameters with `expectile` and `beta`."""

    weight: Callable[[Array, Any], Array]
    value_loss: Callable[[Array, Any], Array]


def expectile_weight(advantage: Float[Array, "*batch"], expectile: Number) -> Float[Array, "*batch"]:
    """|τ - 1{A ≤ 0}|."""
    return jnp.where(advantage > 0.0, expectile, 1.0 - expectile)


def quantile_loss(error: Float[Array, "batch"], quantile: Number) -> Float[Array, ""]:
    """mean |τ - 1{u ≤ 0}| |u|."""
    return jnp.mean(expectile_weight(error, quantile) * jnp.abs(error))


def quantile_weight(advantage: Float[Array, "*batch"], quantile: Number, floor: float = 1e-6) -> Float[Array, "*batch"]:
    """|τ - 1{A ≤ 0}| / |A|, where the released code divides by A; unbounded at A = 0, so held at |A| = `floor`."""
    return expectile_weight(advantage, quantile) / jnp.maximum(jnp.abs(advantage), floor)


def linex_loss(error: Float[Array, "batch"], h: Number) -> Float[Array, ""]:
    """Gradient e^{hu} - 1, the exponential held at 6 as in the released code: V = log E e^{hQ} / h where none is held."""
    growth = jnp.minimum(jnp.exp(jnp.minimum(h * error, 6.0)), 6.0)  # the inner bound keeps it finite
    return jnp.mean(jax.lax.stop_gradient(growth - 1.0) * error)


def linex_weight(advantage: Float[Array, "*batch"], h: Number) -> Float[Array, "*batch"]:
    """h |e^{hA} - 1| / |A| with its limit h² at A = 0, where the quotient is 0/0; unbounded above, so cut at A = 6/h."""
    scaled = jnp.minimum(h * advantage, 6.0)
    small = jnp.abs(scaled) < 1e-4
    return h**2 * jnp.where(small, 1.0 + scaled / 2.0, jnp.expm1(scaled) / jnp.where(small, 1.0, scaled))


ImplicitName = Literal["expectile", "quantile", "linex"]
# The losses of V whose weights are theirs.
IMPLICIT: dict[ImplicitName, Weighting] = {
    "expectile": Weighting(
        lambda advantage, hparams: expectile_weight(advantage, hparams.expectile),
        lambda error, hparams: expectile_loss(error, hparams.expectile),
    ),
    "quantile": Weighting(
        lambda advantage, hparams: quantile_weight(advantage, hparams.expectile),
        lambda error, hparams: quantile_loss(error, hparams.expectile),
    ),
    "linex": Weighting(
        lambda advantage, hparams: linex_weight(advantage, hparams.beta),
        lambda error, hparams: linex_loss(error, hparams.beta),
    ),
}
