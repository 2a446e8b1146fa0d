"""Flow matching: the algebra with the schedule `RectifiedFlow` and the target "velocity", as policies use it.

Time runs from data to noise here as everywhere: x_t = (1 - t) x_0 + t z. Papers on flows mostly count 1 - t, so that their
velocity is ours with the sign changed, and their Euler steps from i/M to (i + 1)/M are ours from 1 - i/M down.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.objectives import denoising_loss, uniform_times
from diffrl.diffusion.samplers import Solver, ddim, midpoint, sample
from diffrl.diffusion.schedules import Grid, RectifiedFlow, grid
from diffrl.diffusion.targets import Model, Predict, as_model
from diffrl.types import Key

FLOW = RectifiedFlow()
SolverName = Literal["euler", "midpoint"]
_SOLVERS: dict[SolverName, Solver] = {"euler": ddim(), "midpoint": midpoint()}  # Euler's method in t is DDIM's step


def flow_matching_loss(predict: Predict, x0: Float[Array, "batch *dims"], key: Key) -> Float[Array, ""]:
    """E (v(x_t, t) - (z - x_0))², t ~ U[0, 1], its mean over all numbers of an example (Lipman et al. 2023)."""
    total = denoising_loss(predict, FLOW, x0, key, target="velocity", times=uniform_times(0.0))
    return total / x0[0].size


def flow_grid(num_steps: int) -> Grid:
    """Equal steps from noise to data, all of them the solver's own: a velocity is known at the data too."""
    return grid(FLOW, num_steps, t_min=0.0)


def flow_map(
    predict: Predict, levels: Grid, noise: Float[Array, "batch *dims"], solver: SolverName = "euler"
) -> Float[Array, "batch *dims"]:
    """Where the flow takes this noise by one ODE solver's steps along `flow_grid`: a map, in which nothing is drawn."""
    return followed(as_model(predict, FLOW, "velocity"), levels, noise, solver)


def followed(
    model: Model, levels: Grid, noise: Float[Array, "batch *dims"], solver: SolverName = "euler"
) -> Float[Array, "batch *dims"]:
    """`flow_map` of a model that is put together from velocities, as a guided one is."""
    unused = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32))
    return jnp.asarray(sample(model, levels, _SOLVERS[solver], unused, noise))
