"""Hopper, HalfCheetah and Walker2d on MJX, MuJoCo's port to JAX: gymnasium's own model as pure functions, for accelerators.

A step is MuJoCo's up to float32 rounding; whole episodes are chaotic and agree in distribution only. On a CPU the C
simulator (`mujoco_backend`) is 25 to 40 times faster.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.locomotion import Task
from diffrl.envs.protocol import Step
from diffrl.envs.quiet import quiet_imports
from diffrl.types import Key


class State(NamedTuple):
    """Coordinates and velocities. The solver's warm start is not carried from step to step, as in `mujoco_backend`."""

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]


class Physics:
    """A model on MJX."""

    def __init__(self, model: Any) -> None:
        """Translate the model.

        Args:
            model: mujoco.MjModel.

        Raises:
            BackendError: MJX is not installed, or refuses the model.
        """
        try:
            with quiet_imports():  # the lack of warp, a further backend, is printed
                from mujoco import mjx
        except ImportError as error:
            raise BackendError(f"--backend=mjx needs {error.name}: pip install 'diffrl[envs]'") from error
        try:
            self._model: Any = mjx.put_model(model)
        except NotImplementedError as error:
            raise BackendError(f"MJX refuses this model: {error}; use --backend=mujoco") from error
        self._blank: Any = mjx.make_data(model)
        self._simulate, self._kinematics = mjx.step, mjx.kinematics

    def advance(self, state: State, control: Float[Array, " action"] | Float[np.ndarray, " action"], steps: int) -> State:
        """So many steps of physics under one control."""
        data = self._blank.replace(qpos=state.qpos, qvel=state.qvel, ctrl=control)
        data = jax.lax.fori_loop(0, steps, lambda _, data: self._simulate(self._model, data), data)
        return State(data.qpos, data.qvel)

    def place(self, qpos: Float[Array, " nq"]) -> Any:
        """mjx.Data with the bodies' positions, orientations and centres of mass."""
        return self._kinematics(self._model, self._blank.replace(qpos=qpos))


class MjxEnvironment:
    """`DeviceEnvironment` of one locomotion task."""

    def __init__(self, task: Task) -> None:
        """Translate the model.

        Args:
            task: from `locomotion.from_env_spec`.

        Raises:
            BackendError: MJX is not installed, or refuses the model.
        """
        self._physics = Physics(task.model)
        self.task, self.max_episode_steps = task, task.max_episode_steps
        self.num_actions = 0
        self.action_low, self.action_high = task.model.actuator_ctrlrange.T.astype(np.float32)

    def reset(self, key: Key) -> tuple[State, Float[Array, " observation"]]:
        """A start from the same distributions as gymnasium's."""
        of_qpos, of_qvel = jax.random.split(key)
        task, nq, nv = self.task, self.task.model.nq, self.task.model.nv
        qpos = jax.random.uniform(of_qpos, (nq,), minval=-task.noise, maxval=task.noise)
        if task.normal_velocities:
            qvel = task.noise * jax.random.normal(of_qvel, (nv,))
        else:
            qvel = jax.random.uniform(of_qvel, (nv,), minval=-task.noise, maxval=task.noise)
        state = State(jnp.asarray(task.init_qpos, jnp.float32) + qpos, jnp.asarray(task.init_qvel, jnp.float32) + qvel)
        return state, task.observe(jnp, *state)

    def step(self, state: State, action: Float[Array, " action"]) -> tuple[State, Step]:
        """One action, `task.frame_skip` steps of physics."""
        after = self._physics.advance(state, action, self.task.frame_skip)
        reward, terminated = self.task.outcome(jnp, state.qpos[0], *after, action)
        return after, Step(self.task.observe(jnp, *after), reward, terminated, jnp.zeros((), bool))
