"""Cart-pole swing-up with data in a box of states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask
from diffrl.types import Key

CART_MASS, POLE_MASS, LENGTH, GRAVITY, DT = 10.0, 1.0, 0.5, 9.81, 0.05  # kg, kg, m, m/s^2, s
LOW = np.array([-5.0, -np.pi, -8.0, -12.0], np.float32)
HIGH = np.array([5.0, 1.5 * np.pi, 8.0, 12.0], np.float32)
GOAL = np.array([0.0, np.pi, 0.0, 0.0], np.float32)
WEIGHTS = np.array([1.0, 1.0, 0.1, 0.1], np.float32)
REACHED = 0.1  # of the squared distance in `final_cost`: 0.3 rad, or 1 m/s, from upright and at rest


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUp(ControlTask):
    """State (p, θ, p', θ') in m and rad, θ = 0 hanging; u in N on the cart; explicit midpoint steps of 50 ms.

    After Suh et al. 2023, released code, `examples/cartpole`. There a slip of operator precedence leaves u in the cart's
    acceleration undivided by the mass, so the cart answers ten times too strongly: plant "code", to compare with the
    authors' figures. Plant "true" divides it.

    Data: x uniform in a box, u uniform in ±80 N, kept where x and x' are in the box. Success: weighted squared distance to
    upright at most 0.1, never having left the box.

    Attributes:
        plant: "true" or "code".
        state_weight: of the squared distance to upright, diag(1, 1, 0.1, 0.1), in every step; 0 in the paper.
        action_weight: of u^2; 0 in the paper.
        max_episode_steps: horizon, 3 s.
    """

    plant: str = "true"
    state_weight: float = 0.0
    action_weight: float = 0.0
    max_episode_steps: int = 60

    observation_dim, action_dim = 4, 1
    action_low, action_high = (-80.0,), (80.0,)
    filters_next = True

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown plant."""
        if self.plant not in ("true", "code"):
            raise ValueError(f"plant must be 'true' or 'code', got {self.plant!r}")

    def start(self, key: Key) -> Float[Array, "4"]:
        """Hanging at rest."""
        return jnp.zeros(4)

    def propose(self, key: Key) -> tuple[Float[Array, "4"], Float[Array, "1"]]:
        """Uniform in both boxes."""
        of_x, of_u = jax.random.split(key)
        return jax.random.uniform(of_x, (4,), minval=LOW, maxval=HIGH), jax.random.uniform(of_u, (1,), minval=-80.0, maxval=80.0)

    def inside(self, x: Float[Array, "4"]) -> Bool[Array, ""]:
        """In the box of the data."""
        return ((x >= LOW) & (x <= HIGH)).all()

    def derivative(self, x: Float[Array, "4"], u: Float[Array, "1"]) -> Float[Array, "4"]:
        """dx/dt."""
        _, angle, speed, spin = x
        sin, cos, force = jnp.sin(angle), jnp.cos(angle), u[0]
        mass = CART_MASS + POLE_MASS * sin**2
        swing = POLE_MASS * sin * (LENGTH * spin**2 + GRAVITY * cos)
        push = force + swing / mass if self.plant == "code" else (force + swing) / mass
        turn = -force * cos - POLE_MASS * LENGTH * spin**2 * cos * sin - (CART_MASS + POLE_MASS) * GRAVITY * sin
        return jnp.stack([speed, spin, push, turn / (mass * LENGTH)])

    def advance(self, physical: Float[Array, "4"], u: Float[Array, "1"]) -> Float[Array, "4"]:
        """Midpoint rule."""
        return physical + DT * self.derivative(physical + 0.5 * DT * self.derivative(physical, u), u)

    def cost(self, x: Float[Array, "4"], u: Float[Array, "1"]) -> Float[Array, ""]:
        """Quadratic; zero by default."""
        return self.state_weight * self.final_cost(x) + self.action_weight * (u**2).sum()

    def final_cost(self, x: Float[Array, "4"]) -> Float[Array, ""]:
        """Weighted squared distance to upright and at rest in the middle."""
        return (WEIGHTS * (x - GOAL) ** 2).sum()

    def reached(self, x: Float[Array, "4"]) -> Bool[Array, ""]:
        """Near upright and at rest."""
        return self.final_cost(x) <= REACHED
