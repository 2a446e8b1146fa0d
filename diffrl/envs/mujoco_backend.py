"""Known MuJoCo tasks on the host, all episodes stepped together by MuJoCo's own thread pool: the simulator that gymnasium
steps, without a Python call per environment. Starts are gymnasium's for the same seeds, and a step equals its step up to the
solver's warm start, which is not carried from step to step here."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num

from diffrl import machine
from diffrl.envs.locomotion import Task
from diffrl.envs.protocol import Step


class MujocoEnvironments:
    """`HostEnvironments` of `num_envs` copies of one task. Finished copies are not stepped until they are started again."""

    def __init__(self, task: Task, num_envs: int, num_threads: int | None = None) -> None:
        """Allocate the states.

        Args:
            task: from `locomotion.from_env_spec`.
            num_envs: number of copies.
            num_threads: of MuJoCo's pool; None for one per core that this process may use.
        """
        import mujoco
        from mujoco import rollout

        engine: Any = mujoco  # its functions are compiled; type checkers do not see them
        self.num_envs, self.max_episode_steps, self.task = num_envs, task.max_episode_steps, task
        self.num_actions = 0
        self.action_low, self.action_high = task.model.actuator_ctrlrange.T.astype(np.float32)
        threads = min(num_threads or machine.cores(), num_envs)
        # nthread counts helpers; 0 steps in the calling thread.
        self._pool: Any = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._scratch = [engine.MjData(task.model) for _ in range(threads)]
        # Time, coordinates, velocities: these models have no further state.
        self._state = np.zeros((num_envs, engine.mj_stateSize(task.model, engine.mjtState.mjSTATE_FULLPHYSICS)))
        self._done = np.ones(num_envs, bool)

    @property
    def qpos(self) -> Float[np.ndarray, "batch nq"]:
        """Coordinates of all copies; a view that can be written to."""
        return self._state[:, 1 : 1 + self.task.model.nq]

    @property
    def qvel(self) -> Float[np.ndarray, "batch nv"]:
        """Velocities of all copies; a view that can be written to."""
        return self._state[:, 1 + self.task.model.nq : 1 + self.task.model.nq + self.task.model.nv]

    @property
    def observation(self) -> Float[np.ndarray, "batch observation"]:
        """What all copies observe now."""
        return self.task.observe(np, self.qpos, self.qvel)

    def reset(self, seeds: list[int]) -> Float[np.ndarray, "batch observation"]:
        """Start one episode per seed; `len(seeds)` is `num_envs`."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seeds)}")
        self.restart(np.arange(self.num_envs), [np.random.Generator(np.random.PCG64(seed)) for seed in seeds])
        return self.observation

    def reset_some(self, which: Bool[np.ndarray, "batch"], seeds: list[int]) -> Float[np.ndarray, "some observation"]:
        """Start new episodes in the copies that `which` marks, one per seed in order; returns their observations."""
        self.restart(np.flatnonzero(which), [np.random.Generator(np.random.PCG64(seed)) for seed in seeds])
        return self.observation[which]

    def restart(self, which: Num[np.ndarray, "some"], generators: list[np.random.Generator]) -> None:
        """Start new episodes in some copies, each from its generator."""
        self._state[which] = 0.0
        for i, generator in zip(which.tolist(), generators, strict=True):
            self.qpos[i], self.qvel[i] = self.task.start(generator)
        self._done[which] = False

    def step(self, action: Num[np.ndarray, "batch action"]) -> Step:
        """Apply actions in the environment's units. Finished copies stay as they are, with reward 0."""
        alive = np.flatnonzero(~self._done)
        reward, terminated = np.zeros(self.num_envs, np.float32), self._done.copy()
        if len(alive):
            x_before = self.qpos[alive, 0]
            control = np.repeat(np.asarray(action, np.float64)[alive, None], self.task.frame_skip, axis=1)
            after = np.empty((len(alive), self.task.frame_skip, self._state.shape[1]))
            self._pool.rollout([self.task.model], self._scratch, self._state[alive], control, state=after)
            self._state[alive] = after[:, -1]
            reward[alive], terminated[alive] = self.task.outcome(
                np, x_before, self.qpos[alive], self.qvel[alive], np.asarray(action, np.float32)[alive]
            )
            self._done = terminated
        return Step(self.observation, reward, terminated.copy(), np.zeros(self.num_envs, bool))

    @property
    def done(self) -> Bool[np.ndarray, "batch"]:
        """Which copies have ended."""
        return self._done.copy()

    def close(self) -> None:
        self._pool.close()
