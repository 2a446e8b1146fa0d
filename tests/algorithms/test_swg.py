"""SWG against closed forms: two modes with the exact denoiser, weights, networks, and the method itself."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy.stats import norm
from support import chosen, make_dataset, quick, runs_of, train_stages

from diffrl.algorithms import swg
from diffrl.diffusion.guidance import self_weighted
from diffrl.diffusion.samplers import ancestral, boxed, sample
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import clipped
from diffrl.networks.ensembles import NormalizedValue
from diffrl.networks.self_weighted import SelfWeightedDenoiser
from diffrl.types import Spec, Transition

SCHEDULE = LinearVP(0.1, 10.0)

# ------------------------------------------------------------------------------- the exact denoiser, by quadrature


def oracle(points: np.ndarray, log_prior: np.ndarray, weights: np.ndarray) -> Any:
    """ε* of z = (a, w(a)) for a prior on a grid of actions: posterior means by softmax over the grid."""
    clean = jnp.asarray(np.stack([points, weights], axis=1))

    def predict(z: Array, t: Array) -> tuple[Array, Array]:
        alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
        distance = jnp.sum((z[:, None] - alpha[..., None] * clean) ** 2, axis=-1)
        posterior = jax.nn.softmax(jnp.asarray(log_prior) - distance / (2.0 * sigma**2), axis=-1)
        noise = (z - alpha * (posterior @ clean)) / sigma
        return noise[:, :1], noise[:, 1:]

    return predict


@cache
def two_modes(expectile: float) -> Any:
    """A ~ ½N(-½, .15²) + ½N(½, .15²) and expectile weights."""
    points = np.linspace(-1.2, 1.2, 601)
    prior = norm.logpdf(points, -0.5, 0.15)
    prior = np.logaddexp(prior, norm.logpdf(points, 0.5, 0.15))
    return oracle(points, prior, np.where(points > 0.0, expectile, 1.0 - expectile))


def chain(predict: Any, scale: float, steps: int, kind: str, n: int = 8_000, noise_scale: float = 1.0) -> np.ndarray:
    """Actions `[n]` of one of the two samplers, without clipping of the state."""
    model = self_weighted(predict, 1e-4, 1.0, scale)
    if kind == "post":
        model = clipped(model, jnp.array([-1.0, 1e-4]), jnp.array([1.0, 1.0]))
    solver = ancestral("forward" if kind == "jax" else "posterior", noise_scale)

    @jax.jit
    def run(key: Array) -> Array:
        start_key, key = jax.random.split(key)
        start = noise_scale * jax.random.normal(start_key, (n, 2))
        return sample(model, grid(SCHEDULE, steps), solver, key, start, unroll=False)

    return np.asarray(run(jax.random.key(0)))


# Measured beforehand with another implementation: share of positive actions.
MASS = [
    (0.7, 15, "jax", 0.0, 0.497),
    (0.7, 15, "jax", 1.0, 0.673),
    (0.7, 15, "jax", 5.0, 0.978),
    (0.7, 15, "post", 1.0, 0.719),
    (0.7, 15, "post", 2.0, 0.875),
    (0.7, 50, "jax", 1.0, 0.696),
    (0.9, 15, "jax", 1.0, 0.871),
    (0.9, 15, "post", 1.0, 0.923),
]


@pytest.mark.parametrize(("expectile", "steps", "kind", "scale", "expected"), chosen(MASS, 1))
def test_mass_of_the_good_mode(expectile: float, steps: int, kind: str, scale: float, expected: float) -> None:
    """The share is τ at scale 1 in the limit, and the printed biases of few steps."""
    actions = chain(two_modes(expectile), scale, steps, kind)[:, 0]
    assert np.mean(actions > 0) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(len(actions)) + 0.01)


@pytest.mark.slow
def test_boxed_noise_is_the_released_sampler() -> None:
    """Clipping the noisy state with forward variance: .514, .695 and .982 for ρ = 0, 1, 5."""
    low, high = jnp.array([-1.0, 1e-4]), jnp.array([1.0, 1.0])
    for scale, expected in ((0.0, 0.514), (1.0, 0.695), (5.0, 0.982)):
        model = self_weighted(two_modes(0.7), 1e-4, 1.0, scale)
        start = jax.random.normal(jax.random.key(0), (8_000, 2))
        solver = boxed(ancestral("forward"), low, high)
        z = sample(model, grid(SCHEDULE, 15), solver, jax.random.key(1), start, unroll=False)
        assert np.mean(np.asarray(z)[:, 0] > 0) == pytest.approx(expected, abs=0.025)


def test_without_noise_cloning_averages_the_modes_and_guidance_breaks_the_tie() -> None:
    """Deterministic: a = -.006 between the modes at ρ = 0; .465, .531, .550 inside one at ρ = 1, 5, 10."""
    for scale, expected in ((0.0, -0.006), (1.0, 0.465), (5.0, 0.531), (10.0, 0.550)):
        z = chain(two_modes(0.7), scale, 15, "jax", n=1, noise_scale=0.0)
        assert z[0, 0] == pytest.approx(expected, abs=0.012)
    assert z[0, 1] == pytest.approx(0.7, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("normalized", "expected"), [(False, 0.896), (True, 0.974)])
def test_large_weights_want_normalising(normalized: bool, expected: float) -> None:
    """Weights w = e^a of A ~ N(0, 1) has target N(1, 1); with e^(min(a,3)-3) the mean comes out closer to it."""
    points = np.linspace(-5.0, 5.0, 1001)
    weights = np.exp(np.minimum(points, 3.0) - 3.0) if normalized else np.exp(points)
    model = self_weighted(oracle(points, norm.logpdf(points), weights), 1e-9, 1e9, 1.0)
    start = jax.random.normal(jax.random.key(0), (8_000, 2))
    z = quick(lambda x: sample(model, grid(SCHEDULE, 15), ancestral("forward"), jax.random.key(1), x, unroll=False))(start)
    assert np.asarray(z)[:, 0].mean() == pytest.approx(expected, abs=0.05)


# ------------------------------------------------------------------------------------------------ weights and networks


def test_weights_are_finite_and_not_negative() -> None:
    """Never negative, whatever the advantage: that would turn the guidance round."""
    advantage = jnp.concatenate([-jnp.geomspace(1e3, 1e-6, 50), jnp.zeros(1), jnp.geomspace(1e-6, 1e3, 50)])
    for name, weighting in swg.WEIGHTINGS.items():
        w = np.asarray(weighting.weight(jnp.minimum(advantage, 1.0) if name == swg.ENERGY else advantage, swg.HParams()))
        assert np.all(np.isfinite(w)), name
        assert np.all(w >= 0.0), name
        assert np.all(np.diff(w) >= -1e-3 * w[1:]) or name == "quantile", name


def count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("observation", "action", "expected"),
    [(17, 6, 1_816_647), (11, 3, 1_813_572), (29, 8, 1_820_745), (60, 9, 1_829_194), (45, 24, 1_833_049), (39, 30, 1_834_591)],
)
def test_denoiser_has_the_published_size(observation: int, action: int, expected: int) -> None:
    shapes = jax.eval_shape(
        SelfWeightedDenoiser(action).init,
        jax.random.key(0),
        jnp.zeros((1, action + 1)),
        jnp.zeros(1),
        jnp.zeros((1, observation)),
    )
    assert count(shapes) == expected


def test_other_networks_sizes() -> None:
    """Joint head 1,750,855, V 70,691."""
    arguments = jax.random.key(0), jnp.zeros((1, 7)), jnp.zeros(1), jnp.zeros((1, 17))
    assert count(jax.eval_shape(SelfWeightedDenoiser(6, weight_head="joint").init, *arguments)) == 1_750_855
    assert count(jax.eval_shape(NormalizedValue((256, 256)).init, jax.random.key(0), jnp.zeros((1, 17)))) == 70_691


@pytest.mark.slow
def test_early_head_costs_less_to_differentiate() -> None:
    """The gradient of the weight's noise does not pass through later blocks: fewer FLOPs in the compiled program."""

    def flops(head: str) -> float:
        network = SelfWeightedDenoiser(6, num_blocks=6, weight_head=head)
        z, index, observation = jnp.zeros((4, 7)), jnp.zeros(4), jnp.zeros((4, 17))
        params = quick(network.init)(jax.random.key(0), z, index, observation)

        def guided(z: Array) -> tuple[Array, Array]:
            (_, pullback, noise) = jax.vjp(lambda at: network.apply(params, at, index, observation)[::-1], z, has_aux=True)
            return noise, pullback(jnp.ones((4, 1)))[0]

        analysis = jax.jit(guided).lower(z).compile().cost_analysis()
        assert analysis is not None
        return float(analysis["flops"])

    assert flops("early") < 0.8 * flops("joint")


# ------------------------------------------------------------------------------------------------------- the method


SMALL: dict[str, Any] = {
    "learning_rate": 1e-3,
    "hidden_dim": 32,
    "num_blocks": 2,
    "time_dim": 32,
    "dropout_rate": 0.0,
    "critic_hidden_dims": (64, 64),
    "critic_updates": 1_000,
    "diffusion_updates": 2_000,
    "critic_batch_size": 128,
    "diffusion_batch_size": 128,
    "cosine_horizon": 2_000,
    "ema_decay": 0.99,
    "expectile": 0.9,
}


@cache
def trained() -> tuple[Any, Any]:
    """A bandit with two modes of equal mass; the right one pays 1."""
    rng = np.random.default_rng(0)
    action = np.where(rng.random(4_000) < 0.5, -0.5, 0.5) + 0.1 * rng.normal(size=4_000)
    observation = rng.normal(size=(4_000, 2)).astype(np.float32)
    data = make_dataset(observation, action[:, None], (action > 0).astype(np.float32))
    config = swg.Config(**SMALL)
    states = train_stages(swg.make(config, Spec.plain(2, 1)), runs_of(config), data)
    return config, jax.tree.map(lambda leaf: leaf[0], states)


def actions(scale: float, **act: Any) -> np.ndarray:
    """1,000 actions of the trained policy."""
    config, state = trained()
    config = dataclasses.replace(config, act=dataclasses.replace(config.act, guidance_scale=scale, **act))
    algorithm = swg.make(config, Spec.plain(2, 1))
    observation = jax.random.normal(jax.random.key(5), (1_000, 2))
    policy = algorithm.policy(state)
    return np.asarray(quick(algorithm.act)(policy, (), observation, jax.random.key(6))[0])[:, 0]


@pytest.mark.slow
def test_learns_and_guides() -> None:
    """Scale 0 clones (half of the actions are good), 1 tilts to τ = .9, 5 goes on; at the modes, not between them."""
    shares = [np.mean(actions(scale) > 0.0) for scale in (0.0, 1.0, 5.0)]
    assert shares[0] == pytest.approx(0.5, abs=0.08)
    assert shares[1] == pytest.approx(0.9, abs=0.07)
    assert shares[2] > 0.95
    assert np.median(np.abs(actions(1.0))) == pytest.approx(0.5, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", swg.SAMPLERS)
def test_every_sampler_is_guided(sampler: str) -> None:
    """One checkpoint, any sampler, in 8 of its 15 steps."""
    steps = 15 if sampler == "ddpm_boxed" else 8
    good = [np.mean(actions(scale, sampler=sampler, num_denoising_steps=steps) > 0.0) for scale in (0.0, 3.0)]
    assert good[0] == pytest.approx(0.5, abs=0.12)
    assert good[1] > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("select", ["q", "w"])
def test_resampling_takes_the_best_candidate(select: str) -> None:
    """SWG-R without guidance already finds the good mode."""
    assert np.mean(actions(0.0, num_candidates=8, select=select) > 0.0) > 0.97


def test_deterministic_acting_ignores_the_key() -> None:
    algorithm = swg.make(swg.Config(**SMALL, act=swg.Act(noise_scale=0.0, num_denoising_steps=3)), Spec.plain(2, 1))
    policy = algorithm.policy(quick(algorithm.init)(jax.random.key(0), algorithm.hparams))
    observation, act = jnp.zeros((3, 2)), quick(algorithm.act)
    a, b = (act(policy, (), observation, jax.random.key(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_learning_rate_follows_the_released_horizon() -> None:
    """Cosine over 3,000,000: 2.25e-4 after 1,000,000 updates, 7.5e-5 after 2,000,000, read off one update's step."""
    small = {name: value for name, value in SMALL.items() if name not in ("learning_rate", "cosine_horizon")}
    algorithm = swg.make(swg.Config(**small), Spec.plain(2, 1))
    state = quick(algorithm.init)(jax.random.key(0), algorithm.hparams)
    rows = jax.random.normal(jax.random.key(1), (8, 3))
    batch = Transition(rows[:, :2], rows[:, 2:], rows[:, 0], rows[:, :2], rows[:, 0] > 9, rows[:, 0] > 9, {"weight": jnp.ones(8)})
    update = jax.jit(algorithm.stages[-1].update)

    def step_size(count: int) -> float:
        """Largest move of a parameter per moment of Adam: proportional to the rate, weight decay left out at zero biases."""
        opt_state = jax.tree.map(
            lambda leaf: jnp.full_like(leaf, count) if leaf.dtype == jnp.int32 else leaf, state.diffusion.opt_state
        )
        # Bias corrections depend on the count too; with moments at their limit they are 1 for large counts.
        moved = update(state.replace(diffusion=state.diffusion.replace(opt_state=opt_state)), batch, jax.random.key(2))[0]
        bias = moved.diffusion.params["Dense_2"]["bias"] - state.diffusion.params["Dense_2"]["bias"]
        return float(jnp.max(jnp.abs(bias)))

    assert step_size(2_000_000) / step_size(1_000_000) == pytest.approx(7.5e-5 / 2.25e-4, rel=1e-3)


@pytest.mark.slow
def test_energies_as_weights() -> None:
    """One-step problems without a critic: N(0, .3²) with e = x and β = 3 is N(.27, .3²); the schedule is the toys'."""
    rng = np.random.default_rng(0)
    action = 0.3 * rng.normal(size=(8_000, 1)).clip(-3, 3)
    data = make_dataset(np.zeros((8_000, 1)), action, action[:, 0])
    config = swg.Config(
        **SMALL | {"expectile": 0.7},
        weighting=swg.ENERGY,
        normalize_weights=True,
        schedule="cosine",
        num_diffusion_steps=30,
        act=swg.Act(num_denoising_steps=30, select="w"),
    )
    algorithm = swg.make(config, Spec.plain(1, 1))
    assert [stage.name for stage in algorithm.stages] == ["diffusion"]
    states = train_stages(algorithm, runs_of(config), data)
    policy = algorithm.policy(jax.tree.map(lambda leaf: leaf[0], states))
    a = np.asarray(quick(algorithm.act)(policy, (), jnp.zeros((4_000, 1)), jax.random.key(0))[0])
    assert a.mean() == pytest.approx(0.27, abs=0.07)
    assert a.std() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (swg.Config(act=swg.Act(num_candidates=4, noise_scale=0.0)), "noise_scale above 0"),
        (swg.Config(weighting="linex"), "normalize_weights"),
        (swg.Config(cosine_horizon=10), "raise the horizon"),
        (swg.Config(weighting="energy", act=swg.Act(num_candidates=2)), "select='w'"),
        (swg.Config(act=swg.Act(num_denoising_steps=16)), "at most 15"),
    ],
)
def test_errors(config: swg.Config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swg.make(config, Spec.plain(2, 1))
