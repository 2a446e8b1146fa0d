"""What returns are possible in a control task: of random actions, and of plans made with the true system."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.envs.control.base import ControlTask, State
from diffrl.types import Key

LEARNING_RATE = 0.05  # of actions scaled to [-1, 1]


@partial(jax.jit, static_argnums=(0, 2))
def random_returns(task: ControlTask, key: Key, episodes: int) -> Float[Array, " episodes"]:
    """Returns of uniformly random actions."""

    def one(key: Key) -> Array:
        of_start, of_actions = jax.random.split(key)
        return _play(task, of_start, _scaled(task, _uniform(task, of_actions)))

    return jax.vmap(one)(jax.random.split(key, episodes))


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def planned_returns(
    task: ControlTask, key: Key, episodes: int, restarts: int = 16, iterations: int = 500
) -> Float[Array, " episodes"]:
    """Returns of the best of several open-loop plans per episode, each made by Adam from random actions within the bounds."""
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, iterations))

    def plan(of_start: Key, of_guess: Key) -> Array:
        def value(guess: Array) -> Array:
            return _play(task, of_start, _scaled(task, guess))

        def improve(carry: tuple, _: None) -> tuple[tuple, None]:
            guess, opt_state = carry
            updates, opt_state = optimizer.update(-jax.grad(value)(guess), opt_state)
            return (jnp.clip(guess + updates, -1.0, 1.0), opt_state), None

        first = _uniform(task, of_guess)
        (guess, _), _ = jax.lax.scan(improve, (first, optimizer.init(first)), length=iterations)
        return value(guess)

    def one(key: Key) -> Array:
        of_start, of_guess = jax.random.split(key)
        return jax.vmap(plan, in_axes=(None, 0))(of_start, jax.random.split(of_guess, restarts)).max()

    return jax.vmap(one)(jax.random.split(key, episodes))


def _uniform(task: ControlTask, key: Key) -> Float[Array, "steps action"]:
    return jax.random.uniform(key, (task.max_episode_steps, task.action_dim), minval=-1.0)


def _scaled(task: ControlTask, action: Float[Array, "steps action"]) -> Float[Array, "steps action"]:
    low, high = jnp.array(task.action_low), jnp.array(task.action_high)
    return (low + high) / 2 + (high - low) / 2 * action


def _play(task: ControlTask, key: Key, action: Float[Array, "steps action"]) -> Float[Array, ""]:
    """Return of an action sequence from the start that `key` draws."""

    def step(state: State, action: Array) -> tuple[State, Array]:
        state, result = task.step(state, action)
        return state, result.reward

    return jax.lax.scan(step, task.reset(key)[0], action)[1].sum()
