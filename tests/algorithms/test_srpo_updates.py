"""SRPO: its updates against the paper's equations written out."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_trees_close, chosen, first_gradient, quick, trees_equal

from diffrl.algorithms import srpo
from diffrl.algorithms.srpo import policy_loss
from diffrl.diffusion.schedules import LinearVP
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Value
from diffrl.networks.mlp import MLP
from diffrl.types import Spec, Transition


def test_policy_loss_carries_gradient_through_the_action_only() -> None:
    """mean ⟨e - β g, a⟩: in `action` the gradient is (e - β g) / batch; in the others it is zero."""
    action, score, q_gradient = (jax.random.normal(jax.random.key(k), (5, 3)) for k in range(3))
    gradients = jax.grad(policy_loss, argnums=(0, 1, 2))(action, score, q_gradient, 0.3)
    np.testing.assert_allclose(gradients[0], (score - 0.3 * q_gradient) / 5, rtol=1e-5)
    np.testing.assert_array_equal(gradients[1], 0.0)
    np.testing.assert_array_equal(gradients[2], 0.0)
    assert float(policy_loss(action, score, q_gradient, 0.3)) == pytest.approx(
        float(np.sum(np.asarray((score - 0.3 * q_gradient) * action))) / 5, rel=1e-4
    )


# ---------------------------------------------------------------------------------------------------- the three updates

OBSERVATION, ACTION, BATCH = 4, 2, 8
CONFIG = srpo.Config(
    beta=0.7,
    learning_rate=1e-2,
    behavior_hidden_dim=16,
    behavior_blocks=1,
    critic_hidden_dims=(16, 16),
    policy_hidden_dims=(16,),
    behavior_updates=4,
    critic_updates=4,
    policy_updates=4,
)
TRAINED = {
    "behavior": {"behavior"},
    "critic": {"critic", "value", "target_critic_params"},
    "policy": {"policy"},
}


@cache
def setup(normalize: bool = False) -> tuple[dict[str, Any], Any, Transition]:
    """Jitted updates by stage, a state whose target critics are far from the online ones, and a batch."""
    algorithm = srpo.make(dataclasses.replace(CONFIG, normalize_q_gradient=normalize), Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=jax.tree.map(lambda x: 2.0 * x, other.critic.params))
    keys = jax.random.split(jax.random.key(2), 4)
    batch = Transition(
        observation=jax.random.normal(keys[0], (BATCH, OBSERVATION)),
        action=jax.random.uniform(keys[1], (BATCH, ACTION), minval=-1.0),
        reward=jax.random.normal(keys[2], (BATCH,)),
        next_observation=jax.random.normal(keys[3], (BATCH, OBSERVATION)),
        terminal=jnp.arange(BATCH) % 3 == 0,
        timeout=jnp.arange(BATCH) % 4 == 1,
    )
    return {stage.name: quick(stage.update) for stage in algorithm.stages}, state, batch


def q_values(params: Any, observation: jax.Array, action: jax.Array) -> jax.Array:
    """`[2, B]`, from two separate networks."""
    (stacked,) = params.values()
    inputs = jnp.concatenate([action, observation], axis=-1)
    members = [jax.tree.map(lambda x, k=k: x[k], stacked) for k in range(2)]
    return jnp.stack([MLP((16, 16), 1).apply({"params": member}, inputs)[:, 0] for member in members])


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_trains_its_own_networks_only(stage: str) -> None:
    """Two updates of a stage change all that it trains and leave every other field of the state bit-equal."""
    updates, state, batch = setup()
    after = state
    for seed in range(2):
        after, _ = updates[stage](after, batch, jax.random.key(seed))
    for field in dataclasses.fields(state):
        if field.name in TRAINED[stage]:
            for old, new in zip(
                jax.tree.leaves(getattr(state, field.name)), jax.tree.leaves(getattr(after, field.name)), strict=True
            ):
                assert not np.array_equal(old, new), field.name
        else:
            assert trees_equal(getattr(state, field.name), getattr(after, field.name)), field.name


def policy_reference(config: srpo.Config, state: Any, batch: Transition, key: jax.Array, reduce: str, params: Any) -> Any:
    """The parameter gradient of eq. 15 times -β: J_πᵀ (ω e - β ∇_a Q), with ε and ∇Q computed as plain numbers."""
    policy = MLP((16,), ACTION, output_activation=jnp.tanh)
    action, pullback = jax.vjp(lambda p: policy.apply({"params": p}, batch.observation), state.policy.params)
    denoiser = ResidualDenoiser(ACTION, hidden_dim=16, num_blocks=1)
    variables = {"params": state.behavior.params, "constants": state.behavior_constants}
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (BATCH,), minval=0.02, maxval=0.98)
    z = jax.random.normal(noise_key, (BATCH, ACTION))
    alpha, sigma = LinearVP().alpha(t)[:, None], LinearVP().sigma(t)[:, None]
    e = sigma**2 * (denoiser.apply(variables, alpha * action + sigma * z, t, batch.observation) - z)
    value = {"mean": lambda q: jnp.mean(q, axis=0), "min": lambda q: jnp.min(q, axis=0)}[reduce]
    g = jax.grad(lambda a: jnp.sum(value(q_values(params, batch.observation, a))))(action)
    if config.normalize_q_gradient:
        g = g * np.sqrt(ACTION) / jnp.linalg.norm(g, axis=-1, keepdims=True)
    return pullback((e - config.beta * g) / BATCH)[0]


@pytest.mark.parametrize("normalize", chosen([False, True], 0))
def test_policy_gradient_is_equation_15(normalize: bool) -> None:
    """Mean of the TARGET critics, ε_ψ in evaluation mode, no Jacobian of ε_ψ: equal to the gradient written out, which the
    minimum and the online critics would not give.
    """
    config = dataclasses.replace(CONFIG, normalize_q_gradient=normalize)
    updates, state, batch = setup(normalize)
    key = jax.random.key(7)
    after, _ = updates["policy"](state, batch, key)
    gradient, reference = first_gradient(after.policy), quick(partial(policy_reference, config), static_argnums=3)
    assert_trees_close(gradient, reference(state, batch, key, "mean", state.target_critic_params), rtol=1e-3, atol=1e-5)
    for wrong in (
        reference(state, batch, key, "min", state.target_critic_params),
        reference(state, batch, key, "mean", state.critic.params),
    ):
        difference = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (gradient, wrong)), strict=True))
        assert difference > 1e-3


def test_normalised_gradient_is_finite_where_q_is_flat() -> None:
    """The authors' code divides 0 by 0 there. With no Q gradient at all, normalisation changes nothing."""
    results = []
    for updates, state, batch in (setup(True), setup(False)):
        state = state.replace(target_critic_params=jax.tree.map(jnp.zeros_like, state.target_critic_params))
        results.append(updates["policy"](state, batch, jax.random.key(0))[0].policy)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[0]))
    assert_trees_close(results[0].params, results[1].params)


def test_critic_update_uses_v_before_its_step_and_the_old_target() -> None:
    """Gradients of V, of Q and the new target against eq. 11 and 12 written out, in the order of the authors' code."""
    updates, state, batch = setup()
    after, metrics = updates["critic"](state, batch, jax.random.key(0))
    value = Value((16, 16))

    def value_loss(params: Any) -> jax.Array:
        u = jnp.min(q_values(state.target_critic_params, batch.observation, batch.action), axis=0)
        u = u - value.apply({"params": params}, batch.observation)
        return jnp.mean(jnp.abs(0.7 - (u < 0)) * u**2)

    def critic_loss(params: Any, value_params: Any) -> jax.Array:
        v = value.apply({"params": value_params}, batch.next_observation)
        y = batch.reward + 0.99 * (1.0 - batch.terminal) * v
        q = q_values(params, batch.observation, batch.action)
        return 0.5 * (jnp.mean((q[0] - y) ** 2) + jnp.mean((q[1] - y) ** 2))

    assert_trees_close(first_gradient(after.value), quick(jax.grad(value_loss))(state.value.params), rtol=1e-3)
    expected = quick(jax.grad(critic_loss))(state.critic.params, state.value.params)
    assert_trees_close(first_gradient(after.critic), expected, rtol=1e-3)
    wrong = quick(jax.grad(critic_loss))(state.critic.params, after.value.params)
    assert max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (expected, wrong)), strict=True)) > 1e-3
    average = jax.tree.map(lambda old, new: 0.995 * old + 0.005 * new, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(state.critic.params, state.value.params)), rel=1e-4)


def test_target_starts_equal_to_the_critic() -> None:
    algorithm = srpo.make(CONFIG, Spec.plain(OBSERVATION, ACTION))
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    assert trees_equal(state.target_critic_params, state.critic.params)


def test_weight_decay_reaches_every_trainable_parameter() -> None:
    """AdamW with torch's default 0.01, not optax's 1e-4: decay moves all parameters, biases and norms too, by lr · wd · p."""
    assert srpo.HParams().weight_decay == 0.01
    updates, state, batch = setup()
    rate, decay = 0.1, 0.01
    results = []
    for weight_decay in (decay, 0.0):
        hparams = dataclasses.replace(state.hparams, learning_rate=jnp.float32(rate), weight_decay=jnp.float32(weight_decay))
        results.append(updates["behavior"](state.replace(hparams=hparams), batch, jax.random.key(0))[0])
    moved = jax.tree.map(lambda a, b: a - b, results[0].behavior.params, results[1].behavior.params)
    assert_trees_close(moved, jax.tree.map(lambda p: -rate * decay * p, state.behavior.params), rtol=1e-2, atol=3e-7)
    kernels = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(moved)]
    assert sum(size > 1e-5 for size in kernels) >= len(kernels) - 1  # LayerNorm's bias starts at 0: nothing to decay


def test_policy_rate_falls_to_zero_along_a_cosine() -> None:
    """lr ½(1 + cos(π k / K)) at update k: the written-out Adam follows, and after K updates nothing moves any more."""
    updates, state, batch = setup()
    rates = [CONFIG.learning_rate * 0.5 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]
    adam = optax.scale_by_adam()
    moments, params = adam.init(state.policy.params), state.policy.params
    reference = quick(partial(policy_reference, CONFIG), static_argnums=3)
    for k, rate in enumerate(rates):
        after, _ = updates["policy"](state, batch, jax.random.key(k))
        gradient = reference(state, batch, jax.random.key(k), "mean", state.target_critic_params)
        direction, moments = adam.update(gradient, moments)
        params = jax.tree.map(lambda p, d, rate=rate: p - rate * d, params, direction)
        assert_trees_close(after.policy.params, params, rtol=1e-3, atol=2e-5)
        state = after
    after, _ = updates["policy"](state, batch, jax.random.key(9))
    assert trees_equal(after.policy.params, state.policy.params)
