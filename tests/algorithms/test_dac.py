"""DAC: closed forms of its sampler and guidance, the dual variable, the bound, the averaged policy."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import act, chosen, make_dataset, quick, runs_of, train_stages, unchecked, with_hparams

from diffrl.algorithm import Algorithm
from diffrl.algorithms import dac
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import grid
from diffrl.diffusion.targets import as_model
from diffrl.learner import forward
from diffrl.networks.ensembles import Critics
from diffrl.networks.mlp import mish, xavier_dense
from diffrl.registry import make
from diffrl.types import Spec

KEY = jax.random.key(0)
SAMPLES = 100_000
SMALL = dac.Config(
    hidden_dims=(32, 32), critic_hidden_dims=(32, 32), num_critics=3, num_next_actions=2, num_updates=3, batch_size=64
)


def moments(num_steps: int, variance: str = "forward", weight: str = "", eta: float = 1.0) -> tuple[float, float]:
    """Of samples for data N(.2, .3²), guided by Q = -(a - .5)² where a weight is named; nothing is clipped."""

    def predict(x: Array, t: Array) -> Array:
        alpha, sigma = (f(t)[:, None] for f in (dac.SCHEDULE.alpha, dac.SCHEDULE.sigma))
        noise = sigma * (x - alpha * 0.2) / (alpha**2 * 0.09 + sigma**2)
        if not weight:
            return noise
        return noise + (sigma if weight == "soft" else 1.0) * 2.0 * (x - 0.5) / (2.0 * eta)

    start = jax.random.normal(KEY, (SAMPLES, 1))
    levels = grid(dac.SCHEDULE, num_steps)
    x = jax.jit(lambda: sample(as_model(predict, dac.SCHEDULE), levels, ancestral(variance), jax.random.key(1), start))()
    return float(jnp.mean(x)), float(jnp.std(x))


@pytest.mark.parametrize(
    ("num_steps", "variance", "std"),
    chosen(
        [
            (5, "forward", 0.22211),
            (10, "forward", 0.30068),
            (50, "forward", 0.30946),
            (5, "posterior", 0.14146),
            (10, "posterior", 0.19478),
            (50, "posterior", 0.26309),
        ],
        *(0, 3, 5),
    ),
)
def test_even_a_perfect_network_is_too_narrow_in_five_steps(num_steps: int, variance: str, std: float) -> None:
    """The spread at T steps, of both variances, in closed form."""
    mean, found = moments(num_steps, variance)
    assert mean == pytest.approx(0.19988, abs=0.004)
    assert found == pytest.approx(std, rel=0.01)


@pytest.mark.parametrize(
    ("eta", "weight", "num_steps", "mean", "std"),
    chosen(
        [
            (4.0, "soft", 5, 0.23760, 0.17025),
            (4.0, "soft", 50, 0.22517, 0.29365),
            (4.0, "hard", 5, 0.25623, 0.12142),
            (4.0, "hard", 50, 0.25481, 0.26460),
            (1.0, "soft", 5, 0.27187, 0.06839),
            (1.0, "soft", 50, 0.26467, 0.26459),
            (1.0, "hard", 50, 0.33781, 0.19065),
            (0.5, "soft", 50, 0.29398, 0.24068),
            (0.5, "hard", 50, 0.39065, 0.14034),
        ],
        *(0, 5, 8),
    ),
)
def test_guided_moments(eta: float, weight: str, num_steps: int, mean: float, std: float) -> None:
    """Soft guidance overshoots the exact tilt's mean, hard more."""
    found = moments(num_steps, weight=weight, eta=eta)
    assert found == pytest.approx((mean, std), abs=0.004)


def test_small_eta_is_unstable_without_clipping() -> None:
    assert moments(5, weight="soft", eta=0.5)[1] == pytest.approx(2.116, rel=0.02)


def test_dual_step() -> None:
    """It moves with the excess, held to a step of 1 and to its range."""
    assert float(dac.dual_step(1.0, 3.0, 1.0, 0.001)) == pytest.approx(1.001)
    assert float(dac.dual_step(1.0, 0.5, 1.0, 0.001)) == pytest.approx(0.9995)
    assert float(dac.dual_step(0.001, 0.0, 1.0, 1.0)) == pytest.approx(0.001)
    assert float(dac.dual_step(100.0, 9.0, 1.0, 1.0)) == pytest.approx(100.0)


def test_lower_bound_is_of_members_maxima() -> None:
    """Population deviation: (1, 3) with ρ = 1 is 1; "max" is per member, before the bound."""
    q = jnp.array([[[1.0]], [[3.0]]])
    np.testing.assert_allclose(dac.next_value(q, "mean", 1.0), [1.0])
    two = jnp.array([[[0.0], [4.0]], [[2.0], [0.0]]])  # [critics, candidates, batch]
    np.testing.assert_allclose(dac.next_value(two, "max", 1.0), [3.0 - 1.0])
    np.testing.assert_allclose(dac.next_value(two, "mean", 1.0), [1.5 - 0.5])


@cache
def untrained() -> Any:
    """A state of SMALL, fresh."""
    algorithm = dac.make(SMALL, Spec.plain(1, 1))
    return quick(algorithm.init)(KEY, algorithm.hparams)


def fresh(algorithm: Algorithm) -> Any:
    """The same with the hyper-parameters of another."""
    return with_hparams(untrained(), algorithm)


def bandit(reward: Any) -> Any:
    action = np.random.default_rng(0).normal(0.0, 0.3, (4096, 1)).clip(-1, 1)
    return make_dataset(np.ones((4096, 1)), action, reward(action[:, 0]))


def test_guidance_is_in_units_of_the_values_unless_told() -> None:
    """∇Q / C with C the mean of |Q| of the target critics at the batch's actions, or ∇Q."""
    data = bandit(lambda a: a)[:64]
    size = {}
    for normalized in (True, False):
        algorithm = dac.make(
            dataclasses.replace(SMALL, critic_learning_rate=0.0, normalize_gradient=normalized), Spec.plain(1, 1)
        )
        size[normalized] = float(quick(algorithm.stages[0].update)(fresh(algorithm), data, KEY)[1]["critic/gradient"])
    critics = Critics(SMALL.critic_hidden_dims, SMALL.num_critics, dense=xavier_dense, activation=mish)
    q = forward(critics, untrained().critic.params, data.observation, data.action)
    assert size[False] == pytest.approx(size[True] * float(jnp.mean(jnp.abs(q))), rel=1e-4)


@pytest.mark.slow
def test_constant_values_give_no_guidance() -> None:
    """Q ≡ const: g = 0 whatever its size: the critics' last kernel zeroed, their bias -7."""
    algorithm = dac.make(dataclasses.replace(SMALL, critic_learning_rate=0.0), Spec.plain(1, 1))
    state = fresh(algorithm)

    def constant(params: Any) -> Any:
        names = sorted(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
        last = names[-1].rsplit("[", 1)[0]

        def replace(path: Any, x: Array) -> Array:
            name = jax.tree_util.keystr(path)
            return x if not name.startswith(last) else jnp.full_like(x, -7.0 if "bias" in name else 0.0)

        return jax.tree_util.tree_map_with_path(replace, params)

    params = constant(state.critic.params)
    state = dataclasses.replace(state, critic=dataclasses.replace(state.critic, params=params), target_critic_params=params)
    data = bandit(lambda a: 0.0 * a)
    metrics = quick(algorithm.stages[0].update)(state, data[:64], KEY)[1]
    assert float(metrics["critic/q"]) == pytest.approx(-7.0)
    assert float(metrics["critic/gradient"]) == 0.0


def test_averaged_policy_waits_and_then_moves_every_fifth_update() -> None:
    algorithm = dac.make(SMALL, Spec.plain(1, 1))
    data, update = bandit(lambda a: a)[:64], quick(algorithm.stages[0].update)
    for step, moves in ((0, False), (1_000, False), (1_001, False), (1_004, False), (1_005, True)):
        state = dataclasses.replace(untrained(), step=jnp.int32(step))
        after, _ = update(state, data, KEY)
        moved = any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(state.target_policy_params), jax.tree.leaves(after.target_policy_params), strict=True)
        )
        assert moved is moves, step


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["soft", "hard"])
def test_policy_moves_where_it_pays_and_stays_near_the_data(guidance: str) -> None:
    """Data N(0, .3²) that pay a: with a fixed η the mean rises, but not to the bound of the actions."""
    config = dataclasses.replace(
        SMALL,
        guidance=guidance,
        eta=2.0,
        eta_learning_rate=0.0,
        policy_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        tau=0.05,
        num_updates=1_000,
        batch_size=128,
        act=dac.Act(num_candidates=1),
    )
    algorithm = make(config, Spec.plain(1, 1))
    actions = act(algorithm, train_stages(algorithm, runs_of(config, 2), bandit(lambda a: a)), jnp.ones((512, 1)))
    assert actions.mean() > 0.12
    assert (actions < 0.95).mean() > 0.6


def test_eta_follows_the_policy_before_its_step() -> None:
    """As in the authors' code: the denoising loss that η answers is that of the parameters the update began with."""
    config = dataclasses.replace(SMALL, policy_learning_rate=1e-2, eta_learning_rate=0.1)
    algorithm = dac.make(config, Spec.plain(1, 1))
    state, data = fresh(algorithm), bandit(lambda a: a)[:64]
    update = quick(algorithm.stages[0].update)
    network = dac.MLPDenoiser(1, (32, 32), time_features="sinusoidal", time_dims=(32, 32))

    @quick
    def bc_loss(params: Any, key: Array) -> Array:
        """Of the times and noise that an update with this key draws."""
        _, time_key, noise_key = jax.random.split(key, 3)
        t = dac.discrete_times(5)(time_key, 64)
        noise = jax.random.normal(noise_key, data.action.shape)
        predicted = network.apply({"params": params}, dac.perturb(dac.SCHEDULE, data.action, t, noise), 5 * t, data.observation)
        return jnp.mean((predicted - noise) ** 2)

    for seed in range(3):
        key = jax.random.key(seed)
        after, metrics = update(state, data, key)
        before, following = (float(bc_loss(params, key)) for params in (state.policy.params, after.policy.params))
        assert float(metrics["policy/bc_loss"]) == pytest.approx(before, rel=1e-4)
        expected, other = (float(dac.dual_step(state.eta, loss, 1.0, 0.1)) for loss in (before, following))
        assert float(after.eta) == pytest.approx(expected, rel=1e-5)
        assert abs(expected - other) > 1e-4  # the parameters after the step would tell
        state = after


def test_average_is_a_branch_over_runs() -> None:
    """Mapped over runs with one counter, four of five updates do not touch the average."""
    algorithm = dac.make(SMALL, Spec.plain(1, 1))
    init = jax.vmap(algorithm.init, in_axes=(0, None))
    states = jax.eval_shape(init, jax.random.split(KEY, 2), jax.tree.map(jnp.float32, algorithm.hparams))
    batch = bandit(lambda a: a)[:64]

    def together(states: Any, step: Array) -> Any:
        return jax.vmap(lambda state: algorithm.stages[0].update(dataclasses.replace(state, step=step), batch, KEY)[0])(states)

    with unchecked():
        assert "cond[" in str(jax.make_jaxpr(together)(states, jnp.int32(0)))
