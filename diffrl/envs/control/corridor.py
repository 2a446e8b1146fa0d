"""A single integrator in an L-shaped corridor that is known from data only: nothing stops a plan from cutting the corner."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask
from diffrl.types import Key

GOAL_RADIUS = 0.1


@dataclasses.dataclass(frozen=True)
class Corridor(ControlTask):
    """x' = x + 0.1 u in the plane, |u| <= 1 per axis; without units (Suh et al. 2023, released code, `examples/corridor`).

    Arms along both positive axes. The walls are in the data only: x uniform in one arm or the other, u uniform, kept where
    x and x' are inside. Success: within 0.1 of the goal, never having left the corridor.

    Attributes:
        x_start, x_goal: the task.
        path_weight, action_weight, final_weight: of the length of a step, of ‖u‖^2, and of the squared distance in the end.
        width, reach: of the arms.
        max_episode_steps: horizon.
    """

    x_start: tuple[float, float] = (0.0, 1.0)
    x_goal: tuple[float, float] = (1.0, 0.0)
    path_weight: float = 0.1
    action_weight: float = 1e-3
    final_weight: float = 100.0
    width: float = 0.2
    reach: float = 2.0
    max_episode_steps: int = 40

    observation_dim = action_dim = 2
    action_low, action_high = (-1.0, -1.0), (1.0, 1.0)
    filters_next = True

    def start(self, key: Key) -> Float[Array, "2"]:
        """Always `x_start`."""
        return jnp.array(self.x_start)

    def propose(self, key: Key) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """x in the horizontal or the vertical arm; the square that they share is in both."""
        of_arm, of_x, of_u = jax.random.split(key, 3)
        half = self.width / 2
        x = jax.random.uniform(of_x, (2,), minval=-half, maxval=jnp.array([self.reach, half]))
        return jnp.where(jax.random.bernoulli(of_arm), x, x[::-1]), jax.random.uniform(of_u, (2,), minval=-1.0)

    def inside(self, x: Float[Array, "2"]) -> Bool[Array, ""]:
        """In one of the arms, whose open ends are a step further out than x of the data."""
        half = self.width / 2
        return (x >= -half).all() & (x <= half).any() & (x <= self.reach + 0.1).all()

    @property
    def goal_observation(self) -> Float[Array, "2"]:
        """`x_goal`."""
        return jnp.array(self.x_goal)

    def advance(self, physical: Float[Array, "2"], u: Float[Array, "2"]) -> Float[Array, "2"]:
        """x + 0.1 u."""
        return physical + 0.1 * u

    def cost(self, x: Float[Array, "2"], u: Float[Array, "2"]) -> Float[Array, ""]:
        """Length of the step and effort."""
        squared = (u**2).sum()
        # The length's gradient is infinite where there is no step.
        return self.path_weight * 0.1 * jnp.sqrt(squared + 1e-12) + self.action_weight * squared

    def final_cost(self, x: Float[Array, "2"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.final_weight * self._distance(x)

    def reached(self, x: Float[Array, "2"]) -> Bool[Array, ""]:
        """Within 0.1 of the goal."""
        return self._distance(x) <= GOAL_RADIUS**2

    def _distance(self, x: Float[Array, "2"]) -> Float[Array, ""]:
        return ((x - jnp.array(self.x_goal)) ** 2).sum()
