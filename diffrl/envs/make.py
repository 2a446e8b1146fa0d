"""From the EnvSpec of a dataset to an environment of one of the two kinds."""

from diffrl.envs import pointmaze
from diffrl.envs.gymnasium_backend import GymnasiumEnvironments
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments


def make_device(env_spec: str, observation_keys: tuple[str, ...] | None) -> DeviceEnvironment | None:
    """The environment as pure JAX functions, or None where it has not been written in JAX, exactly."""
    return pointmaze.from_env_spec(env_spec, observation_keys)


def make_host(
    env_spec: str, observation_keys: tuple[str, ...] | None, num_envs: int, max_episode_steps: int | None = None
) -> HostEnvironments:
    """`num_envs` gymnasium environments.

    Raises:
        BackendError: they cannot be made.
    """
    return GymnasiumEnvironments(env_spec, observation_keys, num_envs, max_episode_steps)
