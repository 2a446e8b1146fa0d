"""Hopper, HalfCheetah and Walker2d of gymnasium v5 as formulas, shared by the C simulator's batch and by MJX.

Physics is MuJoCo's on gymnasium's own model; this file holds what gymnasium adds to it: the observation, the reward,
when an episode ends, and where one starts.
"""

from typing import Any, NamedTuple

import numpy as np

from diffrl.envs import env_spec
from diffrl.envs.gymnasium_backend import make_env

_ENTRY_POINTS = {
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv",
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv",
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv",
}
_EVERYTHING = (-np.inf, np.inf)


class Task(NamedTuple):
    """One task: MuJoCo's model and gymnasium's constants (`gymnasium/envs/mujoco/{hopper,half_cheetah,walker2d}_v5.py`).

    Attributes:
        model: mujoco.MjModel.
        max_episode_steps: time limit.
        frame_skip: physics steps per action.
        dt: seconds per action.
        forward_reward_weight, ctrl_cost_weight, healthy_reward: of the reward.
        terminates: whether leaving the healthy ranges ends the episode.
        z_range, angle_range: healthy torso height (m) and pitch (rad), exclusive bounds.
        state_range: healthy range of all other coordinates and velocities.
        noise: half width of the uniform start noise; for HalfCheetah's velocities a standard deviation.
        normal_velocities: whether start velocities are normal.
        clips_velocities: whether observed velocities are clipped to [-10, 10].
        observed_from: first observed coordinate; 1 leaves out the x position.
        init_qpos, init_qvel: the undisturbed start.
    """

    model: Any
    max_episode_steps: int
    frame_skip: int
    dt: float
    forward_reward_weight: float
    ctrl_cost_weight: float
    healthy_reward: float
    terminates: bool
    z_range: tuple[float, float]
    angle_range: tuple[float, float]
    state_range: tuple[float, float]
    noise: float
    normal_velocities: bool
    clips_velocities: bool
    observed_from: int
    init_qpos: np.ndarray
    init_qvel: np.ndarray

    def observe(self, xp: Any, qpos: Any, qvel: Any) -> Any:
        """Observation `[..., O]` of coordinates `[..., nq]` and velocities `[..., nv]`; `xp` is numpy or jax.numpy."""
        qvel = xp.clip(qvel, -10.0, 10.0) if self.clips_velocities else qvel
        return xp.concatenate([qpos[..., self.observed_from :], qvel], axis=-1).astype(xp.float32)

    def outcome(self, xp: Any, x_before: Any, qpos: Any, qvel: Any, action: Any) -> tuple[Any, Any]:
        """Reward `[...]` and termination `[...]` of a step that ended in (qpos, qvel)."""
        rest = xp.concatenate([qpos[..., 2:], qvel], axis=-1)
        upright = _within(self.z_range, qpos[..., 1]) & _within(self.angle_range, qpos[..., 2])
        healthy = upright & _within(self.state_range, rest).all(-1)
        forward = self.forward_reward_weight * (qpos[..., 0] - x_before) / self.dt
        cost = self.ctrl_cost_weight * xp.square(action).sum(-1)
        return forward + self.healthy_reward * healthy - cost, ~healthy & self.terminates

    def start(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(qpos, qvel) of a new episode, drawn as gymnasium does: the same generator gives the same start."""
        qpos = self.init_qpos + generator.uniform(-self.noise, self.noise, self.model.nq)
        if self.normal_velocities:
            return qpos, self.init_qvel + self.noise * generator.standard_normal(self.model.nv)
        return qpos, self.init_qvel + generator.uniform(-self.noise, self.noise, self.model.nv)


def _within(bounds: tuple[float, float], value: Any) -> Any:
    return (bounds[0] < value) & (value < bounds[1])


def from_env_spec(env_spec_json: str, max_episode_steps: int | None = None) -> Task | None:
    """The task that a gymnasium EnvSpec describes, with whatever arguments it gives; None where it describes another.

    Raises:
        BackendError: it is one of these tasks but cannot be made.
    """
    spec = env_spec.read(env_spec_json)
    wrappers = {wrapper["name"] for wrapper in env_spec.wrappers(spec)}
    if spec.get("entry_point") not in _ENTRY_POINTS or not wrappers <= env_spec.HARMLESS_WRAPPERS:
        return None
    made = make_env(env_spec_json, max_episode_steps)
    env, limit = made.unwrapped, max_episode_steps or made.spec.max_episode_steps
    made.close()
    if not limit:
        return None

    # HalfCheetah has no notion of health, Walker2d none of the other coordinates'.
    def of(name: str, otherwise: Any) -> Any:
        return getattr(env, name, otherwise)

    return Task(
        model=env.model,
        max_episode_steps=int(limit),
        frame_skip=env.frame_skip,
        dt=float(env.dt),
        forward_reward_weight=env._forward_reward_weight,
        ctrl_cost_weight=env._ctrl_cost_weight,
        healthy_reward=of("_healthy_reward", 0.0),
        terminates=of("_terminate_when_unhealthy", False),
        z_range=tuple(of("_healthy_z_range", _EVERYTHING)),
        angle_range=tuple(of("_healthy_angle_range", _EVERYTHING)),
        state_range=tuple(of("_healthy_state_range", _EVERYTHING)),
        noise=env._reset_noise_scale,
        normal_velocities=not hasattr(env, "_healthy_reward"),
        clips_velocities=hasattr(env, "_healthy_reward"),
        observed_from=int(env._exclude_current_positions_from_observation),
        init_qpos=env.init_qpos,
        init_qvel=env.init_qvel,
    )
