"""What TD3's kin share: noise on target actions, and a policy that waits for the critics (Fujimoto et al. 2018)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.learner import Learner
from diffrl.types import Count, Key, Params

Number = Float[Array, ""] | float


@flax.struct.dataclass
class State:
    """What one run trains; `hparams` has the rate `tau` of both targets."""

    step: Count
    hparams: Any
    policy: Learner
    critic: Learner
    target_policy_params: Params
    target_critic_params: Params


def smoothed(action: Float[Array, "batch action"], key: Key, noise: Number, clip: Number) -> Float[Array, "batch action"]:
    """Target actions with noise of deviation `noise`, held within ±`clip`, in [-1, 1] (eq. 14)."""
    fresh = noise * jax.random.normal(key, action.shape)
    return jnp.clip(action + jnp.clip(fresh, -clip, clip), -1.0, 1.0)


def improve_when_due(
    state: State, critic: Learner, loss_fn: Callable[[Params], Array], optimizer: optax.GradientTransformation, delay: int
) -> State:
    """The critics' step taken up, and in every `delay`-th update one of the policy and of both targets.

    Args:
        state: before the update.
        critic: after its step.
        loss_fn: of the policy's parameters.
        optimizer: the policy's.
        delay: updates of the critics per update of the policy.
    """
    tau = state.hparams.tau

    def improve(policy: Learner, target_policy_params: Params, target_critic_params: Params) -> tuple[Learner, Params, Params]:
        policy, _ = policy.step(loss_fn, optimizer)
        return (
            policy,
            optax.incremental_update(policy.params, target_policy_params, tau),
            optax.incremental_update(critic.params, target_critic_params, tau),
        )

    due = (state.step + 1) % delay == 0
    current = (state.policy, state.target_policy_params, state.target_critic_params)
    policy, target_policy_params, target_critic_params = jax.lax.cond(due, improve, lambda *unchanged: unchanged, *current)
    return dataclasses.replace(
        state,
        policy=policy,
        critic=critic,
        target_policy_params=target_policy_params,
        target_critic_params=target_critic_params,
    )
