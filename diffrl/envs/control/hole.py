"""A single integrator in the plane whose data have a hole: the straight way to the goal leads through what nobody has seen."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask
from diffrl.types import Key

GOAL_RADIUS = 0.05


@dataclasses.dataclass(frozen=True)
class HoleIntegrator(ControlTask):
    """x' = x + u in two dimensions, without units (Suh et al. 2023, released code, `examples/light_dark`).

    Data: x uniform in [-1, 1]^2 without the open disc of radius 0.4, u uniform in [-0.1, 0.1]^2 and independent of x; x' may
    lie in the hole. Success: within 0.05 of the goal, never having been in the hole or beyond the square.

    Attributes:
        x_start, x_goal: the task.
        state_weight, action_weight, final_weight: of the squared distance to the goal in every step, of ‖u‖^2, and of the
            squared distance in the end.
        hole_radius: of the disc around the origin.
        max_episode_steps: horizon.
    """

    x_start: tuple[float, float] = (0.8, 0.2)
    x_goal: tuple[float, float] = (-0.8, 0.2)
    state_weight: float = 0.0
    action_weight: float = 1.0
    final_weight: float = 100.0
    hole_radius: float = 0.4
    max_episode_steps: int = 25

    observation_dim = action_dim = 2
    action_low, action_high = (-0.1, -0.1), (0.1, 0.1)

    def start(self, key: Key) -> Float[Array, "2"]:
        """Always `x_start`."""
        return jnp.array(self.x_start)

    def propose(self, key: Key) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """x in the whole square."""
        of_x, of_u = jax.random.split(key)
        return jax.random.uniform(of_x, (2,), minval=-1.0), jax.random.uniform(of_u, (2,), minval=-0.1, maxval=0.1)

    def inside(self, x: Float[Array, "2"]) -> Bool[Array, ""]:
        """In the square and not in the hole."""
        return (jnp.abs(x) <= 1.0).all() & ((x**2).sum() >= self.hole_radius**2)

    @property
    def goal_observation(self) -> Float[Array, "2"]:
        """`x_goal`."""
        return jnp.array(self.x_goal)

    def advance(self, physical: Float[Array, "2"], u: Float[Array, "2"]) -> Float[Array, "2"]:
        """x + u."""
        return physical + u

    def cost(self, x: Float[Array, "2"], u: Float[Array, "2"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.state_weight * self._distance(x) + self.action_weight * (u**2).sum()

    def final_cost(self, x: Float[Array, "2"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.final_weight * self._distance(x)

    def reached(self, x: Float[Array, "2"]) -> Bool[Array, ""]:
        """Within 0.05 of the goal."""
        return self._distance(x) <= GOAL_RADIUS**2

    def _distance(self, x: Float[Array, "2"]) -> Float[Array, ""]:
        return ((x - jnp.array(self.x_goal)) ** 2).sum()
