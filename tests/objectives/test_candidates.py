"""Several actions for every observation: how they are drawn, valued and chosen among."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffrl.objectives.candidates import backup, candidate_q, candidates, resampled

OBSERVATION = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class Sums(nn.Module):
    """Q_1 = s_1 + a, Q_2 = 2 s_1 - a."""

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.stack([observation[..., 0] + action[..., 0], 2.0 * observation[..., 0] - action[..., 0]])


def test_candidates_are_one_batch() -> None:
    """Candidate i of row j sees observation j; noise is N(0, I), of each its own; another key draws others."""
    calls: list[Any] = []

    def echo(start: jax.Array, observation: jax.Array, key: jax.Array) -> jax.Array:
        calls.append((start.shape, observation.shape))
        return jnp.stack([start[:, 0], observation[:, 1]], axis=-1)

    drawn = candidates(echo, OBSERVATION, 2_000, 2, jax.random.key(0))
    assert calls == [((6_000, 2), (6_000, 2))]
    assert drawn.shape == (2_000, 3, 2)
    np.testing.assert_array_equal(drawn[..., 1], np.broadcast_to(OBSERVATION[:, 1], (2_000, 3)))
    assert abs(float(jnp.mean(drawn[..., 0]))) < 0.06
    assert abs(float(jnp.std(drawn[..., 0])) - 1.0) < 0.05
    assert not np.array_equal(drawn, candidates(echo, OBSERVATION, 2_000, 2, jax.random.key(1)))


def test_values_of_candidates() -> None:
    """`[critics, candidates, batch]`."""
    actions = jnp.arange(6.0).reshape(2, 3, 1)
    q = candidate_q(Sums(), {}, OBSERVATION, actions)
    np.testing.assert_allclose(q[0], [[1.0, 4.0, 7.0], [4.0, 7.0, 10.0]])
    np.testing.assert_allclose(q[1], [[2.0, 5.0, 8.0], [-1.0, 2.0, 5.0]])


def test_backup_takes_maxima_before_the_minimum() -> None:
    """Critic 1 says (0, 4), critic 2 says (2, 0): min of (4, 2) is 2, where the maximum of minima would be 0."""
    q = jnp.array([[[0.0], [4.0]], [[2.0], [0.0]]])  # [critics, candidates, batch]
    np.testing.assert_allclose(backup(q), [2.0])
    np.testing.assert_allclose(backup(q[:, :1]), [0.0])
    assert backup(jax.random.normal(jax.random.key(0), (2, 10, 256))).shape == (256,)


def test_one_is_drawn_by_the_lowest_value() -> None:
    """With Q_1 = s + a and Q_2 = 2 s - a at s = 0 the lower is -|a|: a of 0 and log 3 are drawn 3 : 1, at β = 2 9 : 1."""
    actions = jnp.broadcast_to(jnp.array([0.0, np.log(3.0)])[:, None, None], (2, 20_000, 1))
    nowhere = jnp.zeros((20_000, 2))
    for beta, share in ((1.0, 0.75), (2.0, 0.9), (0.0, 0.5)):
        drawn = resampled(Sums(), {}, nowhere, actions, beta, jax.random.key(0))
        assert abs(float(jnp.mean(drawn[:, 0] == 0.0)) - share) < 0.012
    # A single one is taken as it is, without asking the critics.
    np.testing.assert_array_equal(resampled(Sums(), None, nowhere, actions[:1], 1.0, jax.random.key(0)), actions[0])
