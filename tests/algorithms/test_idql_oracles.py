"""What IDQL and IFQL come to: the values of a chain in closed form, and of two modes the better one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import act, make_dataset, runs_of, train_stages

from diffrl.algorithms import idql
from diffrl.data.dataset import Dataset
from diffrl.networks.ensembles import Value
from diffrl.networks.mlp import xavier_dense
from diffrl.types import Spec

STATES, DISCOUNT = 4, 0.9
CLONE_OF_NO_USE = {"hidden_dim": 16, "num_blocks": 1, "time_dim": 16, "behavior_updates": 4}


def chain() -> Dataset:
    """States at 1 … STATES steps from a terminal goal, one-hot; action 1 goes closer and -1 back, half of the time each.

    Every step costs 1, also the one that enters the goal.
    """
    eye = np.eye(STATES + 1)
    rows = [(k, a, k - 1 if a > 0 else min(k + 1, STATES)) for k in range(1, STATES + 1) for a in (1.0, -1.0)]
    k, action, following = (np.array(column) for column in zip(*rows, strict=True))
    return make_dataset(eye[k], action[:, None], -np.ones(len(rows)), eye[following], terminal=following == 0)


def chain_values(fit: Any) -> np.ndarray:
    """V(1 … STATES) with V(s) fitted to the two Q(s, a) = -1 + γ V(s')."""
    value = np.zeros(STATES + 1)
    for _ in range(500):
        closer, back = -1.0 + DISCOUNT * value[:-1], -1.0 + DISCOUNT * np.append(value[2:], value[-1])
        value = np.append(0.0, fit(closer, back))
    return value[1:]


OPTIMAL = -(1 - DISCOUNT ** np.arange(1, STATES + 1)) / (1 - DISCOUNT)
FITS: list[tuple[idql.ImplicitName, dict[str, float], Any]] = [
    ("expectile", {"expectile": 0.5}, lambda a, b: (a + b) / 2),
    ("expectile", {"expectile": 0.95}, lambda a, b: 0.95 * a + 0.05 * b),
    ("linex", {"beta": 1.0}, lambda a, b: np.log((np.exp(a) + np.exp(b)) / 2)),
    ("quantile", {"expectile": 0.9}, np.maximum),
]


def test_chain_values_have_the_known_limits() -> None:
    """The reference itself: the mean solves the behaviour's equations, the maximum is -(1 - γᵏ)/(1 - γ)."""
    moves = np.zeros((STATES, STATES))
    for k in range(1, STATES + 1):
        if k > 1:
            moves[k - 1, k - 2] += 0.5
        moves[k - 1, min(k + 1, STATES) - 1] += 0.5
    behaviour = np.linalg.solve(np.eye(STATES) - DISCOUNT * moves, -np.ones(STATES))
    np.testing.assert_allclose(chain_values(FITS[0][2]), behaviour, rtol=1e-6)
    np.testing.assert_allclose(chain_values(np.maximum), OPTIMAL, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("value_loss", "hparams", "fit"), FITS)
def test_values_of_a_chain(value_loss: idql.ImplicitName, hparams: dict[str, float], fit: Any) -> None:
    """From the behaviour's own value (τ = .5) to the best one there is, as the loss of V asks."""
    method = idql.Config(
        **CLONE_OF_NO_USE,
        critic_hidden_dims=(32, 32),
        critic_updates=2500,
        learning_rate=3e-3,
        **hparams,
        value_loss=value_loss,
        discount=DISCOUNT,
        tau=0.05,
        critic_batch_size=64,
    )
    algorithm = idql.make(method, Spec.plain(STATES + 1, 1))
    critic = algorithm._replace(stages=algorithm.stages[1:])
    states = train_stages(critic, runs_of(method), chain())
    slower = states.replace(hparams=dataclasses.replace(states.hparams, learning_rate=jnp.full(1, 2e-4)))
    states = train_stages(critic, runs_of(method), chain(), slower)
    value = Value((32, 32), dense=xavier_dense)
    found = jax.vmap(lambda params: value.apply({"params": params}, jnp.eye(STATES + 1)[1:]))(states.value.params)
    np.testing.assert_allclose(found[0], chain_values(fit), rtol=0.05, atol=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("clone", ["diffusion", "flow"])
def test_of_two_modes_the_better_is_found(clone: str) -> None:
    """Actions ½N(-.5, .1²) + ½N(.5, .1²), the upper of which pay: one candidate is the data, sixteen are the better mode."""
    rng = np.random.default_rng(0)
    action = np.clip(0.5 * rng.permuted(np.resize([1.0, -1.0], 4096)) + 0.1 * rng.normal(size=4096), -1, 1)[:, None]
    dataset = make_dataset(np.ones((4096, 1)), action, -0.5 * (action[:, 0] - 0.5) ** 2)
    method = idql.Config(
        **({"clone": "flow", "critic_activation": "gelu", "layer_norm": True, "cosine": False} if clone == "flow" else {}),
        ema_decay=0.99,
        learning_rate=2e-3,
        hidden_dim=32,
        num_blocks=1,
        flow_hidden_dims=(64, 64),
        critic_hidden_dims=(32, 32),
        tau=0.05,
        behavior_updates=3000,
        critic_updates=1500,
        behavior_batch_size=128,
        critic_batch_size=128,
    )
    states = train_stages(idql.make(method, Spec.plain(1, 1)), runs_of(method), dataset)
    found = {}
    for count in (1, 16):
        acting = dataclasses.replace(method, act=idql.Act(num_candidates=count, num_denoising_steps=5))
        found[count] = act(idql.make(acting, Spec.plain(1, 1)), states, jnp.ones((2000, 1)))[0, :, 0]
    assert np.mean(found[1] > 0) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.abs(np.abs(found[1]) - 0.5) < 0.3) > 0.7  # five steps leave some between; of one Gaussian it is .56
    assert np.mean(np.abs(found[16] - 0.5) < 0.2) > 0.95
