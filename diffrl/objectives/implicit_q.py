"""The implicit Q-update: values are learnt from the data's actions alone (Kostrikov, Nair, Levine 2021, arXiv 2110.06169).

V is fitted to the target critics' Q(s, a), high in their spread over actions, and Q to r + γ V(s'): no action is asked for that
is not in the data.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from diffrl.learner import forward
from diffrl.objectives.value import bootstrap, critic_loss
from diffrl.types import Metrics, Params, State, Transition


def value_loss(
    params: Params,
    value_network: nn.Module,
    observation: Float[Array, "batch observation"],
    q: Float[Array, "*candidates batch"],
    error_loss: Callable[[Array], Array],
) -> tuple[Float[Array, ""], Float[Array, "batch"]]:
    """The loss of V(s) against Q(s, a) of an action or several, and V (eq. 5: the data's actions, the expectile's loss)."""
    v = forward(value_network, params, observation)
    return error_loss(q - jnp.broadcast_to(v, q.shape)), v


def advantage_weight(
    advantage: Float[Array, "batch"], beta: Float[Array, ""] | float, most: float = 100.0
) -> Float[Array, "batch"]:
    """min(e^{βA}, `most`), A = Q - V: the weights of a regression onto the data's actions (eq. 7; 100 is the code's)."""
    return jnp.minimum(jnp.exp(beta * advantage), most)


def update_values(
    state: State,
    batch: Transition,
    q: Float[Array, "batch"],
    critics: nn.Module,
    value_network: nn.Module,
    optimizer: optax.GradientTransformation,
    error_loss: Callable[[Array], Array],
    *,
    target_from_updated_value: bool,
    critic_loss_weight: float,
) -> tuple[State, Metrics]:
    """One step of V and one of Q, then of the target critics.

    Args:
        state: has `value`, `critic`, `target_critic_params`, and `discount` and `tau` among its hyper-parameters.
        batch: the transitions; `bootstrap` says what their targets are made of.
        q: the lowest of the target critics at the batch's actions.
        critics, value_network: Q_k(s, a) `[K, B]` and V(s) `[B]`.
        optimizer: of V and of Q.
        error_loss: the loss of Q - V.
        target_from_updated_value: whether Q's target asks V after its step, as in IQL's code, or before, as in SRPO's.
        critic_loss_weight: the factor of Q's squared error, 1 in IQL's code and ½ in SRPO's; Adam hardly sees it.

    Returns:
        The state with the three changed, and metrics.
    """
    hparams = state.hparams
    value, loss_of_value, v = state.value.step(
        lambda params: value_loss(params, value_network, batch.observation, q, error_loss), optimizer, has_aux=True
    )
    ahead = bootstrap(batch, hparams.discount)
    asked = value if target_from_updated_value else state.value
    target = ahead.target(forward(value_network, asked.params, ahead.observation))
    critic, loss_of_critic = state.critic.step(
        lambda params: critic_loss_weight * critic_loss(params, critics, batch, target)[0], optimizer
    )
    state = dataclasses.replace(
        state,
        value=value,
        critic=critic,
        target_critic_params=optax.incremental_update(critic.params, state.target_critic_params, hparams.tau),
    )
    return state, {"critic/loss": loss_of_critic, "value/loss": loss_of_value, "value/v": v.mean()}
