"""The environment a method learns in: making it, what a method may know of it, and whether method and data go with it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from diffrl.algorithm import Algorithm, Stage
from diffrl.config import OF_DATASET, ConfigError, OnlineConfig
from diffrl.data.dataset import Card
from diffrl.data.env_id import env_spec_of
from diffrl.envs import make as environments
from diffrl.envs.protocol import DeviceEnvironment, HostEnvironments
from diffrl.types import Spec

Envs = DeviceEnvironment | HostEnvironments


class World(NamedTuple):
    """The environments of all runs, and what a method may know of them and of the data that came before.

    Attributes:
        envs: one on the device, or all on a host.
        backend: its name, one of `envs.make.BACKENDS`.
        simulator: a sentence that says which it is.
        spec, card: of the environment, or of the data where there were some: their units go on to hold.
    """

    envs: Envs
    backend: str
    simulator: str
    spec: Spec
    card: Card

    @property
    def on_device(self) -> bool:
        """Whether the simulator's state is an array, which a checkpoint can hold."""
        return not isinstance(self.envs, HostEnvironments)


@contextmanager
def opened(online: OnlineConfig, num_envs: int, spec: Spec | None = None, card: Card | None = None) -> Iterator[World]:
    """The environment of a config, for the time of a `with` block.

    Args:
        num_envs: of a host's simulator, over all runs.
        spec, card: of the data that are trained on first. Their policies are evaluated in the environment they learn in.

    Raises:
        ConfigError: the data are to name the environment and do not, or it does not fit them.
        DatasetError, BackendError: there is no such environment.
    """
    if online.env_id != OF_DATASET:
        env_spec = env_spec_of(online.env_id)
    elif card is None or card.env_spec is None:
        raise ConfigError(f"online.env_id={OF_DATASET!r}, but the data name no environment: set dataset.env_id")
    else:
        env_spec = card.env_spec
    backend = environments.choose(online.backend, env_spec, card.observation_keys if card else None, online.action_repeat)
    envs = backend.device if backend.host is None else backend.host(num_envs)
    assert envs is not None
    try:
        if spec is None or card is None:
            spec, card = describe(envs, online.env_id, env_spec)
            card = dataclasses.replace(card, action_repeat=online.action_repeat)
            yield World(envs, backend.name, backend.simulator, spec, card)
        else:
            check_fits(envs, online.env_id, spec)
            yield World(envs, backend.name, backend.simulator, spec, dataclasses.replace(card, env_spec=env_spec))
    finally:
        if isinstance(envs, HostEnvironments):
            envs.close()


def describe(envs: Envs, env_id: str, env_spec: str) -> tuple[Spec, Card]:
    """What a method may know of an environment, and what the evaluator needs to make it again. Nothing is normalised."""
    low, high = (tuple(np.asarray(bound, np.float64).tolist()) for bound in (envs.action_low, envs.action_high))
    spec = dataclasses.replace(
        Spec.plain(_observation_dim(envs), len(low)),
        action_low=low,
        action_high=high,
        observation_min=(),
        observation_max=(),
        num_actions=envs.num_actions,
    )
    card = Card(
        id=env_id,
        rows=0,
        episodes=0,
        return_min=0.0,
        return_mean=0.0,
        return_max=0.0,
        sha256="",
        action_low=low,
        action_high=high,
        env_spec=env_spec,
        description="trained by interaction; its transitions lie in replay/",
    )
    return spec, card


def check_fits(envs: Envs, env_id: str, spec: Spec) -> None:
    """That policies of a dataset can go on learning in an environment.

    Raises:
        ConfigError: observations or actions are of other widths, kinds or bounds.
    """
    width = _observation_dim(envs)
    if width != spec.observation_dim:
        raise ConfigError(
            f"observations of online.env_id={env_id!r} have {width} numbers, those of the dataset {spec.observation_dim}: "
            "name the environment that the data are of"
        )
    if envs.num_actions != spec.num_actions:
        kinds = [f"{n} discrete ones" if n else "vectors" for n in (envs.num_actions, spec.num_actions)]
        raise ConfigError(f"actions of online.env_id={env_id!r} are {kinds[0]}, those of the dataset {kinds[1]}")
    bounds = [np.asarray(bound, np.float32) for bound in (envs.action_low, envs.action_high, spec.action_low, spec.action_high)]
    if not spec.num_actions and not (
        bounds[0].shape == bounds[2].shape and np.allclose(bounds[0], bounds[2]) and np.allclose(bounds[1], bounds[3])
    ):
        raise ConfigError(
            f"actions of online.env_id={env_id!r} lie in {bounds[0]} … {bounds[1]}, those of the dataset in {bounds[2]} … "
            f"{bounds[3]}: name the environment that the data are of"
        )


def stage_of(algorithm: Algorithm) -> Stage:
    """The one stage of a method that can learn by interaction.

    Raises:
        ConfigError: it has several, prepares columns, or derives columns that need whole episodes.
    """
    if len(algorithm.stages) != 1 or algorithm.stages[0].prepare is not None:
        raise ConfigError("this method learns in stages or prepares its data; it cannot be trained by interaction: use a dataset")
    if algorithm.columns is not None and algorithm.lookahead is None:
        raise ConfigError("this method needs whole episodes; it cannot be trained by interaction: use a dataset")
    return algorithm.stages[0]


def _observation_dim(envs: Envs) -> int:
    if isinstance(envs, HostEnvironments):
        return envs.reset(list(range(envs.num_envs))).shape[-1]
    return jax.eval_shape(envs.reset, jax.random.key(0))[1].shape[-1]
