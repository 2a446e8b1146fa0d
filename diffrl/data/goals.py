"""States as goals: which part of an observation may stand where the goal does, and how far a row's future goes."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.data.columns import episode_bounds, trajectories
from diffrl.data.dataset import Dataset
from diffrl.types import Spec

GOAL = "desired_goal"  # the part of an observation that is one


def as_goal(observation: Float[Array, "*batch observation"], spec: Spec) -> Float[Array, "*batch goal"]:
    """What is in an observation of a state that may stand where the goal does, in the goal's units.

    The part "achieved_goal" where there is one; else the first numbers of the state, which are a position in mazes and all of it
    in OGBench.

    Raises:
        ValueError: the observation has no goal.
    """
    wanted = spec.part(GOAL)
    achieved = spec.part("achieved_goal" if "achieved_goal" in dict(spec.observation_parts) else "observation")
    achieved = slice(achieved.start, achieved.start + wanted.stop - wanted.start)
    mean, std = jnp.asarray(spec.observation_mean), jnp.asarray(spec.observation_std)
    return (observation[..., achieved] * std[achieved] + mean[achieved] - mean[wanted]) / std[wanted]


def without_goal(observation: Float[Array, "*batch observation"], spec: Spec) -> Float[Array, "*batch rest"]:
    """The other parts of an observation, all of it where there is no goal."""
    if GOAL not in dict(spec.observation_parts):
        return observation
    wanted = spec.part(GOAL)
    return jnp.concatenate([observation[..., : wanted.start], observation[..., wanted.stop :]], axis=-1)


def trajectory_end(dataset: Dataset, spec: Spec) -> dict[str, Array]:
    """One past the last row of each row's trajectory, which goes on behind a goal that was reached: another may follow."""
    whole = trajectories(dataset, spec.part("observation"))
    return {"trajectory_end": episode_bounds(whole)[1] + 1}
