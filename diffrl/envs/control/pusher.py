"""Pushing a box by its keypoints: a quasi-static simulator in closed form in place of the paper's robot and Drake model."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from diffrl.envs.control.base import ControlTask, Episodes
from diffrl.types import Key

HALF = np.array([0.04335, 0.08515], np.float32)  # m, half edges of the YCB sugar box
CORNERS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [0, 0]], np.float32) * HALF  # and the centre
RADIUS = 0.035  # m, of the pusher
SPREAD = 0.05074  # m, mean distance of the box's points from its centre: what its friction's torque is per force
SUBSTEPS = 20
GOAL_RADIUS = 0.03


@dataclasses.dataclass(frozen=True)
class KeypointPusher(ControlTask):
    """Observation: corners and centre of the box, then the pusher, as (x, y) in m; u displaces the pusher, m.

    The set-up of Suh et al. 2023, released code, `examples/box_keypoints`. The simulator is none of theirs: the box on the
    table follows the least friction power (an ellipsoidal limit surface) that keeps the pusher outside of it, and contact
    sticks or slides (Coulomb). Physical state: box (x, y, θ) and pusher (x, y).

    Data: demonstrations of 10 pushes, mostly straight ahead, from behind the box. Success: root mean square error of the
    keypoints at most 3 cm.

    Attributes:
        goal: pose (x, y, θ) whose keypoints are to be reached.
        state_weight, action_weight, final_weight: of the sum of the keypoints' squared distances in every step, of ‖u‖^2, and
            of the distances in the end.
        friction: coefficient between pusher and box.
        max_episode_steps: horizon.
    """

    goal: tuple[float, float, float] = (0.68, 0.1, 0.3)
    state_weight: float = 0.0
    action_weight: float = 0.1
    final_weight: float = 1.0
    friction: float = 0.3
    max_episode_steps: int = 20

    observation_dim, action_dim = 12, 2
    action_low, action_high = (-0.05, -0.05), (0.05, 0.05)
    data_steps = 10

    def start(self, key: Key) -> Float[Array, "5"]:
        """The box near (0.5, 0, 0), the pusher 5 mm behind its -x face."""
        of_pose, of_offset = jax.random.split(key)
        width = jnp.array([0.03, 0.05, 0.3])
        pose = jnp.array([0.5, 0.0, 0.0]) + width * jax.random.uniform(of_pose, (3,), minval=-1.0)
        offset = jax.random.uniform(of_offset, minval=-0.06, maxval=0.06)
        behind = jnp.stack([-(HALF[0] + RADIUS + 0.005), offset])
        return jnp.concatenate([pose, pose[:2] + _rotation(pose[2]) @ behind])

    def propose(self, key: Key) -> tuple[Float[Array, "5"], Float[Array, "2"]]:
        """One step of one demonstration."""
        of_time, of_path = jax.random.split(key)
        physical, action = self._demonstration(of_path)
        time = jax.random.randint(of_time, (), 0, self.data_steps)
        return physical[time], action[time]

    def keeps(self, physical: Float[Array, "5"], u: Float[Array, "2"]) -> Bool[Array, ""]:
        """Demonstrations are data as they are."""
        return jnp.ones((), bool)

    def demonstrations(self, key: Key, n: int) -> tuple[Float[Array, "n steps_and_one 12"], Float[Array, "n steps 2"]]:
        """Observations and actions of `n` demonstrations."""
        physical, action = jax.vmap(self._demonstration)(jax.random.split(key, n))
        return jax.vmap(jax.vmap(self.observe))(physical), action

    @partial(jax.jit, static_argnums=(0, 2))
    def episodes(self, key: Key, n: int) -> Episodes:
        """`n` demonstrations."""
        return Episodes(*self.demonstrations(key, n), jnp.full(n, self.data_steps))

    def observe(self, physical: Float[Array, "5"]) -> Float[Array, "12"]:
        """Keypoints and pusher."""
        return jnp.concatenate([self._keypoints(physical[:3]).ravel(), physical[3:]])

    def estimate(self, x: Float[Array, "12"]) -> Float[Array, "5"]:
        """Centre from its keypoint, angle from the long way round through the corners."""
        corner = x[:8].reshape(4, 2)
        forward = corner[0] - corner[1] + corner[3] - corner[2]
        collapsed = (forward**2).sum() < 1e-12
        angle = jnp.arctan2(jnp.where(collapsed, 0.0, forward[1]), jnp.where(collapsed, 1.0, forward[0]))
        return jnp.concatenate([x[8:10], angle[None], x[10:]])

    def advance(self, physical: Float[Array, "5"], u: Float[Array, "2"]) -> Float[Array, "5"]:
        """Move the pusher in twenty parts, and the box with it."""
        return jax.lax.scan(lambda state, _: (self._push(state, u / SUBSTEPS), None), physical, length=SUBSTEPS)[0]

    def cost(self, x: Float[Array, "12"], u: Float[Array, "2"]) -> Float[Array, ""]:
        """Quadratic."""
        return self.state_weight * self._distance(x) + self.action_weight * (u**2).sum()

    def final_cost(self, x: Float[Array, "12"]) -> Float[Array, ""]:
        """Sum of the keypoints' squared distances."""
        return self.final_weight * self._distance(x)

    def reached(self, x: Float[Array, "12"]) -> Bool[Array, ""]:
        """Keypoints within 3 cm in the root mean square."""
        return self._distance(x) <= 5 * GOAL_RADIUS**2

    def _distance(self, x: Float[Array, "12"]) -> Float[Array, ""]:
        return ((x[:10] - self._keypoints(jnp.array(self.goal)).ravel()) ** 2).sum()

    def _keypoints(self, pose: Float[Array, "3"]) -> Float[Array, "5 2"]:
        return pose[None, :2] + CORNERS @ _rotation(pose[2]).T

    def _demonstration(self, key: Key) -> tuple[Float[Array, "steps_and_one 5"], Float[Array, "steps 2"]]:
        """Physical states and actions of pushes that have a direction in common."""
        of_start, of_direction, of_step = jax.random.split(key, 3)
        direction = jnp.array([0.025, 0.0]) + jnp.array([0.015, 0.01]) * jax.random.uniform(of_direction, (2,), minval=-1.0)
        action = direction[None] + 0.01 * jax.random.uniform(of_step, (self.data_steps, 2), minval=-1.0)
        action = jnp.clip(action, -0.05, 0.05)
        first = self.start(of_start)

        def step(state: Array, u: Array) -> tuple[Array, Array]:
            state = self.advance(state, u)
            return state, state

        _, later = jax.lax.scan(step, first, action)
        return jnp.concatenate([first[None], later]), action

    def _push(self, physical: Float[Array, "5"], moved: Float[Array, "2"]) -> Float[Array, "5"]:
        """A small displacement of the pusher, and the box's twist that undoes the penetration `depth`."""
        pose, pusher = physical[:3], physical[3:] + moved
        rotation = _rotation(pose[2])
        b = rotation.T @ (pusher - pose[:2])  # the pusher's centre in the box's frame
        excess = jnp.abs(b) - HALF
        outside = (excess > 0.0).any()
        nearest = jnp.clip(b, -HALF, HALF)
        gap = jnp.where(outside, b - nearest, jnp.ones(2))  # ones: no square root of zero, whose gradient is none
        length = jnp.sqrt((gap**2).sum())
        axis, side = jnp.arange(2) == jnp.argmax(excess), jnp.where(b < 0.0, -1.0, 1.0)
        # A centre inside the box leaves by the nearest face.
        normal = jnp.where(outside, gap / length, jnp.where(axis, side, 0.0))
        distance = jnp.where(outside, length, excess.max())
        contact = jnp.where(outside, nearest, jnp.where(axis, side * HALF, b))
        depth = jnp.maximum(RADIUS - distance, 0.0)
        tangent = jnp.stack([normal[1], -normal[0]])
        along = (rotation.T @ moved) @ tangent

        def wrench(force: Array) -> Array:
            return jnp.concatenate([force, (contact[0] * force[1] - contact[1] * force[0])[None]])

        mobility = jnp.array([1.0, 1.0, SPREAD**-2])
        push, drag = wrench(-normal), wrench(tangent)
        nn, nt, tt = (push * mobility * push).sum(), (push * mobility * drag).sum(), (drag * mobility * drag).sum()
        determinant = nn * tt - nt**2
        held, sheared = (tt * depth - nt * along) / determinant, (nn * along - nt * depth) / determinant
        edge = push + jnp.sign(sheared) * self.friction * drag
        sliding = edge * depth / (push * mobility * edge).sum()
        sticking = push * held + drag * sheared
        twist = mobility * jnp.where(jnp.abs(sheared) > self.friction * held, sliding, sticking)
        step = jnp.where(depth > 0.0, jnp.concatenate([rotation @ twist[:2], twist[2:]]), 0.0)
        return jnp.concatenate([pose + step, pusher])


def _rotation(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
