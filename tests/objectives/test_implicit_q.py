"""The shared implicit Q-update: what its explicit choices change, on networks of one number each."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
import pytest

from diffrl.learner import Learner
from diffrl.objectives.implicit_q import update_values
from diffrl.types import Transition

RATE, DISCOUNT, TAU = 0.1, 0.5, 0.25


class Constant(nn.Module):
    """One trainable number for every row, `copies` times."""

    copies: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, observation: jax.Array, *rest: jax.Array) -> jax.Array:
        return jnp.broadcast_to(self.param("c", nn.initializers.zeros, ()), (*self.copies, len(observation)))


@dataclasses.dataclass(frozen=True)
class HParams:
    discount: float = DISCOUNT
    tau: float = TAU


@flax.struct.dataclass
class State:
    value: Learner
    critic: Learner
    target_critic_params: Any
    hparams: Any = flax.struct.field(pytree_node=False, default=HParams())


SGD = optax.sgd(RATE)
BATCH = Transition(
    observation=jnp.zeros((2, 1)),
    action=jnp.zeros((2, 1)),
    reward=jnp.ones(2),
    next_observation=jnp.zeros((2, 1)),
    terminal=jnp.array([False, True]),
    timeout=jnp.array([True, False]),
)


def updated(after: bool, weight: float) -> tuple[State, dict[str, jax.Array]]:
    """From V = 3, Q = 0 and a target critic of 4; V's loss is the mean of the squared error."""
    constants = [Learner.create({"c": jnp.float32(c)}, SGD) for c in (3.0, 0.0)]
    state = State(value=constants[0], critic=constants[1], target_critic_params={"c": jnp.float32(4.0)})
    return update_values(
        state,
        BATCH,
        jnp.full(2, 4.0),
        Constant((2,)),
        Constant(),
        SGD,
        lambda error: jnp.mean(error**2),
        target_from_updated_value=after,
        critic_loss_weight=weight,
    )


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("after", [True, False])
def test_the_update_written_out(after: bool, weight: float) -> None:
    """V goes towards 4, Q towards r + γ V of the chosen V (one of two rows is terminal), the target a share towards Q."""
    state, metrics = updated(after, weight)
    v = 3.0 + RATE * 2.0 * (4.0 - 3.0)
    asked = v if after else 3.0
    targets = [1.0 + DISCOUNT * asked, 1.0]
    mean = sum(targets) / 2.0
    q = RATE * weight * 2.0 * 2.0 * mean  # the errors of two critics, which share their number, are summed
    assert float(state.value.params["c"]) == pytest.approx(v)
    assert float(state.critic.params["c"]) == pytest.approx(q)
    assert float(state.target_critic_params["c"]) == pytest.approx(4.0 + TAU * (q - 4.0))
    assert float(metrics["critic/loss"]) == pytest.approx(weight * 2.0 * sum(target**2 for target in targets) / 2.0)
    assert float(metrics["value/loss"]) == pytest.approx(1.0)
    assert float(metrics["value/v"]) == pytest.approx(3.0)
