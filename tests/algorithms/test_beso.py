"""BESO: the loss and the samplers against Gaussians known in closed form, guidance, and what acting remembers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import make_dataset, quick, quick_compilation

from diffrl.algorithms import beso
from diffrl.algorithms.beso import SOLVERS, schedule_of
from diffrl.data.columns import attach
from diffrl.diffusion.objectives import denoising_loss, log_logistic_times
from diffrl.diffusion.samplers import sample
from diffrl.diffusion.schedules import grid
from diffrl.diffusion.targets import from_x0, karras
from diffrl.types import Spec

PARTS = (("observation", 2), ("desired_goal", 2))
SPEC = dataclasses.replace(Spec.plain(4, 1), observation_parts=PARTS)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Any:
    with quick_compilation():
        yield


@pytest.mark.parametrize("variance", [0.25, 1.0])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0])
def test_a_network_that_says_nothing_has_the_variance_of_its_target(sigma: float, variance: float) -> None:
    """(σ² v + σ_d⁴)/(σ_d² (σ² + σ_d²)), which is 1 at every level for data of variance σ_d²."""
    schedule = schedule_of("exponential", 0.05, 1.0)
    t = float(schedule.time(jnp.float32(-np.log(sigma))))
    actions = variance**0.5 * jax.random.normal(jax.random.key(0), (200_000, 1))
    loss = denoising_loss(
        lambda x, t: jnp.zeros_like(x),
        schedule,
        actions,
        jax.random.key(1),
        target=karras(0.5),
        times=lambda key, b: jnp.full(b, t),
    )
    assert float(loss) == pytest.approx((sigma**2 * variance + 0.5**4) / (0.25 * (sigma**2 + 0.25)), rel=0.01)


def test_noise_levels_are_log_logistic() -> None:
    """Quantiles of log-logistic noise around 0.5 with scale ½, cut to [0.005, 1]."""
    schedule = schedule_of("exponential", 0.005, 1.0)
    t = log_logistic_times(schedule, np.log(0.5), 0.5)(jax.random.key(0), 1_000_000)
    found = np.quantile(schedule.sigma(t), [0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(found, [0.102, 0.250, 0.408, 0.612, 0.890], rtol=0.01)


@pytest.mark.parametrize(
    ("spacing", "levels"),
    [("linear", [1.0, 0.5025, 0.005, 0.0]), ("exponential", [1.0, 0.0707, 0.005, 0.0]), ("karras", [1.0, 0.13836, 0.005, 0.0])],
)
def test_levels_of_three_steps(spacing: str, levels: list[float]) -> None:
    np.testing.assert_allclose(grid(schedule_of(spacing, 0.005, 1.0), 3).levels.sigma, levels, atol=1e-4)


@pytest.mark.parametrize(
    ("solver", "spacing", "sigma_min", "steps", "deviation"),
    [
        ("ddim", "linear", 0.005, 3, 0.3025),
        ("ddim", "exponential", 0.005, 3, 0.2519),
        ("ddim", "karras", 0.005, 3, 0.2894),
        ("ddim", "linear", 0.005, 10, 0.4118),
        ("ddim", "exponential", 0.005, 10, 0.3974),
        ("ddim", "linear", 0.1, 3, 0.3397),
        ("ddim", "exponential", 0.1, 3, 0.3505),
        ("ancestral", "linear", 0.005, 3, 0.294),
        ("ancestral", "exponential", 0.005, 3, 0.212),
    ],
)
def test_samples_of_a_gaussian(solver: str, spacing: str, sigma_min: float, steps: int, deviation: float) -> None:
    """Of N(0, ¼) with its exact denoiser, from σ_max times noise: few steps shrink, by a known amount."""
    schedule = schedule_of(spacing, sigma_min, 1.0)
    model = lambda x, level: from_x0(x, level, 0.25 * x / (0.25 + level.sigma**2))  # noqa: E731
    start = jax.random.normal(jax.random.key(0), (400_000, 1))
    found = sample(model, grid(schedule, steps), SOLVERS[solver], jax.random.key(1), start)
    assert float(jnp.std(found)) == pytest.approx(deviation, abs=0.002)


def small(**act: Any) -> beso.Config:
    sizes = {"window": 3, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
    return beso.Config(**sizes, attention_dropout=0.0, residual_dropout=0.0, act=beso.Act(**act))


def policy_of(algorithm: Any) -> Any:
    """Of an untrained network, with larger weights: at the start it says nothing."""
    leaves, tree = jax.tree.flatten(algorithm.policy(algorithm.init(jax.random.key(0), algorithm.hparams)))
    more = [x + 0.2 * jax.random.normal(jax.random.fold_in(jax.random.key(1), i), x.shape) for i, x in enumerate(leaves)]
    return tree.unflatten(more)


@pytest.mark.slow
def test_guidance_scales() -> None:
    """λ = 0 does not know the goal; λ = 1 is the conditional model; the denoiser is linear in λ."""
    observation = jax.random.normal(jax.random.key(2), (5, 4))
    moved, found = observation.at[:, 2:].add(1.0), {}
    for scale in (0.0, 1.0, 2.0):
        algorithm = beso.make(small(guidance_scale=scale, num_denoising_steps=1), SPEC)
        policy, act = policy_of(algorithm), quick(algorithm.act)
        carry = algorithm.init_carry(policy, 5)
        found[scale] = [act(policy, carry, each, jax.random.key(0))[0] for each in (observation, moved)]
    np.testing.assert_array_equal(*found[0.0])
    assert float(jnp.abs(found[1.0][0] - found[1.0][1]).max()) > 1e-3
    np.testing.assert_allclose(found[2.0][0], 2.0 * found[1.0][0] - found[0.0][0], atol=1e-5)


def test_what_is_remembered() -> None:
    """States without their goals and clipped actions of the last three steps, the newest last."""
    observations = jax.random.normal(jax.random.key(2), (5, 2, 4))
    algorithm, actions = beso.make(small(), SPEC), []
    policy, act = policy_of(algorithm), quick(algorithm.act)
    carry = algorithm.init_carry(policy, 2)
    for step, observation in enumerate(observations):
        action, carry = act(policy, carry, observation, jax.random.key(step))
        actions.append(action)
    np.testing.assert_array_equal(carry.states, observations[2:, :, :2].swapaxes(0, 1))
    np.testing.assert_allclose(carry.actions, jnp.clip(jnp.stack(actions[2:]), -1.0, 1.0).swapaxes(0, 1), atol=1e-6)
    np.testing.assert_array_equal(carry.count, [3, 3])


def test_at_an_episodes_start_nothing_is_remembered() -> None:
    """The first action hangs on the first observation alone, whatever stands in the empty places."""
    algorithm, observation = beso.make(small(), SPEC), jax.random.normal(jax.random.key(2), (2, 4))
    policy = algorithm.policy(algorithm.init(jax.random.key(0), algorithm.hparams))
    empty = algorithm.init_carry(policy, 2)
    stale = dataclasses.replace(empty, states=empty.states + 9.0)
    act = quick(algorithm.act)
    actions = [act(policy, carry, observation, jax.random.key(0))[0] for carry in (empty, stale)]
    np.testing.assert_allclose(*actions, atol=1e-6)


@pytest.mark.slow
def test_a_goal_selects_one_of_two_ways() -> None:
    """Actions of ±½ ± 0.05, the sign the goal's: with the goal all are right, without it half of each."""
    rng = np.random.default_rng(0)
    sign = np.where(rng.random(256) < 0.5, -1.0, 1.0)
    action = (0.5 * sign + 0.05 * rng.normal(size=256))[:, None]
    state = np.zeros((256, 2))
    following = np.stack([sign, sign], axis=1)
    data = make_dataset(
        np.concatenate([state, following], 1), action, np.zeros(256), np.concatenate([following, following], 1), terminal=True
    )
    config = dataclasses.replace(small(), window=1, hidden_dim=16, batch_size=64, learning_rate=1e-2, goal_dropout=0.3)
    algorithm = beso.make(config, SPEC)
    (stage,) = algorithm.stages
    data = attach(data, algorithm.columns)
    assert stage.batch is not None

    def body(state: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        draw_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), step))
        state, metrics = stage.update(dataclasses.replace(state, step=step), stage.batch(data, draw_key, 64), key)
        return state, metrics["denoiser/loss"]

    hparams = dataclasses.replace(algorithm.hparams, ema_decay=0.98)
    train = quick(lambda state: jax.lax.scan(body, state, jnp.arange(300)))
    state, losses = train(algorithm.init(jax.random.key(0), hparams))
    assert float(jnp.mean(losses[-50:])) < 0.5 * float(losses[0])
    observation = jnp.tile(jnp.array([[0.0, 0.0, 1.0, 1.0]]), (512, 1))
    found = {}
    for scale in (0.0, 1.0):
        acting = beso.make(dataclasses.replace(config, act=beso.Act(num_denoising_steps=10, guidance_scale=scale)), SPEC)
        policy = acting.policy(state)
        found[scale] = quick(acting.act)(policy, acting.init_carry(policy, 512), observation, jax.random.key(2))[0]
    assert float(jnp.mean(found[1.0] > 0.0)) > 0.99
    assert float(jnp.mean(found[1.0])) == pytest.approx(0.5, abs=0.1)
    assert 0.3 < float(jnp.mean(found[0.0] > 0.0)) < 0.7


@pytest.mark.parametrize(
    ("config", "spec", "said"),
    [
        (dataclasses.replace(small(), num_heads=3), SPEC, "num_heads=3 does not divide hidden_dim=16"),
        (dataclasses.replace(small(), sigma_min=2.0), SPEC, "sigma_min=2.0 must lie below sigma_max=1.0"),
        (small(sigma_min=1.5), SPEC, "act.sigma_min=1.5 must lie below"),
        (small(guidance_scale=2.0), Spec.plain(4, 1), "the observation has no part 'desired_goal'"),
    ],
)
def test_impossible_settings(config: beso.Config, spec: Spec, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        beso.make(config, spec)
