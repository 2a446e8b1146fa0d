"""Skills: what of a window is a transition, what the autoencoder's loss is made of, and which skills lead on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import make_dataset, quick

from diffrl.data.sampling import windows_at
from diffrl.networks.chunk_vae import SkillVAE
from diffrl.objectives.skills import as_skills, leading_on, vae_loss
from diffrl.objectives.value import bootstrap, priority_weight
from diffrl.types import Transition

H = 3


def two_episodes() -> Transition:
    """Windows of H steps from every row: 5 rows up to a timeout, 4 up to a terminal; rewards and states say which row it is."""
    row = np.arange(9.0)
    data = make_dataset(row[:, None], row[:, None], row, row[:, None] + 0.5, row == 8, row == 4)
    return windows_at(data, jnp.arange(9), H)


@pytest.mark.parametrize("one_step", [False, True])
def test_a_skill_as_a_transition(one_step: bool) -> None:
    """R = Σ γ^j r, the state after the last step, γ^k of as many steps, or γ; a terminal ends it, a timeout makes it untaken."""
    skills = as_skills(two_episodes(), jnp.ones((9, 2)), one_step=one_step)
    ahead = bootstrap(skills, 0.9)
    assert skills.action.shape == (9, 2)
    last = np.array([2, 3, 4, 4, 4, 7, 8, 8, 8])
    np.testing.assert_array_equal(ahead.observation[:, 0], last + 0.5)
    summed = [sum(0.9**j * r for j, r in enumerate(range(row, stop + 1))) for row, stop in enumerate(last)]
    np.testing.assert_allclose(ahead.reward, summed, rtol=1e-6)
    weight = np.where(last == 8, 0.0, 0.9 if one_step else 0.9 ** (last - np.arange(9) + 1))
    np.testing.assert_allclose(ahead.weight, weight, rtol=1e-6)
    np.testing.assert_array_equal(skills.extras["chunk_taken"], [True, True, True, False, False, True, True, True, True])


def test_the_loss_of_the_autoencoder() -> None:
    """Its parts by hand; rows that were not taken whole, and steps behind a terminal, count for nothing."""
    network, batch = SkillVAE(1, 1, (4,), (8,), 2), as_skills(two_episodes())
    observations, actions = batch.extras["window_observation"], batch.extras["window_action"]
    params = quick(network.init)(jax.random.key(0), observations, actions)["params"]
    key = jax.random.key(1)

    def loss(kl_weight: float) -> tuple[float, dict[str, float]]:
        total, (_, parts) = quick(vae_loss, static_argnums=1)(params, network, batch, kl_weight, key)
        return float(total), {name: float(value) for name, value in parts.items()}

    def ask(*inputs: jax.Array, method: str) -> list[np.ndarray]:
        found = network.apply({"params": params}, *inputs, method=method)
        return [np.asarray(x, np.float64) for x in (found if isinstance(found, tuple) else (found,))]

    (mean, std), (prior_mean, prior_std) = ask(observations, actions, method="encode"), ask(observations[:, 0], method="prior")
    divergence = np.log(prior_std / std) + (std**2 + (mean - prior_mean) ** 2) / (2.0 * prior_std**2) - 0.5
    latent = jnp.asarray(mean + std * np.asarray(jax.random.normal(key, mean.shape)), jnp.float32)
    taken, last = np.array([0, 1, 2, 5, 6, 7, 8]), np.array([2, 3, 4, 7, 8, 8, 8])
    errors = [
        sum((ask(observations[row, j], latent[row], method="act")[0][0] - (row + j)) ** 2 for j in range(stop - row + 1))
        for row, stop in zip(taken, last, strict=True)
    ]
    ends = ask(observations[:, 0], latent, method="end")[0][taken, 0]
    expected = np.mean(errors), np.mean((ends - last - 0.5) ** 2), np.mean(divergence[taken])
    total, parts = loss(0.1)
    np.testing.assert_allclose(list(parts.values()), expected, rtol=1e-4)
    assert total == pytest.approx(expected[0] + expected[1] + 0.1 * expected[2], rel=1e-4)
    assert loss(1.1)[0] - total == pytest.approx(expected[2], rel=1e-2)


def test_skills_that_lead_on() -> None:
    """A corridor of 11 states, 1 at its end, γ = .9: an erroneous Q of going back is the highest, and its end tells on it."""
    state = np.arange(10)
    value = 0.9 ** (9.0 - np.arange(11))
    value[10] = 1.0 / 0.9  # so that the last step is worth 1
    moves = np.array([1, -1, 0])
    ends = np.clip(state + moves[:, None], 0, 10)
    q = 0.9 * value[ends]
    np.testing.assert_allclose(q[0], 0.9 ** (9.0 - state))  # Q(i, +1) = V(i)
    latents = np.broadcast_to(moves[:, None, None], (3, 10, 1)).astype(float)

    def chosen(q: np.ndarray, end: np.ndarray) -> list[float]:
        given = (jnp.asarray(x, jnp.float32) for x in (latents, q, end, value[:10]))
        return np.asarray(quick(leading_on, static_argnums=4)(*given, 1e-6))[:, 0].tolist()

    assert chosen(q, value[ends]) == [1.0] * 10
    erroneous = q.copy()
    erroneous[1, 3] = 10.0
    assert np.argmax(erroneous[:, 3]) == 1
    assert chosen(erroneous, value[ends]) == [1.0] * 10
    # Where no end is good enough, the best of them, whatever Q says.
    assert chosen(erroneous, value[ends] - 2.0) == [1.0] * 10


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.3), (0.7, 1.0), (1.0, 0.0)])
def test_priorities_are_those_of_replay_on_average(alpha: float, beta: float) -> None:
    """Drawn with P ∝ p^α and weighted by (N P)^-β, over their mean."""
    error = np.random.default_rng(0).normal(size=50)
    chance = np.abs(error) ** alpha / np.sum(np.abs(error) ** alpha)
    counts = chance * (50 * chance) ** -beta
    weight = priority_weight(jnp.asarray(error, jnp.float32), alpha * (1.0 - beta))
    np.testing.assert_allclose(weight, counts / counts.mean(), rtol=1e-3)
