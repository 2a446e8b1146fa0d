"""The true model of a control task in JAX, as one that was learnt: what a method is worth when its model has no error."""

import jax
import jax.numpy as jnp
from jax import Array

from diffrl.envs.control.base import ControlTask
from diffrl.models.dynamics import Step
from diffrl.models.rollouts import Imagine
from diffrl.types import Key, Spec


def known_model(task: ControlTask, spec: Spec) -> Imagine:
    """The task's dynamics and cost in the units that training sees. What only an episode's last step pays is not in it.

    Raises:
        ValueError: the task is of other observations or actions than the Spec.
    """
    if (task.observation_dim, task.action_dim) != (spec.observation_dim, spec.action_dim):
        raise ValueError(
            f"known_model={type(task).__name__!r} has {task.observation_dim} numbers observed and {task.action_dim} of actions, "
            f"here they are {spec.observation_dim} and {spec.action_dim}: name the task that online.env_id names"
        )
    mean, std = jnp.asarray(spec.observation_mean), jnp.asarray(spec.observation_std)
    low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)

    def imagine(observation: Array, action: Array, key: Key) -> Step:
        del key
        x, u = mean + std * observation, low + (action + 1.0) / 2.0 * (high - low)
        following = (jax.vmap(task.dynamics)(x, u) - mean) / std
        return Step(following, -jax.vmap(task.cost)(x, u), jnp.ones(len(x)))

    return imagine
