"""SRPO: its policy gradient against closed forms, and its update against the paper's
equations written out.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_trees_close, chosen, first_gradient, gaussian_epsilon, mixture_epsilon, quick, trees_equal

from diffrl.algorithms import srpo
from diffrl.algorithms.srpo import policy_loss, score_direction
from diffrl.diffusion.schedules import LinearVP
from diffrl.networks.denoiser import ResidualDenoiser
from diffrl.networks.ensembles import Value
from diffrl.networks.mlp import MLP
from diffrl.types import Spec, Transition

SCHEDULE = LinearVP()
Predict = Callable[[jax.Array, jax.Array], jax.Array]

# ---------------------------------------------------------------------------------------------- exact behaviour models


@partial(jax.jit, static_argnums=(0, 1, 2, 4))
def _samples(predict: Predict, weighting: str, baseline: bool, action: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """`size` independent draws of ω(t) e at one action `[dim]`."""
    return score_direction(predict, SCHEDULE, weighting, baseline, jnp.broadcast_to(action, (size, *action.shape)), key)


def force(predict: Predict, weighting: str, action: float, seed: int = 0, size: int = 1_000_000) -> tuple[float, float]:
    """R(a) = E ω(t) (ε* - z) in one dimension, and its standard error."""
    draws = np.asarray(_samples(predict, weighting, True, jnp.array([action]), size, jax.random.key(seed)), np.float64)
    return float(draws.mean()), float(draws.std() / np.sqrt(size))


def fixed_point(
    predict: Predict,
    weighting: str,
    q: Callable[[jax.Array], jax.Array],
    betas: np.ndarray,
    start: Any,
    step_size: float = 0.3,
    steps: int = 400,
    batch: int = 4096,
) -> np.ndarray:
    """Where SGD on a free action settles under the library's loss: the mean of the second half of the iterates,
    `[betas, dim]`.
    """

    def step(beta: jax.Array, action: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(action: jax.Array) -> jax.Array:
            actions = jnp.broadcast_to(action, (batch, *action.shape))
            fixed = jax.lax.stop_gradient(actions)
            score = score_direction(predict, SCHEDULE, weighting, True, fixed, key)
            return policy_loss(actions, score, jax.grad(lambda a: jnp.sum(q(a)))(fixed), beta)

        action = action - step_size * jax.grad(loss)(action)
        return action, action

    def run(beta: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), steps)
        _, path = jax.lax.scan(partial(step, beta), jnp.asarray(start, jnp.float32), keys)
        return jnp.mean(path[steps // 2 :], axis=0)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(betas, jnp.float32)))


# c_s = E ω α σ / (α² s² + σ²): how hard the surrogate pulls to a Gaussian's mean, by width of the Gaussian.
PULL = {
    "vds": {0.05: 0.234012, 0.1: 0.230057, 0.2: 0.219335, 0.5: 0.184900, 1.0: 0.141068},
    "stable": {0.05: 0.889215, 0.1: 0.789422, 0.2: 0.627224, 0.5: 0.387902, 1.0: 0.235650},
    "score": {0.05: 3.36083, 0.1: 2.606737, 0.2: 1.615587, 0.5: 0.639580, 1.0: 0.266709},
}


@pytest.mark.parametrize(
    ("weighting", "std", "expected"), chosen([(w, s, c) for w, row in PULL.items() for s, c in row.items()], 0, 9, 14)
)
def test_pull_of_a_gaussian(weighting: str, std: float, expected: float) -> None:
    """E ω(t)(ε* - z) = c_s (a - m): sign, weight and time range of eq. 15 in one number."""
    pull, error = force(gaussian_epsilon([0.0], std), weighting, 1.0)
    assert error < 0.01 * expected
    assert abs(pull - expected) < 4 * error + 2e-5


@pytest.mark.parametrize(
    ("weighting", "std"), chosen([("vds", 0.2), ("stable", 0.2), ("score", 0.2), ("vds", 1.0), ("score", 0.5)], 0)
)
def test_fixed_point(weighting: str, std: float) -> None:
    """With Q = -½‖a - c‖² the policy settles at (β c + c_s m) / (β + c_s), to 1e-2."""
    mean, target, betas = np.array([0.3, -0.4]), jnp.array([0.9, 0.5]), np.array([0.05, 0.2, 1.0])
    found = fixed_point(
        gaussian_epsilon(mean, std), weighting, lambda a: -0.5 * jnp.sum((a - target) ** 2, axis=-1), betas, [0.0, 0.0]
    )
    pull, weight = PULL[weighting][std], betas[:, None]
    np.testing.assert_allclose(found, (weight * np.asarray(target) + pull * mean) / (weight + pull), atol=1e-2)
    if (weighting, std) == ("vds", 0.2):  # in full digits
        np.testing.assert_allclose(found[:2], [(0.41139, -0.23292), (0.58617, 0.02925)], atol=1e-2)


# Variance per dimension of one ω e at a = m with ω = σ²: without the baseline, with it.
NOISE = {0.2: (0.641, 1.67e-4), 0.5: (0.617, 0.00282), 1.0: (0.568, 0.0153)}


@pytest.mark.parametrize("std", chosen([*NOISE], 0))
def test_baseline_changes_variance_not_expectation(std: float) -> None:
    """Subtracting z keeps the mean and divides the variance by 3850, 219 or 37."""
    predict, size = gaussian_epsilon([0.3, -0.4], std), 500_000
    off, on = (
        np.asarray(_samples(predict, "vds", baseline, jnp.array([0.3, -0.4]), size, jax.random.key(seed)), np.float64)
        for seed, baseline in ((1, False), (2, True))
    )
    without, with_baseline = NOISE[std]
    np.testing.assert_allclose(off.var(axis=0), without, rtol=0.02)
    np.testing.assert_allclose(on.var(axis=0), with_baseline, rtol=0.1)
    assert off.var() / on.var() == pytest.approx(without / with_baseline, rel=0.15)


@pytest.mark.parametrize("weighting", chosen(["vds", "stable", "score"], 2))
def test_baseline_keeps_the_expectation_of_any_network(weighting: str) -> None:
    """E ω z = 0 whatever ε_ψ is: here a wrong one, at an action off the mean, on independent noise."""

    def wrong(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.sin(3 * x) + t[:, None]

    size, action = 1_000_000, jnp.array([0.7])
    draws = [
        np.asarray(_samples(wrong, weighting, baseline, action, size, jax.random.key(seed)), np.float64)
        for seed, baseline in ((1, False), (2, True))
    ]
    error = np.sqrt(sum(d.var() for d in draws) / size)
    assert error < 0.01
    assert abs(draws[0].mean() - draws[1].mean()) < 4 * error


MODES = mixture_epsilon(jnp.array([[0.5], [-0.5]]), 0.1)
FORCE = {
    "vds": {0.1: 0.016866, 0.25: 0.043155, 0.5: 0.089872, 0.75: 0.139204, 1.0: 0.190277},
    "stable": {0.1: -0.004949, 0.25: 0.031963, 0.5: 0.165711, 1.0: 0.508668},
}


@pytest.mark.parametrize(
    ("weighting", "action", "expected"), chosen([(w, a, r) for w, row in FORCE.items() for a, r in row.items()], 4, 5)
)
def test_force_between_two_modes(weighting: str, action: float, expected: float) -> None:
    """½N(.5, .1²) + ½N(-.5, .1²): the force is the tabulated one at a, and the opposite at -a."""
    here, error = force(MODES, weighting, action)
    assert error < 1e-3
    assert abs(here - expected) < 4 * error + 2e-6
    mirrored, error = force(MODES, weighting, -action, seed=1)
    assert abs(mirrored + expected) < 4 * error + 2e-6


def test_fixed_point_between_two_modes() -> None:
    """ω = σ² with Q = -½(a - 1)²: small β leaves the policy between the modes, where there are no data."""
    betas = np.array([0.01, 0.05, 0.2, 1.0])
    found = fixed_point(MODES, "vds", lambda a: -0.5 * jnp.sum((a - 1) ** 2, axis=-1), betas, [0.0], step_size=1.0, steps=200)
    np.testing.assert_allclose(found[:, 0], [0.05620, 0.22533, 0.52575, 0.84214], atol=3e-3)


@pytest.mark.slow
def test_score_keeps_two_modes_apart_where_vds_averages_them() -> None:
    """Without Q, from a = .05: σ² goes back to 0 between the modes at ±.5, α/σ goes to a mode (m* = 1.375 and .266)."""

    def settle(weighting: str, step_size: float) -> float:
        return float(fixed_point(MODES, weighting, lambda a: 0.0 * a[:, 0], np.zeros(1), [0.05], step_size, steps=600)[0, 0])

    assert abs(settle("vds", 0.5)) < 0.005
    assert settle("score", 0.3) == pytest.approx(0.4093, abs=0.02)


# Smallest half-distance m* at which two equal modes of width s are kept apart.
SEPARATION = {"vds": {0.1: 1.375, 0.354: 1.752}, "stable": {0.1: 0.450, 0.354: 0.870}, "score": {0.1: 0.266, 0.354: 0.557}}


@pytest.mark.parametrize(
    ("weighting", "std", "m"), chosen([(w, s, m) for w, row in SEPARATION.items() for s, m in row.items()], 3)
)
def test_critical_separation(weighting: str, std: float, m: float) -> None:
    """Near 0 the force points inwards for modes 15 % closer than m*, outwards for modes 15 % farther.

    R(a) - R(-a) on the same times and noise: the noise of R itself would drown it.
    """
    for factor, sign in ((0.85, 1), (1.15, -1)):
        predict = mixture_epsilon(jnp.array([[factor * m], [-factor * m]]), std)
        outer, inner = (
            np.asarray(_samples(predict, weighting, True, jnp.array([a]), 1_000_000, jax.random.key(3)), np.float64)
            for a in (0.01, -0.01)
        )
        difference = outer - inner
        assert sign * difference.mean() > 4 * difference.std() / 1000, factor


# Modes of width .354 at ±m: where the policy rests without Q. Gauss-Hermite quadrature of R in double precision.
@pytest.mark.parametrize(
    ("weighting", "m", "expected"), chosen([("vds", 2.83, 1.7200), ("stable", 1.5, 0.9778), ("score", 1.5, 1.3964)], 2)
)
def test_stable_points_of_wide_modes(weighting: str, m: float, expected: float) -> None:
    """Even where modes are kept apart, the surrogate's rest lies inside of them: least so for α/σ."""
    predict = mixture_epsilon(jnp.array([[m], [-m]]), 0.354)
    found = fixed_point(predict, weighting, lambda a: 0.0 * a[:, 0], np.zeros(1), [m], step_size=0.7, steps=400)
    assert found[0, 0] == pytest.approx(expected, abs=0.015)


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
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
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
