"""EDM: the closed forms of energies, chains and losses, and cloning as the special case that it is, bit for bit."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_trees_close, discrete_spec, make_dataset, quick, trees_equal

from diffrl import registry
from diffrl.algorithms import bc, edm
from diffrl.data.dataset import Dataset
from diffrl.learner import forward
from diffrl.networks.mlp import MLP, elu
from diffrl.types import Transition

OBSERVATION, ACTIONS, BATCH = 3, 4, 6
SPEC = discrete_spec(OBSERVATION, ACTIONS)
CONFIG = edm.Config(hidden_dims=(8,), buffer_size=40, chain_steps=3, num_updates=30, batch_size=BATCH)
UNIT = (-jnp.ones(OBSERVATION), jnp.ones(OBSERVATION))
NETWORK = MLP((8,), ACTIONS, activation=elu)
KEY = jax.random.key(0)


@cache
def batch() -> Transition:
    return quick(lambda rows: rows[:BATCH])(demonstrations())


@cache
def demonstrations() -> Dataset:
    rng = np.random.default_rng(1)
    observation = rng.normal(size=(20, OBSERVATION))
    return make_dataset(observation, np.eye(ACTIONS)[rng.integers(0, ACTIONS, 20)], np.zeros(20))


@cache
def setup() -> tuple[Any, Any, Any]:
    """The algorithm, its jitted update, and a fresh state."""
    algorithm = edm.make(CONFIG, SPEC)
    return algorithm, quick(algorithm.stages[0].update), quick(algorithm.init)(KEY, hparams())


def hparams(**values: float) -> Any:
    return edm.HParams(**{name: jnp.float32(values.get(name, value)) for name, value in vars(edm.HParams()).items()})


@cache
def params() -> Any:
    return jax.device_get(quick(NETWORK.init)(KEY, jnp.zeros((1, OBSERVATION)))["params"])


@pytest.fixture(scope="module", autouse=True)
def _made() -> None:
    """Outside of any trace."""
    for make in (params, batch, setup):
        make()


# ------------------------------------------------------------------------------------------------------------------- energies


def test_gradient_of_the_log_mass() -> None:
    """∇_s lse f = Σ_a π(a | s) ∇_s f_a, and what differences of it say."""

    @quick
    def found(x: Any) -> Any:
        def logits(x: Any) -> Any:
            return forward(NETWORK, params(), x)

        def of(x: Any) -> Any:
            return jnp.sum(edm.log_mass(logits(x)))

        jacobian = jax.vmap(jax.jacobian(logits))(x)  # [5, A, O]
        moved = x + 1e-2 * jnp.eye(OBSERVATION)[:, None], x - 1e-2 * jnp.eye(OBSERVATION)[:, None]
        ahead, behind = (edm.log_mass(logits(there)) for there in moved)  # [O, 5]
        return jax.grad(of)(x), jnp.einsum("ba,bao->bo", jax.nn.softmax(logits(x)), jacobian), (ahead - behind).T / 2e-2

    gradient, weighted, differences = found(np.random.default_rng(2).normal(size=(5, OBSERVATION)).astype(np.float32))
    np.testing.assert_allclose(gradient, weighted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, differences, atol=2e-3)


def test_the_gauge_is_free() -> None:
    """f = g - lse g + h: L_ρ knows nothing of g, whatever the samples are, and L_π nothing of h."""
    rng = np.random.default_rng(3)
    samples = jnp.asarray(rng.normal(size=(BATCH, OBSERVATION)), jnp.float32)
    weights = {"g": jnp.asarray(rng.normal(size=(OBSERVATION, ACTIONS)), jnp.float32), "h": jnp.array([0.3, -0.2, 0.5])}

    class Gauged(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            g, h = (self.param(name, lambda _, name=name: weights[name]) for name in ("g", "h"))
            return x @ g - edm.log_mass(x @ g)[:, None] + jnp.sin(x @ h)[:, None]

    def terms(weights: Any) -> Any:
        return edm.loss(weights, Gauged(), batch(), samples, edm.HParams())[1]

    cloning, occupancy = quick(jax.jacrev(terms))(weights)
    np.testing.assert_allclose(occupancy["g"], 0.0, atol=1e-6)
    np.testing.assert_allclose(cloning["h"], 0.0, atol=1e-6)
    assert np.abs(occupancy["h"]).max() > 0.01
    assert np.abs(cloning["g"]).max() > 0.01


def test_a_bias_of_all_logits_has_no_gradient_in_the_occupancy() -> None:
    def of(shift: Any) -> Any:
        moved = dict(params())
        moved["Linear_1"] = moved["Linear_1"] | {"bias": moved["Linear_1"]["bias"] + shift}
        return edm.loss(moved, NETWORK, batch(), batch().observation + 1.0, edm.HParams())[1][1]

    value, slope = quick(jax.value_and_grad(of))(np.float32(0.0))
    assert abs(float(slope)) < 1e-6
    assert abs(float(value)) > 1e-3


def test_chains_at_the_data_are_worth_nothing() -> None:
    """With the batch itself for samples L_ρ is 0 and leaves cloning's gradient as it is."""
    rows = batch()

    def total(params: Any) -> Any:
        return edm.loss(params, NETWORK, rows, rows.observation, edm.HParams())

    (value, (cloning, occupancy)), gradient = quick(jax.value_and_grad(total, has_aux=True))(params())
    assert float(occupancy) == 0.0
    assert float(value) == float(cloning)
    expected = quick(jax.grad(lambda params: bc.classifier_loss(params, NETWORK, rows)))(params())
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-7)


# --------------------------------------------------------------------------------------------------------------------- chains


@pytest.mark.parametrize(("variance", "noise_scale", "expected"), [(1.0, None, 0.0709), (0.25, None, 0.0357), (1.0, 1.0, 1.0025)])
def test_stationary_deviation_of_chains(variance: float, noise_scale: float | None, expected: float) -> None:
    """log ρ = -s²/(2v): x' = (1 - η/v) x + σn, of deviation σ/√(1 - (1 - η/v)²); with the code's noise, and with Langevin's."""
    chosen = edm.HParams() if noise_scale is None else edm.HParams(noise_scale=noise_scale)
    x = np.random.default_rng(0).normal(size=(4000, 1)).astype(np.float32)
    end = quick(edm.walk, static_argnums=(0, 3))(lambda x: -(x[:, 0] ** 2) / (2 * variance), x, chosen, 800, jax.random.key(1))
    assert np.asarray(end).std() == pytest.approx(expected, rel=0.04)


def test_twenty_steps_do_not_mix() -> None:
    """From U(-1, 1) under v = 1 and the code's noise the deviation is still .4735."""
    x = np.random.default_rng(0).uniform(-1, 1, (40_000, 1)).astype(np.float32)
    end = quick(edm.walk, static_argnums=(0, 3))(lambda x: -(x[:, 0] ** 2) / 2, x, edm.HParams(), 20, jax.random.key(1))
    assert np.asarray(end).std() == pytest.approx(0.4735, abs=0.004)


def test_no_gradient_goes_through_a_chain() -> None:
    def end(params: Any) -> Any:
        rho = edm.walk(lambda x: edm.log_mass(forward(NETWORK, params, x)), batch().observation, edm.HParams(), 3, KEY)
        return jnp.sum(rho)

    assert all(not np.any(leaf) for leaf in jax.tree.leaves(quick(jax.grad(end))(params())))


def test_starts_are_of_the_buffer_or_new() -> None:
    """With the probability that is asked for, uniformly in the box."""
    buffer = np.full((50, 2), 9.0, np.float32) + np.arange(50, dtype=np.float32)[:, None]
    box = np.array([-2.0, 0.0], np.float32), np.array([-1.0, 3.0], np.float32)
    x, index = jax.device_get(quick(edm.starts, static_argnums=1)(buffer, 4000, box, 0.25, KEY))
    new = x[:, 0] < 0
    np.testing.assert_array_equal(x[~new], buffer[index][~new])
    assert new.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(x[new].mean(axis=0), [-1.5, 1.5], atol=0.08)
    assert (x[new] >= box[0]).all()
    assert (x[new] <= box[1]).all()
    assert len(np.unique(index)) == 50


# --------------------------------------------------------------------------------------------------------------------- update


def test_the_buffer_is_written_where_it_was_drawn() -> None:
    """Exactly the drawn rows change, to the ends of their chains."""
    _, update, state = setup()
    after, _ = update(state, batch(), KEY)

    @quick
    def expected(state: Any) -> Any:
        start_key, walk_key = jax.random.split(KEY)
        start, index = edm.starts(state.buffer, BATCH, UNIT, 0.05, start_key)
        mass = lambda x: edm.log_mass(forward(NETWORK, state.policy.params, x))  # noqa: E731
        return index, edm.walk(mass, start, edm.HParams(), CONFIG.chain_steps, walk_key)

    index, end = expected(state)
    before, now, rows = np.asarray(state.buffer), np.asarray(after.buffer), np.asarray(index).tolist()
    np.testing.assert_array_equal(np.flatnonzero(np.any(before != now, axis=1)), np.unique(rows))
    for place, row in enumerate(rows):
        if rows.count(row) == 1:  # of one drawn twice either end may stay
            np.testing.assert_allclose(now[row], np.asarray(end)[place], rtol=1e-5, atol=1e-6)


def test_without_steps_the_loss_is_of_the_buffer() -> None:
    """J = 0 and no renewal: CE + (mean lse of the drawn rows - mean lse of the batch) + its square, by hand."""
    algorithm = edm.make(dataclasses.replace(CONFIG, chain_steps=0), SPEC)
    _, _, state = setup()
    state = state.replace(hparams=hparams(renewal=0.0))
    after, metrics = quick(algorithm.stages[0].update)(state, batch(), KEY)
    assert trees_equal(after.buffer, state.buffer)

    @quick
    def found(state: Any) -> Any:
        chains, _ = edm.starts(state.buffer, BATCH, UNIT, 0.0, jax.random.split(KEY)[0])
        params = state.policy.params
        totals = [edm.loss(params, NETWORK, batch(), chains, edm.HParams(square_weight=c))[0] for c in (1.0, 0.0)]
        return forward(NETWORK, params, batch().observation), forward(NETWORK, params, chains), totals

    logits, drawn, (of_code, of_paper) = found(state)
    of_data, of_chains = (np.log(np.exp(np.asarray(part, np.float64)).sum(axis=1)) for part in (logits, drawn))
    cloning = np.mean(of_data - (np.asarray(logits) * np.asarray(batch().action)).sum(axis=1))
    occupancy = of_chains.mean() - of_data.mean()
    assert float(metrics["policy/loss"]) == pytest.approx(cloning, rel=1e-5)
    assert float(metrics["policy/occupancy"]) == pytest.approx(occupancy, abs=1e-5)
    assert float(metrics["policy/occupancy_size"]) == pytest.approx(abs(occupancy), abs=1e-5)
    assert float(of_code) == pytest.approx(cloning + occupancy + occupancy**2, rel=1e-5)
    assert float(of_paper) == pytest.approx(cloning + occupancy, rel=1e-5)


def test_runs_together_are_runs_alone() -> None:
    """The same keys give the same states under vmap and in a Python loop."""
    algorithm, update, state = setup()
    keys = jax.random.split(jax.random.key(7), 3)
    states = jax.tree.map(lambda x: jnp.stack([x] * 3), state)
    together, _ = quick(jax.vmap(algorithm.stages[0].update, in_axes=(0, None, 0)))(states, batch(), keys)
    for run in range(3):
        alone, _ = update(state, batch(), keys[run])
        assert_trees_close(alone, jax.tree.map(lambda x, run=run: x[run], together), rtol=1e-5, atol=1e-5)


def test_without_its_weights_it_is_cloning_bit_for_bit() -> None:
    """w = 0, c = 0: the policies of `bc` with this network from the same key, update for update; with w = 1 others."""
    _, update, fresh = setup()
    config = bc.Config(learning_rate=1e-3, hidden_dims=(8,), activation="elu", num_updates=30, batch_size=BATCH)
    yardstick = bc.make(config, SPEC)
    cloned = quick(yardstick.init)(KEY, bc.HParams(jnp.float32(1e-3)))
    assert trees_equal(cloned.policy, fresh.policy)
    state, other = fresh.replace(hparams=hparams(occupancy_weight=0.0, square_weight=0.0)), fresh
    clone, rows = quick(yardstick.stages[0].update), quick(lambda data, index: data[index])
    for step in range(8):
        key = jax.random.fold_in(KEY, step)
        drawn = rows(demonstrations(), np.random.default_rng(step).integers(0, 20, BATCH))
        state, metrics = update(state, drawn, key)
        cloned, expected = clone(cloned, drawn, key)
        other, _ = update(other, drawn, key)
        assert trees_equal(state.policy, cloned.policy)
        assert metrics["policy/loss"] == expected["policy/loss"]
    assert not trees_equal(other.policy, cloned.policy)


# ---------------------------------------------------------------------------------------------------------- what is refused


def test_actions_in_a_box_are_refused() -> None:
    box = dataclasses.replace(SPEC, num_actions=0)
    with pytest.raises(ValueError, match=r"^edm cannot have box actions; methods that can: bc, "):
        registry.make(CONFIG, box)


def test_chains_may_begin_in_the_range_of_the_data() -> None:
    """Which a spec of old does not know: one line that says so."""
    config = dataclasses.replace(CONFIG, chains_begin="data", buffer_size=2000)
    spec = dataclasses.replace(SPEC, observation_min=(-9.0, 0.0, 2.0), observation_max=(-8.0, 0.5, 9.0))
    buffer = np.asarray(quick(edm.make(config, spec).init)(KEY, hparams()).buffer)
    np.testing.assert_allclose(buffer.min(axis=0), spec.observation_min, atol=0.02)
    np.testing.assert_allclose(buffer.max(axis=0), spec.observation_max, atol=0.02)
    with pytest.raises(ValueError, match="chains_begin='data' needs the range of the data"):
        edm.make(config, dataclasses.replace(SPEC, observation_min=(), observation_max=()))


def test_elu_is_that_of_jax() -> None:
    x = jnp.linspace(-30.0, 30.0, 601)
    np.testing.assert_allclose(elu(x), jax.nn.elu(x), atol=1e-7)
    slope = quick(jax.vmap(jax.grad(elu)))(x)
    np.testing.assert_allclose(slope, jnp.where(x > 0, 1.0, jnp.exp(x)), rtol=1e-6)
