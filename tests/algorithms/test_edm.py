"""EDM: the closed forms of energies, chains and losses, and cloning as the special case that it is, bit for bit."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import discrete_spec, make_dataset, quick, runs_of, train_stages, trees_equal

from diffrl import registry
from diffrl.algorithms import bc, edm
from diffrl.data.dataset import Dataset
from diffrl.learner import forward
from diffrl.networks.mlp import MLP, elu
from diffrl.types import Transition

OBSERVATION, ACTIONS, BATCH = 3, 4, 6
SPEC = discrete_spec(OBSERVATION, ACTIONS)
CONFIG = edm.Config(hidden_dims=(8,), buffer_size=40, chain_steps=3, num_updates=30, batch_size=BATCH)
NETWORK = MLP((8,), ACTIONS, activation=elu)
KEY = jax.random.key(0)


@cache
def batch() -> Transition:
    rng = np.random.default_rng(0)
    return demonstrations()[jnp.asarray(rng.permutation(20)[:BATCH])]


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
    return quick(NETWORK.init)(KEY, jnp.zeros((1, OBSERVATION)))["params"]


@pytest.fixture(scope="module", autouse=True)
def _made() -> None:
    """Outside of any trace."""
    params(), batch(), setup()


# ------------------------------------------------------------------------------------------------------------------- energies


def test_gradient_of_the_log_mass() -> None:
    """∇_s lse f = Σ_a π(a | s) ∇_s f_a, and what differences of it say."""
    x = jax.random.normal(jax.random.key(1), (5, OBSERVATION))

    def logits(x: Any) -> Any:
        return forward(NETWORK, params(), x)

    def of(x: Any) -> Any:
        return jnp.sum(edm.log_mass(logits(x)))

    gradient = quick(jax.grad(of))(x)
    jacobian = quick(jax.vmap(jax.jacobian(logits)))(x)  # [5, A, O]
    np.testing.assert_allclose(gradient, jnp.einsum("ba,bao->bo", jax.nn.softmax(logits(x)), jacobian), rtol=1e-5, atol=1e-6)
    for column in range(OBSERVATION):
        ahead, behind = (edm.log_mass(logits(x.at[:, column].add(step))) for step in (1e-2, -1e-2))
        np.testing.assert_allclose(gradient[:, column], (ahead - behind) / 2e-2, atol=2e-3)


def test_the_gauge_is_free() -> None:
    """f = g - lse g + h: L_ρ knows nothing of g, whatever the samples are, and L_π nothing of h."""
    x, samples = jax.random.normal(KEY, (BATCH, OBSERVATION)), jax.random.normal(jax.random.key(1), (BATCH, OBSERVATION))

    weights = {"g": jax.random.normal(KEY, (OBSERVATION, ACTIONS)), "h": jnp.array([0.3, -0.2, 0.5])}

    class Gauged:
        @staticmethod
        def apply(variables: Any, x: Any) -> Any:
            g, h = x @ variables["params"]["g"], jnp.sin(x @ variables["params"]["h"])
            return g - edm.log_mass(g)[:, None] + h[:, None]

    network: Any = Gauged()
    rows = batch().replace(observation=x)

    def term(index: int) -> Any:
        return quick(jax.grad(lambda weights: edm.loss(weights, network, rows, samples, edm.HParams())[1][index]))(weights)

    cloning, occupancy = term(0), term(1)
    np.testing.assert_allclose(occupancy["g"], 0.0, atol=1e-6)
    np.testing.assert_allclose(cloning["h"], 0.0, atol=1e-6)
    assert np.abs(occupancy["h"]).max() > 0.01
    assert np.abs(cloning["g"]).max() > 0.01


def test_a_bias_of_all_logits_has_no_gradient_in_the_occupancy() -> None:
    def of(shift: Any) -> Any:
        moved = jax.tree.map(lambda x: x, params())
        moved["Linear_1"] = moved["Linear_1"] | {"bias": moved["Linear_1"]["bias"] + shift}
        return edm.loss(moved, NETWORK, batch(), batch().observation + 1.0, edm.HParams())[1][1]

    assert abs(float(quick(jax.grad(of))(jnp.float32(0.0)))) < 1e-6
    assert abs(float(quick(of)(jnp.float32(0.0)))) > 1e-3


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


@pytest.mark.parametrize(
    ("variance", "noise_scale", "expected"), [(1.0, None, 0.0709), (0.25, None, 0.0357), (1.0, 1.0, 1.0025)]
)
def test_stationary_deviation_of_chains(variance: float, noise_scale: float | None, expected: float) -> None:
    """log ρ = -s²/(2v): x' = (1 - η/v) x + σn, of deviation σ/√(1 - (1 - η/v)²); with the code's noise, and with Langevin's."""
    chosen = edm.HParams() if noise_scale is None else edm.HParams(noise_scale=noise_scale)
    x = 1.0 * jax.random.normal(KEY, (4000, 1))
    end = quick(edm.walk, static_argnums=(0, 3))(lambda x: -(x[:, 0] ** 2) / (2 * variance), x, chosen, 800, jax.random.key(1))
    assert float(jnp.std(end)) == pytest.approx(expected, rel=0.04)


def test_twenty_steps_do_not_mix() -> None:
    """From U(-1, 1) under v = 1 and the code's noise the deviation is still .4735."""
    x = jax.random.uniform(KEY, (40_000, 1), minval=-1.0, maxval=1.0)
    end = quick(edm.walk, static_argnums=(0, 3))(lambda x: -(x[:, 0] ** 2) / 2, x, edm.HParams(), 20, jax.random.key(1))
    assert float(jnp.std(end)) == pytest.approx(0.4735, abs=0.004)


def test_no_gradient_goes_through_a_chain() -> None:
    def end(params: Any) -> Any:
        rho = edm.walk(lambda x: edm.log_mass(forward(NETWORK, params, x)), batch().observation, edm.HParams(), 3, KEY)
        return jnp.sum(rho)

    assert all(not np.any(leaf) for leaf in jax.tree.leaves(quick(jax.grad(end))(params())))


def test_starts_are_of_the_buffer_or_new() -> None:
    """With the probability that is asked for, uniformly in the box."""
    buffer = jnp.full((50, 2), 9.0) + jnp.arange(50.0)[:, None]
    box = jnp.array([-2.0, 0.0]), jnp.array([-1.0, 3.0])
    x, index = quick(edm.starts, static_argnums=1)(buffer, 4000, box, 0.25, KEY)
    new = np.asarray(x[:, 0]) < 0
    np.testing.assert_array_equal(np.asarray(x)[~new], np.asarray(buffer[index])[~new])
    assert new.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(np.asarray(x)[new].mean(axis=0), [-1.5, 1.5], atol=0.08)
    assert (np.asarray(x)[new] >= box[0]).all()
    assert (np.asarray(x)[new] <= box[1]).all()
    assert len(np.unique(index)) == 50


# --------------------------------------------------------------------------------------------------------------------- update


def test_the_buffer_is_written_where_it_was_drawn() -> None:
    """Exactly the drawn rows change, to the ends of their chains."""
    _, update, state = setup()
    after, _ = update(state, batch(), KEY)
    start_key, walk_key = jax.random.split(KEY)
    box = -jnp.ones(OBSERVATION), jnp.ones(OBSERVATION)
    start, index = quick(edm.starts, static_argnums=1)(state.buffer, BATCH, box, 0.05, start_key)
    changed = np.flatnonzero(np.any(np.asarray(after.buffer != state.buffer), axis=1))
    np.testing.assert_array_equal(changed, np.unique(index))
    mass = lambda x: edm.log_mass(forward(NETWORK, state.policy.params, x))  # noqa: E731
    end = quick(edm.walk, static_argnums=(0, 3))(mass, start, edm.HParams(), CONFIG.chain_steps, walk_key)
    last = {int(row): position for position, row in enumerate(np.asarray(index))}  # of one drawn twice the last is kept
    for row, position in last.items():
        if list(np.asarray(index)).count(row) == 1:
            np.testing.assert_allclose(after.buffer[row], end[position], rtol=1e-5, atol=1e-6)


def test_without_steps_the_loss_is_of_the_buffer() -> None:
    """J = 0 and no renewal: CE + (mean lse of the drawn rows - mean lse of the batch) + its square, by hand."""
    algorithm = edm.make(dataclasses.replace(CONFIG, chain_steps=0), SPEC)
    _, _, state = setup()
    state = state.replace(hparams=hparams(renewal=0.0))
    after, metrics = quick(algorithm.stages[0].update)(state, batch(), KEY)
    assert trees_equal(after.buffer, state.buffer)
    _, index = quick(edm.starts, static_argnums=1)(
        state.buffer, BATCH, (-jnp.ones(OBSERVATION), jnp.ones(OBSERVATION)), 0.0, jax.random.split(KEY)[0]
    )

    def by_hand(params: Any) -> Any:
        logits = np.asarray(forward(NETWORK, params, batch().observation), np.float64)
        drawn = np.asarray(forward(NETWORK, params, state.buffer[index]), np.float64)
        of_data, of_chains = (np.log(np.exp(part).sum(axis=1)) for part in (logits, drawn))
        cloning = np.mean(of_data - (logits * np.asarray(batch().action)).sum(axis=1))
        return cloning, of_chains.mean() - of_data.mean()

    cloning, occupancy = by_hand(state.policy.params)
    assert float(metrics["policy/loss"]) == pytest.approx(cloning, rel=1e-5)
    assert float(metrics["policy/occupancy"]) == pytest.approx(occupancy, abs=1e-5)
    total = edm.loss(state.policy.params, NETWORK, batch(), state.buffer[index], edm.HParams())[0]
    assert float(total) == pytest.approx(cloning + occupancy + occupancy**2, rel=1e-5)
    paper = edm.loss(state.policy.params, NETWORK, batch(), state.buffer[index], edm.HParams(square_weight=0.0))[0]
    assert float(paper) == pytest.approx(cloning + occupancy, rel=1e-5)


def test_runs_together_are_runs_alone() -> None:
    """The same keys give the same states under vmap and in a Python loop."""
    algorithm, update, _ = setup()
    keys = jax.random.split(jax.random.key(7), 3)
    init = quick(jax.vmap(algorithm.init))(keys, jax.tree.map(lambda x: jnp.repeat(x, 3), hparams()))
    together, _ = quick(jax.vmap(algorithm.stages[0].update, in_axes=(0, None, 0)))(init, batch(), keys)
    for run in range(3):
        alone, _ = update(jax.tree.map(lambda x, run=run: x[run], init), batch(), keys[run])
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(a, b[run], rtol=1e-5, atol=1e-5)


def test_without_its_weights_it_is_cloning_bit_for_bit() -> None:
    """w = 0, c = 0: the policies of `bc` with this network after thirty updates, and with w = 1 others."""
    sweep = "occupancy_weight:square_weight=0:0,1:1"
    ours = train_stages(edm.make(CONFIG, SPEC), runs_of(CONFIG, 2, sweep=sweep), demonstrations())
    yardstick = bc.Config(learning_rate=1e-3, hidden_dims=(8,), activation="elu", num_updates=30, batch_size=BATCH)
    cloned = train_stages(bc.make(yardstick, SPEC), runs_of(yardstick, 2, sweep="learning_rate=1e-3,2e-3"), demonstrations())
    first, second = (jax.tree.map(lambda x, part=part: x[part], ours.policy.params) for part in (slice(0, 2), slice(2, 4)))
    assert trees_equal(first, jax.tree.map(lambda x: x[:2], cloned.policy.params))
    assert not trees_equal(second, first)


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
    slope = jax.vmap(jax.grad(elu))(x)
    np.testing.assert_allclose(slope, jnp.where(x > 0, 1.0, jnp.exp(x)), rtol=1e-6)
