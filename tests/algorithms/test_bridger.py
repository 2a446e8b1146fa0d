"""BRIDGeR: its sources, what the bridge is given, and what acting remembers; the bridge itself is tested in diffusion/."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import act, first_gradient, make_dataset, quick, runs_of, train_stages, trees_equal

from diffrl.algorithms import bc, bridger
from diffrl.data.dataset import Dataset
from diffrl.networks.chunk_vae import ChunkVAE
from diffrl.networks.gaussian import kl_divergence
from diffrl.networks.mlp import MLP
from diffrl.types import Spec

SMALL: dict[str, Any] = {
    "horizon": 4,
    "window": 2,
    "hidden_dims": (8,),
    "num_blocks": 1,
    "time_hidden_dim": 8,
    "source_hidden_dims": (16,),
    "latent_dim": 3,
    "batch_size": 8,
    "act": bridger.Act(num_denoising_steps=2, execution_steps=2),
}
SPEC = Spec.plain(3, 1)


def walk() -> Dataset:
    """Two episodes of 5 rows; observations and actions say which row it is."""
    row = np.arange(10.0)
    observation = np.stack([row, row, row], axis=1)
    return make_dataset(observation, row[:, None], np.zeros(10), observation + 1.0, False, row % 5 == 4)


def made(source: Any = "gaussian", **changes: Any) -> Any:
    return bridger.make(dataclasses.replace(bridger.Config(**SMALL, source=source), **changes), SPEC)


@cache
def left_source() -> tuple[Any, Any]:
    """A cloned policy as source, that is not trained, and acts alone: no steps."""
    algorithm = made("bc", train_source=False, act=bridger.Act(num_denoising_steps=0, execution_steps=2))
    return algorithm, quick(algorithm.init)(jax.random.key(0), algorithm.hparams)


# ------------------------------------------------------------------------------------------------------------- sources


def test_the_loss_of_the_variational_source() -> None:
    """10 MSE + κ KL, κ grown by the updates to at most 0.1; KL by hand: ½ (σ² + μ² - 1 - log σ²) a number."""
    mean, std = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.5]])
    expected = 0.5 * (4.0 + 1.0 - 1.0 - np.log(4.0) + 0.25 - 1.0 - np.log(0.25))
    assert float(kl_divergence(mean, std)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(kl_divergence(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0]) == pytest.approx(0.0, abs=1e-6)

    network = ChunkVAE(4, (8,), 3)
    observations, chunk, key = jnp.ones((5, 6)), jnp.ones((5, 4)), jax.random.key(1)
    params = quick(network.init)(jax.random.key(0), observations, chunk, key)["params"]
    hparams = bridger.HParams()

    def loss(update: int) -> float:
        return float(quick(bridger.vae_loss, static_argnums=1)(params, network, observations, chunk, update, hparams, key))

    decoded, mean, std = quick(network.apply)({"params": params}, observations, chunk, key)
    divergence = float(jnp.mean(kl_divergence(mean, std)))
    assert loss(0) == pytest.approx(10.0 * float(jnp.mean((decoded - chunk) ** 2)), rel=1e-5)
    assert loss(500) - loss(0) == pytest.approx(0.05 * divergence, rel=1e-3)
    assert loss(5_000) - loss(0) == pytest.approx(0.1 * divergence, rel=1e-3)


def test_a_cloned_policy_is_a_source_as_it_was_trained() -> None:
    """The State of `bc` with chunks of the horizon fits the field "policy", and without steps the bridge acts as it does."""
    clone = bc.make(bc.Config(hidden_dims=(16,)), Spec.plain(3, 4))
    trained = quick(clone.init)(jax.random.key(7), clone.hparams)
    algorithm, state = left_source()
    assert [stage.name for stage in algorithm.stages] == ["bridge"]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each.policy) for each in (trained, state)]
    assert shapes[0] == shapes[1]
    observation = jax.random.normal(jax.random.key(1), (5, 3))
    state = dataclasses.replace(state, policy=trained.policy)
    expected = clone.act(clone.policy(trained), (), observation, jax.random.key(2))[0]
    found = act(algorithm, jax.tree.map(lambda leaf: leaf[None], state), observation)[0]
    np.testing.assert_allclose(found, expected[:, :1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_source_is_trained_alone_and_then_left() -> None:
    """And by its own method's loss."""
    algorithm = made("bc")
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    source, bridge = algorithm.stages
    assert source.batch is not None
    batch = source.batch(walk(), jax.random.key(0), 8)
    after, metrics = quick(source.update)(state, batch, jax.random.key(1))
    assert trees_equal(after.bridge, state.bridge)
    chunk = batch.extras["window_action"][:, 1:].reshape(8, -1)
    cloned = batch.replace(action=chunk)
    network = MLP((16,), 4, output_activation=jnp.tanh)
    assert float(metrics["source/loss"]) == pytest.approx(float(bc.policy_loss(state.policy.params, network, cloned)), rel=1e-5)
    later, _ = quick(bridge.update)(after, batch, jax.random.key(1))
    assert trees_equal(later.policy, after.policy)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(first_gradient(later.bridge)))


def test_a_script_pushes_towards_the_goal() -> None:
    """In the environment's units, whatever the observation's are; the push is held for the chunk."""
    parts = (("observation", 2), ("desired_goal", 1))
    spec = dataclasses.replace(
        Spec.plain(3, 1), observation_parts=parts, observation_mean=(1.0, 0.0, -3.0), observation_std=(2.0, 1.0, 0.5)
    )
    config = bridger.Config(**SMALL, source="seek")
    source = bridger.source_of(config, spec)
    position, goal = np.array([0.0, 0.0, 0.0]), np.array([0.05, 5.0, -5.0])
    seen = np.stack([(position - 1.0) / 2.0, np.zeros(3), (goal + 3.0) / 0.5], axis=1)
    found = source.draw((), jnp.asarray(np.tile(seen, (1, 2)), jnp.float32), jax.random.key(0))
    np.testing.assert_allclose(found, np.repeat([[0.5], [1.0], [-1.0]], 4, axis=1), atol=1e-5)
    with pytest.raises(ValueError, match=r"source='seek' pushes towards .*choose another source"):
        bridger.make(config, SPEC)


# --------------------------------------------------------------------------------------------------- windows and acting


def test_what_is_known_and_what_is_done() -> None:
    """W observations up to a row, H actions from it on; an episode's ends are repeated, and none is crossed."""
    (stage,) = made().stages
    assert stage.batch is not None
    batch = stage.batch(walk(), jax.random.key(0), 64)
    row = np.asarray(batch.observation[:, 0]).astype(int)
    first, last = row // 5 * 5, row // 5 * 5 + 4
    known = np.clip(row[:, None] + [-1, 0], first[:, None], last[:, None])
    done = np.clip(row[:, None] + np.arange(4), first[:, None], last[:, None])
    np.testing.assert_array_equal(batch.extras["window_observation"][:, :2, 0], known)
    np.testing.assert_array_equal(batch.extras["window_action"][:, 1:, 0], done)


def test_chunks_are_executed_and_made_anew() -> None:
    """Two of four actions of a chunk; the network is told the two observations last seen, at first one of them twice."""
    algorithm, state = left_source()
    policy = algorithm.policy(state)
    step = quick(algorithm.act)
    seen = [jnp.full((2, 3), 0.1 * i) for i in range(4)]
    carry, actions = algorithm.init_carry(policy, 2), []
    for i, observation in enumerate(seen):
        action, carry = step(policy, carry, observation, jax.random.key(i))
        actions.append(action)
        np.testing.assert_array_equal(carry.observations[0, :, 0], [seen[max(i - 1, 0)][0, 0], observation[0, 0]])
    network = MLP((16,), 4, output_activation=jnp.tanh)
    for i in (0, 2):
        chunk = network.apply({"params": state.policy.params}, seen[i])
        np.testing.assert_allclose(jnp.concatenate(actions[i : i + 2], axis=1), chunk[:, :2], rtol=1e-5, atol=1e-6)


def test_impossible_settings_are_refused() -> None:
    for changes, message in (
        ({"hidden_dims": (8, 8), "horizon": 3}, "horizon must be a multiple of 2"),
        ({"hidden_dims": (12,)}, "widths multiples of 8"),
        ({"act": bridger.Act(execution_steps=5)}, r"act\.execution_steps=5 is more than horizon=4"),
        (
            {"interpolant": "encode_decode", "act": bridger.Act(num_denoising_steps=3, execution_steps=2)},
            r"act\.num_denoising_steps must be even, got 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bridger.make(bridger.Config(**SMALL | changes), SPEC)


# -------------------------------------------------------------------------------------------------------------- learnt


@pytest.mark.slow
@pytest.mark.parametrize("interpolant", ["power3", "linear"])
def test_it_comes_from_the_source_to_the_data(interpolant: Any) -> None:
    """One state; expert chunks N(0.5, .2²), source N(0, I): five steps give the data's mean, 20 the deviation too."""
    rng = np.random.default_rng(0)
    action = 0.5 + 0.2 * rng.normal(size=(2048, 1))
    data = make_dataset(np.ones((2048, 1)), action, np.zeros(2048), terminal=True)
    config = bridger.Config(
        interpolant=interpolant,
        horizon=1,
        window=1,
        hidden_dims=(32,),
        num_blocks=1,
        time_hidden_dim=16,
        bridge_noise=0.1,
        learning_rate=3e-3,
        decay_every=1_500,
        num_updates=6_000,
        act=bridger.Act(num_denoising_steps=5, execution_steps=1),
    )
    states = train_stages(bridger.make(config, Spec.plain(1, 1)), runs_of(config), data)
    for count, tolerance in ((5, 0.12), (20, 0.05)):
        acting = dataclasses.replace(config, act=bridger.Act(num_denoising_steps=count, execution_steps=1))
        found = act(bridger.make(acting, Spec.plain(1, 1)), states, jnp.ones((4_000, 1)))
        assert found.mean() == pytest.approx(0.5, abs=0.05)
        assert found.std() == pytest.approx(0.2, abs=tolerance)
