"""EDP: samplers and reconstruction in closed form, its three improvements against the equations written out."""

import dataclasses
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import assert_trees_close, chosen, far_apart, first_gradient, gaussian_epsilon, quick, random_batch, trees_equal

from diffrl.algorithms import edp
from diffrl.diffusion.dpm_solver import fast
from diffrl.diffusion.objectives import perturb
from diffrl.diffusion.targets import as_model, clipped
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import MLP, mish
from diffrl.networks.mlp_denoiser import MLPDenoiser, sinusoidal_features
from diffrl.objectives.value import expectile_loss
from diffrl.types import Spec, Transition

KEY = jax.random.key(0)
MEAN, STD = 0.2, 0.3
PAPER = edp.linear_schedule(1_000)

# ----------------------------------------------------------------------------------------- one Gaussian, the exact noise


def test_schedule() -> None:
    """β from (1000/T)·1e-4 to (1000/T)·0.02."""
    for num_levels in (100, 1_000):
        log_alphas = np.array(edp.linear_schedule(num_levels).log_alphas)
        betas = -np.expm1(2.0 * np.diff(log_alphas))
        np.testing.assert_allclose(betas, np.linspace(0.1, 20.0, num_levels) / num_levels, rtol=1e-9)


@pytest.mark.parametrize(("num_levels", "std"), chosen([(100, 0.27225), (1_000, 0.29625)], 0))
def test_spread_of_ddpm(num_levels: int, std: float) -> None:
    schedule = edp.linear_schedule(num_levels)
    start = jax.random.normal(KEY, (20_000, 1))
    draw, predict = edp.drawing("ddpm", num_levels, schedule), gaussian_epsilon([MEAN], STD, schedule)
    x = jax.jit(lambda: draw(predict, start, jax.random.key(1)))()
    assert float(jnp.mean(x)) == pytest.approx(MEAN, abs=0.01)
    assert float(jnp.std(x)) == pytest.approx(std, rel=0.015)


def test_actions_are_in_the_box() -> None:
    """A network that says anything: the sampler's end is no predicted action, and is clipped itself."""

    def wild(x: Array, t: Array) -> Array:
        return 3.0 * jnp.sin(50.0 * x)

    start = 3.0 * jax.random.normal(KEY, (64, 2))
    ends = []
    for end in (
        lambda x: fast(PAPER, 15, 1e-3)(clipped(as_model(wild, PAPER), -1.0, 1.0), x),
        lambda x: edp.drawing("dpm_solver", 15, PAPER)(wild, x, KEY),
    ):
        ends.append(float(jnp.max(jnp.abs(quick(end)(start)))))
    assert ends[0] > 1.0
    assert ends[1] == 1.0


@pytest.mark.parametrize("t", chosen([0.1, 0.4, 0.7], 1))
def test_reconstruction_is_the_posterior_mean(t: float) -> None:
    """With the exact noise â_0 = E[a | x_t]: mean μ, variance ᾱ s⁴/(ᾱ s² + σ²)."""
    times, key = jnp.full(100_000, t), jax.random.key(2)
    action = MEAN + STD * jax.random.normal(KEY, (100_000, 1))
    noised = perturb(PAPER, action, times, jax.random.normal(key, action.shape))
    found = np.asarray(edp.reconstructed(PAPER, times, noised, gaussian_epsilon([MEAN], STD, PAPER)(noised, times)))
    alpha, sigma = float(PAPER.alpha(jnp.float32(t))), float(PAPER.sigma(jnp.float32(t)))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    posterior = np.clip(MEAN + gain * (noised - alpha * MEAN), -1.0, 1.0)
    np.testing.assert_allclose(found, posterior, atol=2e-5 / alpha)
    assert found.mean() == pytest.approx(MEAN, abs=0.004)
    assert found.std() == pytest.approx(alpha * STD**2 / np.sqrt(alpha**2 * STD**2 + sigma**2), rel=0.02)


def test_reconstruction_of_two_modes_is_between_them_where_there_is_noise_alone() -> None:
    """Data at ±.8: at t = 1 all â_0 are at 0, an action that is not in the data; with little noise each is at its own mode."""

    def predict(x: Array, t: Array) -> Array:
        alpha, sigma = (f(t)[:, None] for f in (PAPER.alpha, PAPER.sigma))
        mean = 0.8 * jnp.tanh(0.8 * alpha * x / sigma**2)
        return (x - alpha * mean) / sigma

    action = 0.8 * jnp.where(jnp.arange(1_000) % 2 == 0, 1.0, -1.0)[:, None]
    for t, between in ((1.0, True), (0.02, False)):
        times = jnp.full(1_000, t)
        noised = perturb(PAPER, action, times, jax.random.normal(KEY, action.shape))
        found = edp.reconstructed(PAPER, times, noised, predict(noised, times))
        assert float(jnp.max(jnp.abs(found - (0.0 if between else action)))) < 0.02


# ------------------------------------------------------------------------------------------------------------ its losses


class Given(nn.Module):
    """Q that are the action's first number times these."""

    factors: tuple[float, ...]

    @nn.compact
    def __call__(self, observation: Array, action: Array) -> Array:
        return jnp.stack([factor * action[..., 0] for factor in self.factors])


def rows(action: Array) -> Transition:
    zeros, flags = jnp.zeros(len(action)), jnp.zeros(len(action), bool)
    return Transition(zeros[:, None], action, zeros, zeros[:, None], flags, flags)


def test_a_critic_is_scaled_by_itself() -> None:
    """-1 where its values are positive, whatever their size, and 1 where they are negative; times α = 2 in the policy's loss."""
    nowhere, positive = jnp.zeros((2, 1)), jnp.array([[0.5], [1.5]])
    for factor, loss in ((3.0, -1.0), (300.0, -1.0), (-3.0, 1.0)):
        assert float(edp.q_loss(Given((factor,)), {}, nowhere, positive)) == pytest.approx(loss)
    assert edp.Config().alpha == 2.0


def test_regression_is_the_likelihood_of_a_unit_gaussian() -> None:
    """-mean w log N(a; â_0, I) less its constant: a sum over dimensions, where the denoising loss is a mean."""
    action, x0, weight = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([2.0, 4.0])
    log_prob = jax.scipy.stats.norm.logpdf(action, x0).sum(axis=-1) + np.log(2.0 * np.pi)
    assert float(edp.regression(action, x0, weight)) == pytest.approx(-float(jnp.mean(weight * log_prob)), rel=1e-6)
    assert float(edp.regression(action, x0, weight)) == pytest.approx((2.0 * 2.5 + 4.0 * 0.5) / 2.0)


def test_crr_weights() -> None:
    """exp(β (min Q(s, a) - mean over N(â_0, I) of min Q)), at most 20: Q_1 = a, Q_2 = 2a have the minimum a or 2a by sign."""
    one, zero = jnp.ones((50_000, 1)), jnp.zeros((50_000, 1))
    batch = rows(one)
    weights = edp.crr_weight(Given((0.0, 0.0)), {}, batch, zero, 1.0, KEY)
    np.testing.assert_array_equal(weights, np.ones(50_000))
    # Of a normal a, E min(a, 2a) = -E|a|/2 = -1/√(2π).
    logs = np.log(edp.crr_weight(Given((1.0, 2.0)), {}, batch, zero, 0.5, KEY))
    assert logs.mean() == pytest.approx(0.5 * (1.0 + 1.0 / np.sqrt(2.0 * np.pi)), abs=0.005)
    assert float(edp.crr_weight(Given((9.0, 9.0)), {}, batch, zero, 1.0, KEY).max()) == 20.0


def test_expectile_of_one_half_is_half_the_squared_error() -> None:
    error = jax.random.normal(KEY, (100,))
    assert float(expectile_loss(error, 0.5)) == pytest.approx(0.5 * float(jnp.mean(error**2)), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- one update

OBSERVATION, ACTION, BATCH, LEVELS = 4, 2, 32, 40
SMALL = edp.Config(hidden_dims=(16, 16), critic_hidden_dims=(16, 16), num_levels=LEVELS, num_denoising_steps=3, num_updates=3)
SCHEDULE = edp.linear_schedule(LEVELS)
NETWORK = MLPDenoiser(ACTION, (16, 16), time_features="sinusoidal_open", time_dims=(32, 16), dense=nn.Dense)
CRITICS = Critics((16, 16), dense=nn.Dense, activation=mish)


@cache
def update_of(form: edp.Form) -> Any:
    return quick(edp.make(dataclasses.replace(SMALL, form=form), Spec.plain(OBSERVATION, ACTION)).stages[0].update)


@cache
def untrained(form: edp.Form) -> Any:
    """A state whose targets are far from what they follow, as NumPy arrays. Policy and critics are the same in every form."""
    algorithm = edp.make(dataclasses.replace(SMALL, form=form), Spec.plain(OBSERVATION, ACTION))
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    targets = {"target_critic_params": other.critic.params, "target_policy_params": other.policy.params}
    return jax.device_get(state.replace(**targets if form != "iql" else {"target_critic_params": other.critic.params}))


def fresh(form: edp.Form, **hparams: float) -> Any:
    state = untrained(form)
    return state.replace(hparams=dataclasses.replace(state.hparams, **{name: np.float32(x) for name, x in hparams.items()}))


@cache
def batch() -> Transition:
    return random_batch(BATCH, OBSERVATION, ACTION)


def q_values(params: Any, observation: Array, action: Array) -> Array:
    return CRITICS.apply({"params": params}, observation, action)  # pyright: ignore[reportReturnType]


def v_values(params: Any, observation: Array) -> Array:
    (inner,) = params.values()
    return MLP((16, 16), 1, dense=nn.Dense, activation=mish).apply({"params": inner}, observation)[:, 0]  # pyright: ignore


def cloning(params: Any, key: Array) -> tuple[Array, Array]:
    """The denoising loss and â_0 by the authors' formulas, from the levels and the noise that an update with this key draws."""
    _, time_key, noise_key, _ = jax.random.split(key, 4)
    index = jax.random.randint(time_key, (BATCH,), 0, LEVELS)
    noise = jax.random.normal(noise_key, (BATCH, ACTION))
    abar = jnp.cumprod(1.0 - jnp.linspace(0.1, 20.0, LEVELS) / LEVELS)[index][:, None]
    noised = jnp.sqrt(abar) * batch().action + jnp.sqrt(1.0 - abar) * noise
    predicted = NETWORK.apply({"params": params}, noised, index.astype(jnp.float32), batch().observation)
    x0 = noised / jnp.sqrt(abar) - jnp.sqrt(1.0 / abar - 1.0) * predicted
    return jnp.mean((noise - predicted) ** 2), jnp.clip(x0, -1.0, 1.0)


def test_sizes() -> None:
    """HalfCheetah: the networks of Diffusion-QL, and a V where there is one; frequencies that stop short of 1/10,000."""
    for form in ("td3", "iql"):
        algorithm = edp.make(edp.Config(form=form), Spec.plain(17, 6))
        state = jax.eval_shape(algorithm.init, KEY, algorithm.hparams)
        parts = (state.policy.params, state.critic.params, state.target_policy_params, state.value)
        counts = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts]
        assert counts[:2] == [144_438, 2 * 137_985]
        assert counts[2] == (144_438 if form == "td3" else 0)
        assert (counts[3] > 0) is (form == "iql")
    features = np.asarray(sinusoidal_features(jnp.ones(1), closed=False))[0, 8:]
    np.testing.assert_allclose(features[[0, 7]], np.sin([1.0, 1e4 ** (-7 / 8)]), rtol=1e-5)


@pytest.mark.slow
def test_td3_improves_on_the_critics_before_their_step() -> None:
    key = jax.random.key(5)
    state = fresh("td3", max_gradient_norm=1e6, learning_rate=3e-2)
    after, metrics = update_of("td3")(state, batch(), key)
    one = int(jax.random.bernoulli(jax.random.split(key, 4)[3]))

    def loss(params: Any, critic: Any) -> Array:
        bc_loss, x0 = cloning(params, key)
        q = q_values(critic, batch().observation, x0)[one]
        return bc_loss - 2.0 * jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))

    policy = quick(jax.value_and_grad(loss))
    value, expected = policy(state.policy.params, state.critic.params)
    assert float(metrics["policy/loss"]) == pytest.approx(float(value), rel=1e-3)
    assert_trees_close(first_gradient(after.policy), expected, rtol=1e-3, atol=1e-4)
    assert far_apart(expected, policy(state.policy.params, after.critic.params)[1])  # the critics after would tell


def test_targets_ask_the_target_policy() -> None:
    """r + γ min_i Q̄_i(s', a') unless terminal, with a' of DPM-Solver on the target policy."""
    key = jax.random.key(5)
    state = fresh("td3", max_gradient_norm=1e6)
    after, metrics = update_of("td3")(state, batch(), key)
    start_key, draw_key = jax.random.split(jax.random.split(key, 4)[0])

    def loss(params: Any) -> Array:
        following = batch().next_observation

        def predict(x: Array, t: Array) -> Array:
            return NETWORK.apply({"params": state.target_policy_params}, x, LEVELS * t - 1.0, following)  # pyright: ignore

        action = edp.drawing("dpm_solver", 3, SCHEDULE)(predict, jax.random.normal(start_key, (BATCH, ACTION)), draw_key)
        y = batch().reward + 0.99 * (1.0 - batch().terminal) * q_values(state.target_critic_params, following, action).min(axis=0)
        q = q_values(params, batch().observation, batch().action)
        return jnp.mean((q[0] - y) ** 2) + jnp.mean((q[1] - y) ** 2)

    value, expected = quick(jax.value_and_grad(loss))(state.critic.params)
    assert float(metrics["critic/loss"]) == pytest.approx(float(value), rel=1e-3)
    assert_trees_close(first_gradient(after.critic), expected, rtol=1e-3, atol=1e-4)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)


@pytest.mark.slow
def test_iql_goes_from_v_to_policy_to_q() -> None:
    """V on the target critics; the policy weighted by the new V and the same targets; Q on the new V."""
    key = jax.random.key(5)
    state = fresh("iql", max_gradient_norm=1e6, learning_rate=3e-2)
    after, metrics = update_of("iql")(state, batch(), key)
    target = q_values(state.target_critic_params, batch().observation, batch().action).min(axis=0)

    def value_loss(params: Any) -> Array:
        u = target - v_values(params, batch().observation)
        return jnp.mean(jnp.abs(0.7 - (u < 0)) * u**2)

    def policy_loss(params: Any, value: Any) -> Array:
        bc_loss, x0 = cloning(params, key)
        weight = jnp.minimum(jnp.exp(3.0 * (target - v_values(value, batch().observation))), 100.0)
        return bc_loss + jnp.mean(weight * 0.5 * jnp.sum((batch().action - x0) ** 2, axis=-1))

    def critic_loss(params: Any, value: Any) -> Array:
        y = batch().reward + 0.99 * (1.0 - batch().terminal) * v_values(value, batch().next_observation)
        q = q_values(params, batch().observation, batch().action)
        return jnp.mean((q[0] - y) ** 2) + jnp.mean((q[1] - y) ** 2)

    old, new = state.value.params, after.value.params
    assert_trees_close(first_gradient(after.value), quick(jax.grad(value_loss))(old), rtol=1e-3, atol=1e-5)
    for learner, initial, loss, name in (
        (after.policy, state.policy.params, policy_loss, "policy/loss"),
        (after.critic, state.critic.params, critic_loss, "critic/loss"),
    ):
        both = quick(jax.value_and_grad(loss))
        value, expected = both(initial, new)
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-3)
        assert_trees_close(first_gradient(learner), expected, rtol=1e-3, atol=1e-4)
        assert far_apart(expected, both(initial, old)[1])


def test_forms_agree_where_they_must() -> None:
    """Without its improvement every form is the same clone; with weights of 1, CRR (β = 0) and IQL (β = 0) are one regression.

    What a form does to its critics is its own affair.
    """
    key = jax.random.key(7)

    def policy(form: edp.Form, **hparams: float) -> Any:
        return update_of(form)(fresh(form, **hparams), batch(), key)[0].policy

    assert trees_equal(untrained("td3").policy, untrained("iql").policy)
    clones = [policy(form, guide_weight=0.0) for form in ("td3", "crr", "iql")]
    for clone in clones[1:]:
        assert_trees_close(clone, clones[0], rtol=1e-5, atol=1e-6)
    assert_trees_close(policy("td3", alpha=0.0), clones[0], rtol=1e-5, atol=1e-6)
    regressions = [policy(form, beta=0.0) for form in ("crr", "iql")]
    assert_trees_close(*regressions, rtol=1e-5, atol=1e-6)
    assert far_apart(first_gradient(regressions[0]), first_gradient(clones[0]))


def test_target_policy_waits_and_then_moves_every_fifth_update() -> None:
    """After 1,000 updates, at each whose number, counted from 1, is a multiple of five; by τ of the way."""
    for step, moves in ((4, False), (999, False), (1_000, False), (1_003, False), (1_004, True), (1_005, False)):
        state = fresh("td3").replace(step=jnp.int32(step))
        after, _ = update_of("td3")(state, batch(), KEY)
        rate = 0.005 if moves else 0.0
        before = state.target_policy_params
        expected = jax.tree.map(lambda a, b, rate=rate: (1.0 - rate) * a + rate * b, before, after.policy.params)
        assert_trees_close(after.target_policy_params, expected, rtol=1e-6, atol=1e-7)


def test_acting_asks_the_critics_and_the_policy_themselves() -> None:
    """Online both, where Diffusion-QL asks the target critics; a large β takes the best of the candidates."""
    config = dataclasses.replace(SMALL, act=edp.Act(num_denoising_steps=3, num_candidates=7, beta=1e6))
    algorithm, state = edp.make(config, Spec.plain(OBSERVATION, ACTION)), untrained("td3")
    observation, key = jax.random.normal(KEY, (6, OBSERVATION)), jax.random.key(4)

    def expected() -> Array:
        start_key, draw_key = jax.random.split(jax.random.split(key)[0])
        repeated = jnp.tile(observation, (7, 1))

        def predict(x: Array, t: Array) -> Array:
            return NETWORK.apply({"params": state.policy.params}, x, LEVELS * t - 1.0, repeated)  # pyright: ignore

        start = jax.random.normal(start_key, (42, ACTION))
        drawn = edp.drawing("dpm_solver", 3, SCHEDULE)(predict, start, draw_key).reshape(7, 6, ACTION)
        lowest = jnp.stack([q_values(state.critic.params, observation, action).min(axis=0) for action in drawn])
        return jnp.take_along_axis(drawn, jnp.argmax(lowest, axis=0)[None, :, None], axis=0)[0]

    found, wanted = quick(lambda: (algorithm.act(algorithm.policy(state), (), observation, key)[0], expected()))()
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_levels": 20, "num_denoising_steps": 5}, "num_levels = 20: the last β, 20/num_levels, must be below 1"),
        ({"num_levels": 100, "num_denoising_steps": 101}, "num_denoising_steps = 101 is more than num_levels = 100"),
        ({"num_levels": 100, "act": edp.Act(num_denoising_steps=200)}, r"act\.num_denoising_steps = 200 is more than"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edp.make(edp.Config(**changes), Spec.plain(3, 2))


# -------------------------------------------------------------------------------------------------------------- bandits


@cache
def drawn_by() -> Any:
    """Parameters of a policy -> 256 actions of one chain each, in a state of zeros."""
    act = edp.Act("ddpm", num_denoising_steps=LEVELS, num_candidates=1)
    algorithm, observation = edp.make(dataclasses.replace(SMALL, act=act), Spec.plain(OBSERVATION, ACTION)), jnp.zeros((256, 4))
    return quick(lambda params: algorithm.act({"policy": params, "critic": None}, (), observation, KEY)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "updates", "least"), [("td3", 200, 0.4), ("crr", 600, 0.12), ("iql", 600, 0.2)])
def test_improvement_moves_the_policy_to_what_pays(form: edp.Form, updates: int, least: float) -> None:
    """Actions of N(0, .3²) of which the first number is paid: it rises with the improvement, and stays without it.

    CRR's weights are nearly all at their bound: its baseline's actions, one deviation away, lie where Q is extrapolated.
    """

    def mean(guide_weight: float) -> float:
        state = fresh(form, guide_weight=guide_weight, learning_rate=1e-2, tau=0.1)
        for seed in range(updates):
            action = np.clip(0.3 * np.random.default_rng(seed).normal(size=(BATCH, ACTION)), -1.0, 1.0).astype(np.float32)
            paid = {"action": action, "reward": 2.0 * action[:, 0], "terminal": np.ones(BATCH, bool)}
            state, _ = update_of(form)(state, batch().replace(**jax.tree.map(jnp.asarray, paid)), jax.random.key(seed))  # pyright: ignore
        return float(jnp.mean(drawn_by()(state.policy.params)[:, 0]))

    assert abs(mean(0.0)) < 0.08
    assert mean(1.0) > least
