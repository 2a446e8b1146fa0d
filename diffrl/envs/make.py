"""From the EnvSpec of a dataset to a simulator: which one, and the environments that it makes."""

import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffrl.envs import env_spec, locomotion, pointmaze, trust
from diffrl.envs.blockpush import registry as blockpush
from diffrl.envs.control import registry as control
from diffrl.envs.dmc import registry as dmc
from diffrl.envs.flatten import FlattenError, select_keys, width
from diffrl.envs.gymnasium_backend import BackendError, GymnasiumEnvironments, make_env
from diffrl.envs.maze2d import registry as maze2d
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.envs.repeat import RepeatedDevice, RepeatedHost, RepeatError, decisions

BACKENDS = ("auto", "jax", "mujoco", "mjx", "gymnasium")
_KNOWN_TASKS = "Hopper, HalfCheetah and Walker2d of gymnasium v5, with any arguments"


class Backend(NamedTuple):
    """One environment on one simulator: either `device` or `host` is there.

    Attributes:
        name: one of BACKENDS but "auto".
        simulator: a plain sentence saying which simulator scores come from.
        device: the environment as pure JAX functions, for a rollout that is one compiled program.
        host: makes a batch of so many host environments.
    """

    name: str
    simulator: str
    device: DeviceEnvironment | None = None
    host: Callable[[int], HostEnvironments] | None = None


class Interface(NamedTuple):
    """What goes into an environment and comes out of it.

    Attributes:
        observation_dim: length of the flattened observation.
        action_low, action_high: `[A]` bounds of actions in a box, not necessarily finite; None where actions are discrete.
        num_actions, first_action: how many discrete actions there are, and the least of them; 0 for actions in a box.
    """

    observation_dim: int
    action_low: np.ndarray | None = None
    action_high: np.ndarray | None = None
    num_actions: int = 0
    first_action: int = 0


def interface(spec_json: str, observation_keys: tuple[str, ...] | None) -> Interface:
    """The interface of the environment that an EnvSpec describes. Makes one where it is not known without, and steps none.

    Raises:
        BackendError: it cannot be made here.
        FlattenError: its observations are no vectors of numbers, or have other keys.
    """
    spec_json = env_spec.without_display(spec_json)
    _bounded(spec_json)
    written = control.from_env_spec(spec_json)
    known: Any = pointmaze.from_env_spec(spec_json, observation_keys) or maze2d.from_env_spec(spec_json) or written
    if known is not None:
        observation = jax.eval_shape(known.reset, jax.random.key(0))[1]
        return Interface(observation.size, np.asarray(known.action_low, np.float32), np.asarray(known.action_high, np.float32))
    env = make_env(spec_json)
    try:
        keys, space, actions = select_keys(env.observation_space, observation_keys), env.observation_space, env.action_space
    finally:
        env.close()
    observation_dim = width(space) if keys is None else sum(width(space.spaces[key]) for key in keys)
    if type(actions).__name__ == "Discrete":
        return Interface(observation_dim, num_actions=int(actions.n), first_action=int(actions.start))
    if type(actions).__name__ != "Box":
        raise FlattenError(f"its actions are a {type(actions).__name__} space; only Box and Discrete can be chosen by a policy")
    low, high = (np.ravel(bound).astype(np.float32) for bound in (actions.low, actions.high))
    return Interface(observation_dim, low, high)


def _bounded(spec_json: str) -> dict[str, Any]:
    spec = env_spec.read(spec_json)
    try:
        trust.bounded(spec)
    except trust.TrustError as error:
        raise BackendError(str(error)) from None
    return spec


def choose(backend: str, spec_json: str, observation_keys: tuple[str, ...] | None, action_repeat: int = 1) -> Backend:
    """The simulator that `backend` names for the environment that the EnvSpec describes, each action carried out so many times.

    "jax" is PointMaze and maze2d rewritten in JAX, and the control tasks, which are written in nothing else; "mujoco" the known
    locomotion tasks on MuJoCo's thread pool, "mjx" the same tasks and some of dm_control's on MuJoCo's JAX port,
    "gymnasium" any environment as registered. "auto" takes the first of jax, mujoco, gymnasium that has the environment,
    exactly; never mjx, which is 25 to 40 times slower than mujoco on a CPU. None draws: a `render_mode` of the spec is left out.

    Raises:
        BackendError: the simulator does not have this environment, or it cannot be made; or episodes would end within a repeat.
    """
    found, limit = _choose(backend, spec_json, observation_keys), env_spec.read(spec_json).get("max_episode_steps")
    if action_repeat == 1:
        return found
    try:
        decisions(found.device.max_episode_steps if found.device else int(limit or action_repeat), action_repeat)
    except RepeatError as error:
        raise BackendError(f"action_repeat={action_repeat}: {error}") from error
    if found.device is not None:
        return found._replace(device=RepeatedDevice(found.device, action_repeat))
    make_host = found.host
    assert make_host is not None
    return found._replace(host=lambda num_envs: RepeatedHost(make_host(num_envs), action_repeat))


def _choose(backend: str, spec_json: str, observation_keys: tuple[str, ...] | None) -> Backend:
    spec_json = env_spec.without_display(spec_json)
    spec = _bounded(spec_json)
    name, suite_task = spec.get("id", "the environment"), dmc.from_env_spec(spec_json)
    if backend in ("auto", "jax"):
        maze = pointmaze.from_env_spec(spec_json, observation_keys) or maze2d.from_env_spec(spec_json)
        if maze is not None:
            return Backend("jax", f"{name} as rewritten in JAX by diffrl, not the original simulator", device=maze)
        written = control.from_env_spec(spec_json)
        if written is not None:
            return Backend("jax", f"{name}, written in JAX after Suh et al. 2023", device=written)
        if backend == "jax":
            raise BackendError(f"{name} does not exist in JAX (PointMaze, maze2d and the control tasks do); use --backend=auto")
    if suite_task is not None and backend == "mjx":
        from diffrl.envs.dmc.mjx import DmcMjx

        sentence = (
            f"{name}, dm_control's model on MJX, MuJoCo's port to JAX, in float32 ({_versions('dm-control', 'mujoco-mjx')})"
        )
        return Backend("mjx", sentence, device=DmcMjx(*suite_task, max_episode_steps=int(spec["max_episode_steps"])))
    if backend in ("auto", "mujoco", "mjx"):
        task = locomotion.from_env_spec(spec_json)
        if task is not None and backend == "mjx":
            from diffrl.envs.mjx import MjxEnvironment

            sentence = f"{name} on MJX, MuJoCo's port to JAX, in float32 ({_versions('gymnasium', 'mujoco-mjx')})"
            return Backend("mjx", sentence, device=MjxEnvironment(task))
        if task is not None:
            from diffrl.envs.mujoco_backend import MujocoEnvironments

            sentence = f"{name}, the original model stepped by MuJoCo's thread pool ({_versions('gymnasium', 'mujoco')})"
            return Backend("mujoco", sentence, host=lambda num_envs: MujocoEnvironments(task, num_envs))
        if backend != "auto":
            # Humanoid, for one: MJX has no PGS solver.
            why = " (MJX refuses models with the PGS solver, Humanoid among them)" if backend == "mjx" else ""
            raise BackendError(f"--backend={backend} knows {_KNOWN_TASKS}, not {name}{why}; use --backend=auto")
    packages, original = ("gymnasium", "gymnasium-robotics", "mujoco"), "the original environment"
    if suite_task is not None:
        packages, original = ("dm-control", "mujoco"), "dm_control's own environment"
    elif name == blockpush.ENV_ID:
        packages, original = ("pybullet",), "built anew by diffrl in PyBullet"
    elif str(spec.get("entry_point")).startswith("ogbench."):
        packages = ("ogbench", "mujoco")
    sentence = f"{name}, {original} ({_versions(*packages)})"
    return Backend("gymnasium", sentence, host=lambda num_envs: GymnasiumEnvironments(spec_json, observation_keys, num_envs))


def _versions(*packages: str) -> str:
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)
