"""Cartpole, cheetah and walker of the DeepMind Control Suite as formulas: starts, observations and rewards.

Physics is MuJoCo's on dm_control's own models; this file holds what `dm_control/suite/{cartpole,cheetah,walker}.py` add.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffrl.types import Key


class View(NamedTuple):
    """What tasks see of a state: all of it belongs to the same `qpos` and `qvel`.

    Attributes:
        qpos, qvel: coordinates and velocities.
        height: z (m) of each body's frame; body 0 is the world.
        orientation: rotation matrix of each body's frame.
        speed: velocity (m/s) along x of the whole robot's centre of mass.
    """

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    height: Float[Array, " bodies"]
    orientation: Float[Array, "bodies 3 3"]
    speed: Float[Array, ""]


class SuiteTask(Protocol):
    """A task's formulas. `settling_steps` of physics without a control follow on `start`, before an episode begins."""

    @property
    def settling_steps(self) -> int: ...

    def start(self, model: Any, key: Key) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """(qpos, qvel), drawn; `model` is a mujoco.MjModel."""
        ...

    def observe(self, view: View) -> Float[Array, " observation"]: ...

    def reward(self, view: View, action: Float[Array, " action"]) -> Float[Array, ""]:
        """Of the state that the action led to."""
        ...


class CartPole(NamedTuple):
    """`cartpole-balance` and, where the pole starts hanging, `cartpole-swingup`."""

    swing_up: bool
    settling_steps: int = 0

    def start(self, model: Any, key: Key) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        of_qpos, of_qvel = jax.random.split(key)
        if self.swing_up:
            qpos = jnp.array([0.0, np.pi]) + 0.01 * jax.random.normal(of_qpos, (2,))
        else:
            qpos = jnp.array([0.1, 0.034]) * jax.random.uniform(of_qpos, (2,), minval=-1.0)
        return qpos, 0.01 * jax.random.normal(of_qvel, (2,))

    def observe(self, view: View) -> Float[Array, "5"]:
        pole = view.orientation[2]
        return jnp.concatenate([jnp.stack([view.qpos[0], pole[2, 2], pole[0, 2]]), view.qvel])

    def reward(self, view: View, action: Float[Array, "1"]) -> Float[Array, ""]:
        upright = (view.orientation[2, 2, 2] + 1.0) / 2.0
        centred = (1.0 + tolerance(view.qpos[0], 0.0, 0.0, margin=2.0)) / 2.0
        small_control = (4.0 + tolerance(action[0], 0.0, 0.0, margin=1.0, sigmoid="quadratic", value_at_margin=0.0)) / 5.0
        small_velocity = (1.0 + tolerance(view.qvel[1], 0.0, 0.0, margin=5.0)) / 2.0
        return upright * small_control * small_velocity * centred


class Cheetah(NamedTuple):
    """`cheetah-run`. dm_control lets a random posture settle for 200 steps of physics; `start` ends after the first.

    That first one moves the posture by forces that were computed before it was drawn, in the model's upright pose.
    """

    run_speed: float = 10.0  # m/s
    settling_steps: int = 199

    def start(self, model: Any, key: Key) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        import mujoco

        engine: Any = mujoco  # its functions are compiled; type checkers do not see them
        data = engine.MjData(model)
        engine.mj_step(model, data)
        qvel = jnp.asarray(data.qvel.astype(np.float32))
        return _posture(model, key, np.zeros(model.njnt)) + model.opt.timestep * qvel, qvel

    def observe(self, view: View) -> Float[Array, " observation"]:
        return jnp.concatenate([view.qpos[1:], view.qvel])

    def reward(self, view: View, action: Float[Array, " action"]) -> Float[Array, ""]:
        return tolerance(view.speed, self.run_speed, np.inf, margin=self.run_speed, sigmoid="linear", value_at_margin=0.0)


class Walker(NamedTuple):
    """`walker-stand` (speed 0), `walker-walk` and `walker-run`: as high as standing, and as fast as `move_speed` (m/s)."""

    move_speed: float
    stand_height: float = 1.2  # m
    settling_steps: int = 0

    def start(self, model: Any, key: Key) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        hinge = 3  # mujoco.mjtJoint.mjJNT_HINGE
        return _posture(model, key, np.where(model.jnt_type == hinge, np.pi, 0.0)), jnp.zeros(model.nv)

    def observe(self, view: View) -> Float[Array, " observation"]:
        directions = view.orientation[1:, 0, ::2]  # x and z components of each body's x axis: [bodies - 1, 2]
        return jnp.concatenate([directions.ravel(), view.height[1:2], view.qvel])

    def reward(self, view: View, action: Float[Array, " action"]) -> Float[Array, ""]:
        standing = tolerance(view.height[1], self.stand_height, np.inf, margin=self.stand_height / 2.0)
        upright = (1.0 + view.orientation[1, 2, 2]) / 2.0
        stands = (3.0 * standing + upright) / 4.0
        if self.move_speed == 0.0:
            return stands
        margin = self.move_speed / 2.0
        moves = tolerance(view.speed, self.move_speed, np.inf, margin=margin, sigmoid="linear", value_at_margin=0.5)
        return stands * (5.0 * moves + 1.0) / 6.0


TASKS: dict[tuple[str, str], SuiteTask] = {
    ("cartpole", "balance"): CartPole(swing_up=False),
    ("cartpole", "swingup"): CartPole(swing_up=True),
    ("cheetah", "run"): Cheetah(),
    ("walker", "stand"): Walker(0.0),
    ("walker", "walk"): Walker(1.0),
    ("walker", "run"): Walker(8.0),
}


def tolerance(
    x: Float[Array, "*shape"],
    lower: float,
    upper: float,
    margin: float,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Float[Array, "*shape"]:
    """1 where lower <= x <= upper; falls as `sigmoid` with the distance, to `value_at_margin` at `margin` (> 0).

    `dm_control.utils.rewards.tolerance` with the sigmoids "gaussian", "linear" and "quadratic".
    """
    distance = jnp.maximum(jnp.maximum(lower - x, x - upper), 0.0) / margin
    if sigmoid == "gaussian":
        return jnp.exp(np.log(value_at_margin) * distance**2)
    power = {"linear": 1, "quadratic": 2}[sigmoid]
    # Flat where it would fall below 0: dm_control's is 0 from there on.
    return jnp.maximum(1.0 - (1.0 - value_at_margin) * distance**power, 0.0)


def _posture(model: Any, key: Key, half_width: Float[np.ndarray, " joints"]) -> Float[Array, " nq"]:
    """Coordinates of slides and hinges: uniform within the limits of limited ones, within ±`half_width` of others' zero."""
    limited = model.jnt_limited.astype(bool)
    low = np.where(limited, model.jnt_range[:, 0], model.qpos0 - half_width).astype(np.float32)
    high = np.where(limited, model.jnt_range[:, 1], model.qpos0 + half_width).astype(np.float32)
    return jax.random.uniform(key, (model.nq,), minval=low, maxval=high)
