"""Models of dynamics: their units, what is held out, likelihoods in closed form, and a system that they learn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import quick, quick_compilation

from diffrl.models.dynamics import Dynamics, Model, Rows, Units, fit, held_out, losses, step_of
from diffrl.types import Spec

KEY = jax.random.key(0)
SPEC = Spec.plain(2, 1)
SMALL = Dynamics(3, 2, (32,))
NOISE = 0.1


def rows_of(rng: np.random.Generator, count: int) -> Rows:
    """s' = s + (.2 u, -.1 s_0) + noise of .1 on its first part, r = s_1; episodes end where s_0 > 1."""
    s, u = rng.normal(size=(count, 2)), rng.uniform(-1, 1, (count, 1))
    change = np.stack([0.2 * u[:, 0] + NOISE * rng.normal(size=count), -0.1 * s[:, 0]], axis=1)
    arrays = (jnp.asarray(x, jnp.float32) for x in (s, u, s[:, 1], s + change))
    return Rows(*arrays, terminal=jnp.asarray(s[:, 0] > 1.0), taken=jnp.ones(count, bool))


@pytest.fixture(scope="module")
def fitted() -> tuple[Model, dict[str, Any]]:
    """1,500 updates on batches of 128 of 4,000 rows."""
    optimizer, rows = optax.adam(3e-3), rows_of(np.random.default_rng(0), 4_000)

    @jax.jit
    def train(model: Model) -> tuple[Model, Any]:
        def body(model: Model, step: jax.Array) -> tuple[Model, Any]:
            index = jax.random.randint(jax.random.fold_in(KEY, step), (128,), 0, 4_000)
            return fit(SMALL, model, jax.tree.map(lambda x: x[index], rows), optimizer, 0.1, step)

        return jax.lax.scan(body, model, jnp.arange(1_500))

    with quick_compilation():
        return jax.device_get(train(Model.init(SMALL, optimizer, KEY, SPEC)))


def test_units_are_the_moments_of_all_batches() -> None:
    """Batch by batch those of all 320 rows together; a column that never moves has a scale that divides."""
    x = np.random.default_rng(0).normal(3.0, 2.0, (320, 3)).astype(np.float32)
    y = np.concatenate([5.0 * x, np.full((320, 1), 7.0, np.float32)], axis=1)[:, 1:]
    units = Units.of_nothing(SPEC)
    for step in range(10):
        batch = slice(32 * step, 32 * step + 32)
        units = units.moved(jnp.asarray(x[batch]), jnp.asarray(y[batch]), step)
    np.testing.assert_allclose(units.input_mean, x.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(units.input_scale, x.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(units.output_mean, y.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(units.output_scale[:2], y.std(axis=0)[:2], rtol=1e-4)
    assert 0.0 < units.output_scale[2] < 1e-4


def test_what_is_held_out_is_a_share_of_the_rows_wherever_they_lie() -> None:
    rows = rows_of(np.random.default_rng(0), 20_000)
    out = np.asarray(quick(held_out)(rows, 0.1))
    assert out.mean() == pytest.approx(0.1, abs=0.01)
    order = np.random.default_rng(1).permutation(20_000)
    moved = jax.tree.map(lambda x: x[order], rows)
    np.testing.assert_array_equal(quick(held_out)(moved, 0.1), out[order])
    assert not np.asarray(held_out(rows, 0.0)).any()
    assert np.asarray(held_out(rows, 1.0)).all()
    # A larger share holds out more rows, and the same ones.
    assert (np.asarray(held_out(rows, 0.3)) >= out).all()


def test_loss_is_the_likelihood_in_closed_form() -> None:
    """Networks that say 0: z ~ N(0, e^lv) with lv = ½ - softplus(½) up to the lower bound's 3e-5, and log σ(4) of going on."""
    model = Model.init(SMALL, optax.sgd(0.0), KEY, SPEC)
    params = jax.tree.map(jnp.zeros_like, model.learner.params)
    rows = rows_of(np.random.default_rng(0), 50)
    units = dataclasses.replace(model.units, output_mean=jnp.array([0.1, 0.2, 0.3]), output_scale=jnp.array([0.5, 1.0, 2.0]))
    found = np.asarray(losses(params, SMALL, units, rows)[0])
    variance = np.exp(0.5 - np.log1p(np.exp(0.5)))
    outputs = np.concatenate([rows.next_observation - rows.observation, np.asarray(rows.reward)[:, None]], axis=1)
    z = (outputs - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    gaussian = 0.5 * np.sum(z**2 / variance + np.log(2 * np.pi * variance), axis=1)
    ends = np.where(rows.terminal, np.log1p(np.exp(4.0)), np.log1p(np.exp(-4.0)))
    np.testing.assert_allclose(found, np.broadcast_to(gaussian + ends, (3, 50)), rtol=1e-3)


def test_nothing_is_learnt_from_rows_held_out_or_never_taken() -> None:
    model, rows = Model.init(SMALL, optax.sgd(1.0), KEY, SPEC), rows_of(np.random.default_rng(0), 64)
    update = quick(lambda model, rows, share: fit(SMALL, model, rows, optax.sgd(1.0), share, 0))
    for share, taken in ((1.0, True), (0.0, False)):
        after, metrics = update(model, rows._replace(taken=jnp.full(64, taken)), share)
        for a, b in zip(jax.tree.leaves(after.learner.params), jax.tree.leaves(model.learner.params), strict=True):
            np.testing.assert_array_equal(a, b)
        assert (float(metrics["model/held_out"]) != 0.0) is taken
    half = update(model, rows, 0.5)[0].learner.params
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(model.learner.params), strict=True))


def test_a_system_is_learnt_with_its_noise(fitted: tuple[Model, dict[str, Any]]) -> None:
    """Means, the noise's deviation, the reward and where episodes end; the loss held out comes near the entropy of the noise."""
    model, metrics = fitted
    rows = rows_of(np.random.default_rng(5), 500)
    observation = jnp.broadcast_to(rows.observation, (3, 500, 2))
    found = SMALL.predict(model.learner.params, model.units, observation, rows.action)
    units = model.units
    mean = np.mean(units.output_mean + units.output_scale * found.mean, axis=0)
    np.testing.assert_allclose(mean[:, 0], 0.2 * rows.action[:, 0], atol=0.08)
    np.testing.assert_allclose(mean[:, 2], rows.observation[:, 1], atol=0.15)
    deviation = np.mean(units.output_scale[0] * np.exp(found.log_std[..., 0]))
    assert deviation == pytest.approx(NOISE, abs=0.02)
    clear = np.abs(rows.observation[:, 0] - 1.0) > 0.3
    goes_on = np.asarray(found.log_odds[0] > 0.0)
    np.testing.assert_array_equal(goes_on[clear], ~np.asarray(rows.terminal)[clear])
    assert metrics["model/held_out"][-1] < metrics["model/held_out"][5] - 3.0
    # One of three outputs has noise: .01 of its variance, .01 + .04/3.
    assert np.mean(metrics["model/held_out_error"][-200:]) == pytest.approx(0.01 / (0.01 + 0.04 / 3) / 3, abs=0.05)


def test_rows_keep_to_a_member_and_draw_its_noise(fitted: tuple[Model, dict[str, Any]]) -> None:
    """Seven rows of three members: shares of three, the last filled up; the draws' mean and deviation are the prediction's."""
    model, _ = fitted
    rows = jax.tree.map(lambda x: x[:7], rows_of(np.random.default_rng(5), 7))
    params, units = model.learner.params, model.units
    draw = quick(jax.vmap(lambda key: SMALL.imagine(params, units, rows.observation, rows.action, key)))
    found = draw(jax.random.split(KEY, 2_000))
    assert found.observation.shape == (2_000, 7, 2)
    for row, member in enumerate((0, 0, 0, 1, 1, 1, 2)):
        said = SMALL.predict(params, units, jnp.broadcast_to(rows.observation[row], (3, 1, 2)), rows.action[row][None])
        change = units.output_mean + units.output_scale * said.mean[member, 0]
        deviation = units.output_scale * np.exp(said.log_std[member, 0])
        np.testing.assert_allclose(
            np.mean(found.observation[:, row] - rows.observation[row], axis=0), change[:2], atol=0.1 * float(deviation.max())
        )
        np.testing.assert_allclose(np.std(found.reward[:, row]), deviation[2], rtol=0.1)
    zero = step_of(said._replace(log_std=jnp.full_like(said.log_std, -jnp.inf)), units, jnp.zeros((3, 1, 2)), KEY)
    np.testing.assert_allclose(zero.reward[:, 0], units.output_mean[2] + units.output_scale[2] * said.mean[:, 0, 2], rtol=1e-5)


def test_elites_are_the_members_with_the_least_loss_held_out() -> None:
    model = dataclasses.replace(Model.init(SMALL, optax.sgd(0.0), KEY, SPEC), held_out=jnp.array([3.0, 1.0, 2.0]))
    for chosen, whole in zip(jax.tree.leaves(model.elites(2)), jax.tree.leaves(model.learner.params), strict=True):
        np.testing.assert_array_equal(chosen, np.asarray(whole)[[1, 2]])
