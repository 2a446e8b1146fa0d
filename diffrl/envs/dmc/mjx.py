"""Tasks of the DeepMind Control Suite on MJX: dm_control's own models as pure functions, for accelerators.

A control step is dm_control's up to float32 rounding and the solver's warm start, which is not carried from one control step
to the next; whole episodes with contacts are chaotic and agree in distribution only.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffrl.envs.dmc import registry
from diffrl.envs.dmc.tasks import TASKS, View
from diffrl.envs.gymnasium_backend import BackendError
from diffrl.envs.mjx import Physics, State
from diffrl.envs.protocol import Step
from diffrl.types import Key


class DmcMjx:
    """`DeviceEnvironment` of one of `TASKS`; nothing terminates.

    The cheetah's `reset` simulates 199 steps of physics: start all episodes at one time rather than in every step of a scan.
    """

    def __init__(self, domain: str, task: str, max_episode_steps: int = registry.MAX_EPISODE_STEPS) -> None:
        """Translate the model.

        Args:
            domain, task: dm_control's names.
            max_episode_steps: control steps of an episode.

        Raises:
            BackendError: the task is not among `TASKS`, or dm_control or MJX is not installed.
        """
        name = f"{registry.PREFIX}{domain}-{task}"
        if (domain, task) not in TASKS:
            known = ", ".join(f"{registry.PREFIX}{'-'.join(each)}" for each in TASKS)
            raise BackendError(f"--backend=mjx knows {known}, not {name}; use --backend=auto, which is dm_control itself")
        try:
            env = registry.suite().load(domain, task)
            import mujoco
        except ImportError as error:
            raise BackendError(f"{name} needs {error.name}, which is not installed: pip install 'diffrl[dmc]'") from error
        engine: Any = mujoco  # its functions are compiled; type checkers do not see them
        model = env.physics.model.ptr
        # Cartpole asks for its energy, which MJX does not compute.
        model.opt.enableflags &= ~int(engine.mjtEnableBit.mjENBL_ENERGY)
        self.task, self.max_episode_steps, self._model = TASKS[domain, task], max_episode_steps, model
        self._physics, self._sub_steps = Physics(model), round(env.control_timestep() / env.physics.timestep())
        spec = env.action_spec()
        self.num_actions = 0
        self.action_low, self.action_high = np.asarray(spec.minimum, np.float32), np.asarray(spec.maximum, np.float32)

    @property
    def observation_dim(self) -> int:
        """Length of an observation."""

        def observe() -> Array:
            return self.task.observe(self._view(State(jnp.zeros(self._model.nq), jnp.zeros(self._model.nv))))

        return jax.eval_shape(observe).shape[0]

    def reset(self, key: Key) -> tuple[State, Float[Array, " observation"]]:
        """A start from the same distribution as dm_control's."""
        state = State(*self.task.start(self._model, key))
        if self.task.settling_steps:
            state = self._physics.advance(state, np.zeros(self._model.nu, np.float32), self.task.settling_steps)
        return state, self.task.observe(self._view(state))

    def step(self, state: State, action: Float[Array, " action"]) -> tuple[State, Step]:
        """One control step. Observation and reward are those of the state that it ends in."""
        after = self._physics.advance(state, action, self._sub_steps)
        view = self._view(after)
        never = jnp.zeros((), bool)
        return after, Step(self.task.observe(view), self.task.reward(view, action), never, never)

    def _view(self, state: State) -> View:
        """Where bodies are, and how fast the whole moves: the derivative of its centre of mass along the velocities.

        All joints are slides and hinges, so that velocities are the coordinates' derivatives.
        """
        mass = self._model.body_mass / self._model.body_mass.sum()

        def place(qpos: Array) -> tuple[Array, tuple[Array, Array]]:
            data = self._physics.place(qpos)
            return mass.astype(np.float32) @ data.xipos[:, 0], (data.xpos[:, 2], data.xmat)

        _, speed, (height, orientation) = jax.jvp(place, (state.qpos,), (state.qvel,), has_aux=True)
        return View(state.qpos, state.qvel, height, orientation, speed)
