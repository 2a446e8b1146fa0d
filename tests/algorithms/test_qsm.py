"""QSM: the schedule's table, the sampler's closed forms, what the policy is regressed onto, and which way it climbs."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import act, chosen, make_dataset, quick, runs_of, train_stages, with_hparams

from diffrl.algorithm import Algorithm
from diffrl.algorithms import qsm
from diffrl.diffusion.samplers import ancestral, boxed, sample
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import as_model, clipped
from diffrl.learner import forward
from diffrl.networks.mlp_denoiser import MLPDenoiser
from diffrl.registry import make
from diffrl.types import Spec, Transition

KEY = jax.random.key(0)
CENTRE = 0.3
SAMPLES = 100_000


def test_schedule_is_the_published_table() -> None:
    """ᾱ and σ of T = 5 and ᾱ of T = 10; β from their ratios."""
    alpha_bar = lambda T: np.asarray(qsm.SCHEDULE.alpha(jnp.arange(1, T + 1) / T)) ** 2  # noqa: E731
    five = alpha_bar(5)
    np.testing.assert_allclose(five, [0.804125, 0.435178, 0.158500, 0.038852, 0.006409], atol=1e-6)
    np.testing.assert_allclose(
        1.0 - five / np.append(1.0, five[:-1]), [0.195875, 0.458818, 0.635781, 0.754878, 0.835031], atol=2e-5
    )
    np.testing.assert_allclose(qsm.SCHEDULE.sigma(jnp.arange(1, 6) / 5), [0.4426, 0.7515, 0.9173, 0.9804, 0.9968], atol=1e-4)
    ten = [0.942236, 0.804125, 0.621574, 0.435178, 0.275960, 0.158500, 0.082455, 0.038852, 0.016581, 0.006409]
    np.testing.assert_allclose(alpha_bar(10), ten, atol=1e-6)


def unclipped(predict: Any, num_steps: int, start_within: float = jnp.inf) -> Array:
    """Samples `[SAMPLES]` in one dimension without the box."""
    start = jnp.clip(jax.random.normal(KEY, (SAMPLES, 1)), -start_within, start_within)
    model = as_model(predict, qsm.SCHEDULE)
    return sample(model, grid(qsm.SCHEDULE, num_steps), ancestral("forward"), jax.random.key(1), start)[:, 0]


@pytest.mark.parametrize(
    ("gain", "num_steps", "soft", "mean", "std"),
    chosen(
        [
            (0.5, 5, False, 0.87182, 2.20813),
            (1.0, 5, False, 0.54243, 0.52280),
            (2.0, 5, False, 0.32313, 0.10733),
            (1.0, 10, False, 0.45999, 0.53171),
            (2.0, 10, False, 0.33511, 0.22743),
            (2.26, 10, False, 0.32763, 0.19071),
            (1.0, 5, True, 0.74548, 0.89673),
            (2.0, 5, True, 0.44503, 0.46909),
            (2.0, 10, True, 0.40995, 0.55326),
            (5.0, 20, True, 0.33412, 0.32990),
            (1.0, 1_000, True, 0.55266, 0.99995),
            (2.0, 1_000, True, 0.39991, 0.57748),
            (2.0, 1_000, False, 0.32071, 0.18897),
        ],
        *(1, 4, 7),
    ),
)
def test_sampler_has_the_linear_gaussian_moments(gain: float, num_steps: int, soft: bool, mean: float, std: float) -> None:
    """As T grows "soft" tends to exp(2 M Q + ½ a²), "hard" concentrates."""

    def predict(x: Array, t: Array) -> Array:
        weight = qsm.SCHEDULE.sigma(t)[:, None] if soft else 1.0
        return weight * gain * (x - CENTRE)

    samples = np.asarray(jax.jit(lambda: unclipped(predict, num_steps))())
    assert samples.mean() == pytest.approx(mean, abs=0.012 * max(std, 0.3))
    assert samples.std() == pytest.approx(std, rel=0.02)


@pytest.mark.slow
def test_limit_distribution_of_a_double_well() -> None:
    """Soft guidance of Q = -16 (a² - ¼)², M = 1: E|a| .4436 and E a² .2209 of exp(2 Q + ½ a²), not of exp(Q).

    Started within ±1: a finite step overshoots where the force is cubic and large, and the limit forgets its start.
    """

    def predict(x: Array, t: Array) -> Array:
        return qsm.SCHEDULE.sigma(t)[:, None] * 64.0 * x * (x**2 - 0.25)

    samples = np.asarray(jax.jit(lambda: unclipped(predict, 1_000, start_within=1.0))())
    assert np.abs(samples).mean() == pytest.approx(0.4436, abs=0.006)
    assert (samples**2).mean() == pytest.approx(0.2209, abs=0.006)


@pytest.mark.parametrize(("gain", "num_steps", "stable"), [(2.26, 5, True), (5.0, 5, False), (5.0, 10, False)])
def test_stability_limit(gain: float, num_steps: int, stable: bool) -> None:
    """At T = 5 the last step is stable while M times the curvature is below 4.286; 2.26 contracts to a point."""
    samples = np.asarray(unclipped(lambda x, t: gain * (x - CENTRE), num_steps))
    if stable:
        assert samples.std() < 0.002
        assert samples.mean() == pytest.approx(0.33471, abs=1e-3)
    else:
        assert samples.std() > 20.0


def test_last_step_is_unstable_above_the_limit() -> None:
    """|1/√α_0 - g_0 M| crosses one at 4.286."""
    alpha, sigma = (float(f(jnp.float32(0.2))) for f in (qsm.SCHEDULE.alpha, qsm.SCHEDULE.sigma))
    factor = lambda gain: abs(1.0 / alpha - sigma / alpha * gain)  # noqa: E731
    assert factor(4.28) < 1.0 < factor(4.29)


@pytest.mark.parametrize(
    ("slope", "gain", "num_steps", "expected"),
    chosen(
        [
            (0.0, 0.0, 5, {"std": 0.893, "saturated": 0.669, "centre": 0.140}),
            (0.0, 0.0, 10, {"std": 0.790, "saturated": 0.390, "centre": 0.259}),
            (0.0, 0.0, 20, {"std": 0.728, "saturated": 0.226, "centre": 0.318}),
            (0.0, 0.5, 5, {"mean": 0.300, "std": 0.619}),
            (0.0, 2.0, 5, {"mean": 0.337, "std": 0.073}),
            (0.0, 4.0, 5, {"mean": 0.498, "std": 0.587, "saturated": 0.49}),
            (0.0, 50.0, 5, {"mean": 0.237, "std": 0.972, "saturated": 1.0}),
            (0.0, 2.0, 10, {"mean": 0.323, "std": 0.213}),
            (0.0, 50.0, 10, {"mean": -0.236, "std": 0.972, "saturated": 1.0}),
            (0.1, 0.0, 5, {"mean": 0.151, "upper": 0.412}),
            (0.5, 0.0, 5, {"mean": 0.676, "upper": 0.719}),
            (1.0, 0.0, 5, {"mean": 0.962, "upper": 0.951}),
        ],
        *(0, 4, 11),
    ),
)
def test_boxed_sampler(slope: float, gain: float, num_steps: int, expected: dict[str, float]) -> None:
    """Untrained policies act mostly at ±1, and large gains are bang-bang."""

    def run() -> Array:
        start = jax.random.normal(KEY, (SAMPLES, 1))
        return qsm.draw(lambda x, t: gain * (x - CENTRE) - slope, grid(qsm.SCHEDULE, num_steps), start, jax.random.key(1))

    x = np.asarray(jax.jit(run)())
    found = {
        "mean": x.mean(),
        "std": x.std(),
        "saturated": (np.abs(x) > 1 - 1e-6).mean(),
        "upper": (x > 1 - 1e-6).mean(),
        "centre": (np.abs(x) < 0.5).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.008), name


@pytest.mark.parametrize(("curvature", "size"), [(1.0, 0.355), (4.0, 0.997), (16.0, 1.0)])
def test_boxed_sampler_finds_both_modes(curvature: float, size: float) -> None:
    """Q = -k (a² - ¼)²: half of the samples on either side, overshooting to ±1."""
    start = jax.random.normal(KEY, (SAMPLES, 1))
    predict = lambda x, t: 4.0 * curvature * x * (x**2 - 0.25)  # noqa: E731
    x = np.asarray(jax.jit(lambda: qsm.draw(predict, grid(qsm.SCHEDULE, 5), start, jax.random.key(1)))())
    assert (x > 0).mean() == pytest.approx(0.5, abs=0.005)
    assert np.abs(x).mean() == pytest.approx(size, abs=0.005)


@pytest.mark.parametrize(
    ("gain", "bc_weight", "exact", "clipped_data", "boxed_noise"),
    chosen(
        [
            (0.0, 10.0, (0.19969, 0.34702), (0.198, 0.344), (0.206, 0.267)),
            (0.0, 1.0, (0.19037, 1.16739), (0.118, 0.605), None),
            (0.1, 10.0, (0.20610, 0.34014), (0.204, 0.337), None),
            (1.0, 10.0, (0.24898, 0.29055), (0.248, 0.290), None),
            (3.0, 30.0, (0.24601, 0.26582), (0.245, 0.266), None),
            (10.0, 10.0, (0.37493, 0.07749), (0.376, 0.078), None),
        ],
        *(0,),
    ),
)
def test_offline_optimum_has_the_published_moments(
    gain: float, bc_weight: float, exact: tuple, clipped_data: tuple, boxed_noise: tuple | None
) -> None:
    """(α E[z|x] - λ ∇Q)/(1 + α) for data N(.2, .3²) and Q = -(a - .5)²: wider than the data even without guidance.

    The sampler is DDPM's with variance β; `boxed_noise` is what other released code clips, of which only the spread is compared.
    """

    def predict(x: Array, t: Array) -> Array:
        alpha, sigma = (f(t)[:, None] for f in (qsm.SCHEDULE.alpha, qsm.SCHEDULE.sigma))
        noise = sigma * (x - alpha * 0.2) / (alpha**2 * 0.09 + sigma**2)
        return (bc_weight * noise + gain * 2.0 * (x - 0.5)) / (1.0 + bc_weight)

    levels, start = grid(qsm.SCHEDULE, 10), jax.random.normal(KEY, (SAMPLES, 1))
    model = as_model(predict, qsm.SCHEDULE)
    for wrapped, (mean, std) in ((model, exact), (clipped(model, -1.0, 1.0), clipped_data)):
        x = np.asarray(jax.jit(lambda m=wrapped: sample(m, levels, ancestral("forward"), jax.random.key(1), start))())
        assert x.mean() == pytest.approx(mean, abs=0.006)
        assert x.std() == pytest.approx(std, abs=0.006)
    if boxed_noise is not None:  # x itself clipped at every step narrows it
        x = np.asarray(jax.jit(lambda: sample(model, levels, boxed(ancestral("forward"), -1.0, 1.0), KEY, start))())
        assert x.std() < exact[1]


SMALL = qsm.Config(hidden_dims=(32, 32), critic_hidden_dims=(32, 32), num_updates=3, batch_size=64)


@cache
def untrained() -> Any:
    """A state of SMALL, fresh."""
    algorithm = qsm.make(SMALL, Spec.plain(3, 2))
    return quick(algorithm.init)(KEY, algorithm.hparams)


def fresh(algorithm: Algorithm) -> Any:
    """The same with the hyper-parameters of another."""
    return with_hparams(untrained(), algorithm)


def batch_of(size: int = 64, action_dim: int = 2) -> Transition:
    keys = jax.random.split(KEY, 4)
    return Transition(
        observation=jax.random.normal(keys[0], (size, 3)),
        action=jax.random.uniform(keys[1], (size, action_dim), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        next_observation=jax.random.normal(keys[3], (size, 3)),
        terminal=jnp.arange(size) % 3 == 0,
        timeout=jnp.zeros(size, bool),
    )


@pytest.mark.slow
def test_policy_loss_of_a_silent_network_is_the_gradient_squared() -> None:
    """With ε ≡ 0 the loss is M² mean(g²): checked on the update itself, with the policy's output zeroed."""
    config = dataclasses.replace(SMALL, q_gain=7.0, critic_learning_rate=0.0, gradient_of="online")
    algorithm = qsm.make(config, Spec.plain(3, 2))
    state = fresh(algorithm)
    silent = jax.tree.map(np.zeros_like, state.policy.params)
    state = dataclasses.replace(state, policy=dataclasses.replace(state.policy, params=silent))
    _, metrics = quick(algorithm.stages[0].update)(state, batch_of(), jax.random.key(3))
    # Jensen: mean(g²) ≥ mean(|g|)², with the metric's mean of |g|.
    assert float(metrics["policy/loss"]) >= 49.0 * float(metrics["critic/gradient"]) ** 2
    assert float(metrics["policy/loss"]) < 4.0 * 49.0 * float(metrics["critic/gradient"]) ** 2


@pytest.mark.parametrize(("guidance", "sign"), chosen([("hard", 1.0), ("soft", 1.0), ("hard", -1.0)]))
def test_regression_finds_the_gradient_at_all_times(guidance: str, sign: float) -> None:
    """Q = -½ k (a - c)²: ε → M w_t k (x - c), the same at all t where hard; the other sign points away."""
    curvature, hparams = 2.0, qsm.HParams(q_gain=1.5)
    network = MLPDenoiser(1, (64, 64), time_dims=(32, 32))
    params = quick(network.init)(KEY, jnp.zeros((1, 1)), jnp.zeros(1), jnp.zeros((1, 1)))["params"]

    def loss_fn(params: Any, key: Any) -> Array:
        a, t, z = jax.random.split(key, 3)
        action = jax.random.uniform(a, (256, 1), minval=-1.0)
        time = qsm.discrete_times(5)(t, 256)
        x = qsm.perturb(qsm.SCHEDULE, action, time, jax.random.normal(z, action.shape))
        goal = qsm.noise_target(hparams, guidance, sign * -curvature * (x - CENTRE), time)
        return jnp.mean((goal - forward(network, params, x, time * 5 - 1.0, jnp.zeros((256, 1)))) ** 2)

    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 2_000))

    @jax.jit
    def fit(params: Any) -> Any:
        def step(carry: Any, i: Array) -> tuple[Any, None]:
            params, opt = carry
            updates, opt = optimizer.update(jax.grad(loss_fn)(params, jax.random.fold_in(KEY, i)), opt)
            return (optax.apply_updates(params, updates), opt), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(2_000))[0][0]

    params = fit(params)
    x = jnp.linspace(-1.0, 1.0, 9)[:, None]
    for i in range(1, 6):
        weight = float(qsm.SCHEDULE.sigma(jnp.float32(i / 5))) if guidance == "soft" else 1.0
        found = forward(network, params, x, jnp.full(9, i - 1.0), jnp.zeros((9, 1)))
        np.testing.assert_allclose(found, sign * 1.5 * weight * curvature * (x - CENTRE), atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_policy_climbs_and_with_the_sign_flipped_descends(sign: float) -> None:
    """A bandit that pays a: the policy acts at +1; with the guidance's sign flipped (a negative gain) at -1."""
    action = np.random.default_rng(0).uniform(-1, 1, (4096, 1))
    data = make_dataset(np.ones((4096, 1)), action, action[:, 0])
    config = dataclasses.replace(
        SMALL, q_gain=sign * 5.0, critic_learning_rate=3e-3, policy_learning_rate=3e-3, num_updates=600, tau=0.05, batch_size=128
    )
    algorithm = make(config, Spec.plain(1, 1))
    states = train_stages(algorithm, runs_of(config, 2), data)
    actions = act(algorithm, states, jnp.ones((256, 1)))
    assert (sign * actions).mean() > 0.9


def test_target_takes_the_lower_of_two_and_one_over_an_ensemble() -> None:
    """The target of terminal rows is the reward; min is at most the mean minus nothing."""
    batch, state = batch_of(), untrained()
    ended = dataclasses.replace(batch, terminal=jnp.ones(64, bool))
    updates = {
        name: quick(qsm.make(dataclasses.replace(SMALL, **changes), Spec.plain(3, 2)).stages[0].update)
        for name, changes in (("min", {}), ("lcb", {"target_value": "lcb", "pessimism": 0.0}))
    }

    def target(name: str, batch: Transition) -> float:
        return float(updates[name](state, batch, jax.random.key(3))[1]["critic/target"])

    assert target("min", batch) < target("lcb", batch)
    assert target("min", ended) == pytest.approx(float(batch.reward.mean()), abs=1e-6)


@pytest.mark.slow
def test_exploration_adds_noise_and_candidates_choose() -> None:
    algorithm = qsm.make(dataclasses.replace(SMALL, exploration_noise=0.0), Spec.plain(3, 2))
    policy = algorithm.policy(fresh(algorithm))
    observation = jnp.zeros((512, 3))
    assert algorithm.explore is not None
    calm = algorithm.explore(policy, (), observation, KEY)[0]
    assert jnp.abs(calm).max() <= 1.0
    noisy = algorithm.explore(policy | {"exploration_noise": 0.5}, (), observation, KEY)[0]
    assert float(jnp.std(noisy - calm)) == pytest.approx(0.5, rel=0.1)
    best = qsm.make(dataclasses.replace(SMALL, act=qsm.Act(num_candidates=8)), Spec.plain(3, 2))
    critics = qsm.Critics((32, 32), 2, dense=qsm.xavier_dense)

    def value(action: Array) -> float:
        return float(jnp.mean(forward(critics, policy["critic"], observation, action)))

    assert value(best.act(policy, (), observation, KEY)[0]) > value(quick(algorithm.act)(policy, (), observation, KEY)[0])


def test_schedule_ends_as_the_papers() -> None:
    assert LinearVP(0.1, 10.0) == qsm.SCHEDULE
