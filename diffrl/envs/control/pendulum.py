"""A pendulum seen as a point on a circle: plans must stay on the circle, and nobody tells the planner so."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask
from diffrl.types import Key

MASS, LENGTH, GRAVITY, DAMPING, DT = 1.0, 0.5, 9.81, 0.1, 0.05  # kg, m, m/s^2, N m s, s
MAX_SPEED = 6.0  # rad/s, of the data
GOAL_RADIUS, GOAL_SPEED = 0.05, 0.5


@dataclasses.dataclass(frozen=True)
class PendulumKeypoints(ControlTask):
    """Observation (l cosθ, l sinθ, θ') in m and rad/s, θ = 0 up; u in N m; explicit midpoint steps of 50 ms.

    After Suh et al. 2023, released code, `examples/pendulum`. Data: θ and θ' uniform in [-6, 6], u uniform in ±5; x' may be
    faster. Success: within 5 cm and 0.5 rad/s of upright and at rest, never having been faster than 6 rad/s.

    Attributes:
        state_weight, action_weight, final_weight: of the squared distance to upright in every step, of u^2, and of the
            squared distance in the end. The paper's trajectory ends exactly at the goal, its receding-horizon variant has
            weights 10, 1 and 50.
        max_episode_steps: horizon.
    """

    state_weight: float = 0.0
    action_weight: float = 1.0
    final_weight: float = 1000.0
    max_episode_steps: int = 25

    observation_dim, action_dim = 3, 1
    action_low, action_high = (-5.0,), (5.0,)

    def start(self, key: Key) -> Float[Array, "2"]:
        """Hanging at rest."""
        return jnp.array([jnp.pi, 0.0])

    def propose(self, key: Key) -> tuple[Float[Array, "2"], Float[Array, "1"]]:
        """(θ, θ') and u, uniform."""
        of_x, of_u = jax.random.split(key)
        return jax.random.uniform(of_x, (2,), minval=-6.0, maxval=6.0), jax.random.uniform(of_u, (1,), minval=-5.0, maxval=5.0)

    def inside(self, x: Float[Array, "3"]) -> Bool[Array, ""]:
        """Not faster than the data."""
        return jnp.abs(x[2]) <= MAX_SPEED

    def observe(self, physical: Float[Array, "2"]) -> Float[Array, "3"]:
        """Keypoint and angular velocity of (θ, θ')."""
        angle, spin = physical
        return jnp.stack([LENGTH * jnp.cos(angle), LENGTH * jnp.sin(angle), spin])

    def estimate(self, x: Float[Array, "3"]) -> Float[Array, "2"]:
        """(θ, θ') of the nearest point of the circle."""
        # The angle's gradient is infinite in the centre, where a plan may pass.
        centred = (x[:2] ** 2).sum() < 1e-12
        return jnp.stack([jnp.arctan2(jnp.where(centred, 0.0, x[1]), jnp.where(centred, 1.0, x[0])), x[2]])

    @property
    def goal_observation(self) -> Float[Array, "3"]:
        """Upright and at rest."""
        return jnp.array([LENGTH, 0.0, 0.0])

    def advance(self, physical: Float[Array, "2"], u: Float[Array, "1"]) -> Float[Array, "2"]:
        """Midpoint rule on (θ, θ')."""

        def derivative(state: Array) -> Array:
            angle, spin = state
            torque = u[0] - DAMPING * spin + MASS * GRAVITY * LENGTH * jnp.sin(angle)
            return jnp.stack([spin, torque / (MASS * LENGTH**2)])

        return physical + DT * derivative(physical + 0.5 * DT * derivative(physical))

    def cost(self, x: Float[Array, "3"], u: Float[Array, "1"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.state_weight * self._distance(x) + self.action_weight * (u**2).sum()

    def final_cost(self, x: Float[Array, "3"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.final_weight * self._distance(x)

    def reached(self, x: Float[Array, "3"]) -> Bool[Array, ""]:
        """Near upright and at rest."""
        upright = ((x[:2] - jnp.array([LENGTH, 0.0])) ** 2).sum() <= GOAL_RADIUS**2
        return upright & (jnp.abs(x[2]) <= GOAL_SPEED)

    def _distance(self, x: Float[Array, "3"]) -> Float[Array, ""]:
        return ((x - jnp.array([LENGTH, 0.0, 0.0])) ** 2).sum()
