"""A single integrator whose state and action are images: whatever is not a picture of a dot is outside the data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask
from diffrl.types import Key

STATE_RANGE, ACTION_RANGE = 1.2, 0.3  # half widths of what the images show; the data's are 1 and 0.1
THRESHOLD = 0.1  # darker pixels are background
GOAL_RADIUS = 0.1


@dataclasses.dataclass(frozen=True)
class PixelIntegrator(ControlTask):
    """Images `[size * size]` with pixels in [0, 1] of a dot at the position and of a dot at the displacement.

    After Suh et al. 2023, released code, `examples/pixels_singleint`: there a blurred disc is drawn with an imaging library,
    here a Gaussian blob is. Rows are y, columns x. The truth is hidden: position' = position + centroid of the action image,
    held within the picture (±1.2).

    Data: position uniform in [-1, 1]^2, displacement uniform in [-0.1, 0.1]^2. Success: within 0.1 of the goal, never having
    been outside [-1.05, 1.05]^2.

    Attributes:
        x_start, x_goal: positions.
        step_weight, final_weight: of the squared displacement and of the squared distance in the end. The paper's cost has a
            term for the change between two actions too, 1/77 of the displacement's, which no running cost can express.
        size: pixels along an edge; the paper's is 32.
        blob_std: of the blob, in pixels. 1.04 has the second moments of the paper's disc at size 32.
        max_episode_steps: horizon.
    """

    x_start: tuple[float, float] = (0.8, 0.2)
    x_goal: tuple[float, float] = (-0.8, -0.2)
    step_weight: float = 500.0
    final_weight: float = 1000.0
    size: int = 16
    blob_std: float = 0.75
    max_episode_steps: int = 25

    @property
    def observation_dim(self) -> int:
        return self.size**2

    @property
    def action_dim(self) -> int:
        return self.size**2

    @property
    def action_low(self) -> tuple[float, ...]:
        return (0.0,) * self.action_dim

    @property
    def action_high(self) -> tuple[float, ...]:
        return (1.0,) * self.action_dim

    def render(self, point: Float[Array, "2"], half_width: float) -> Float[Array, " pixels"]:
        """Blob at `point` in a picture of [-half_width, half_width]^2; its brightest pixel is 1."""
        squared = ((self._centres(half_width) - point[:, None]) / (self.blob_std * 2.0 * half_width / self.size)) ** 2
        blob = jnp.exp(-0.5 * (squared[1][:, None] + squared[0][None, :]))
        return (blob / jnp.maximum(blob.max(), 1e-6)).ravel()

    def centroid(self, image: Float[Array, " pixels"], half_width: float) -> Float[Array, "2"]:
        """Centre of the bright pixels; the middle where there are none."""
        light = jnp.where(image > THRESHOLD, jnp.minimum(image, 1.0), 0.0).reshape(self.size, self.size)
        share = light / (light + 1e-6).sum()
        return jnp.stack([share.sum(axis=0), share.sum(axis=1)]) @ self._centres(half_width)[0]

    def start(self, key: Key) -> Float[Array, "2"]:
        """Always `x_start`."""
        return jnp.array(self.x_start)

    def propose(self, key: Key) -> tuple[Float[Array, "2"], Float[Array, " pixels"]]:
        """Position and picture of a displacement."""
        of_x, of_u = jax.random.split(key)
        displacement = jax.random.uniform(of_u, (2,), minval=-0.1, maxval=0.1)
        return jax.random.uniform(of_x, (2,), minval=-1.0), self.render(displacement, ACTION_RANGE)

    def inside(self, x: Float[Array, " pixels"]) -> Bool[Array, ""]:
        """Whether the dot is where the data's dots are, give or take the centroid's error."""
        return (jnp.abs(self.estimate(x)) <= 1.05).all()

    def observe(self, physical: Float[Array, "2"]) -> Float[Array, " pixels"]:
        """Picture of the position."""
        return self.render(physical, STATE_RANGE)

    def estimate(self, x: Float[Array, " pixels"]) -> Float[Array, "2"]:
        """Centroid of a state's picture."""
        return self.centroid(x, STATE_RANGE)

    @property
    def goal_observation(self) -> Float[Array, " pixels"]:
        """Picture of `x_goal`."""
        return self.render(jnp.array(self.x_goal), STATE_RANGE)

    def advance(self, physical: Float[Array, "2"], u: Float[Array, " pixels"]) -> Float[Array, "2"]:
        """Position plus the centroid of the action's picture."""
        return jnp.clip(physical + self.centroid(u, ACTION_RANGE), -STATE_RANGE, STATE_RANGE)

    def cost(self, x: Float[Array, " pixels"], u: Float[Array, " pixels"]) -> Float[Array, ""]:
        """Squared displacement that the action's picture shows."""
        return self.step_weight * (self.centroid(u, ACTION_RANGE) ** 2).sum()

    def final_cost(self, x: Float[Array, " pixels"]) -> Float[Array, ""]:
        """Squared distance of the dot to the goal."""
        return self.final_weight * self._distance(x)

    def reached(self, x: Float[Array, " pixels"]) -> Bool[Array, ""]:
        """Within 0.1 of the goal."""
        return self._distance(x) <= GOAL_RADIUS**2

    def _distance(self, x: Float[Array, " pixels"]) -> Float[Array, ""]:
        return ((self.estimate(x) - jnp.array(self.x_goal)) ** 2).sum()

    def _centres(self, half_width: float) -> Float[np.ndarray, "1 size"]:
        return ((2.0 * np.arange(self.size, dtype=np.float32)[None] + 1.0) / self.size - 1.0) * np.float32(half_width)
