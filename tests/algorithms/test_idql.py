"""IDQL and IFQL: the clone's schedule, loss and sampler in closed form, the critic's order, the choice among candidates."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from support import (
    assert_trees_close,
    chosen,
    first_gradient,
    quick,
    random_batch,
    trees_equal,
)

from diffrl.algorithms import idql
from diffrl.config import ConfigError, validate_method
from diffrl.diffusion.guidance import best_of
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import ancestral, sample
from diffrl.diffusion.schedules import LinearVP, grid
from diffrl.diffusion.targets import as_model
from diffrl.networks.ensembles import Value
from diffrl.networks.mlp import ACTIVATIONS, xavier_dense
from diffrl.types import Spec, Transition

STEPS, SCHEDULE = 5, LinearVP(0.1, 10.0)

# --------------------------------------------------------------------------------------------- the clone, exactly


def test_schedule() -> None:
    """β and ᾱ of the discrete "vp" table of five steps, b from 0.1 to 10."""
    t = jnp.arange(0, STEPS + 1) / STEPS
    alpha_bar = np.asarray(SCHEDULE.alpha(t)) ** 2
    np.testing.assert_allclose(alpha_bar[1:], [0.80413, 0.43518, 0.1585, 0.03885, 0.00641], atol=5e-6)
    np.testing.assert_allclose(1.0 - alpha_bar[1:] / alpha_bar[:-1], [0.19587, 0.45882, 0.63578, 0.75488, 0.83503], atol=5e-6)


def exact_noise(mean: float, std: float) -> Any:
    """ε* of N(mean, std²), a row or more of them."""

    def predict(x: Array, t: Array) -> Array:
        alpha, sigma = (f(t).reshape(-1, *[1] * (x.ndim - 1)) for f in (SCHEDULE.alpha, SCHEDULE.sigma))
        return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return predict


@pytest.mark.parametrize(("std", "floor"), chosen([(0.1, 0.009886), (0.2, 0.03606), (0.5, 0.144918), (1.0, 0.288613)], 2))
def test_least_loss(std: float, floor: float) -> None:
    """Of a perfect network, a dimension, summed over two of them."""

    @quick
    def loss(bias: float) -> Array:
        data = 0.3 + std * jax.random.normal(jax.random.key(0), (400_000, 2))
        predict = exact_noise(0.3, std)
        key, times = jax.random.key(1), discrete_times(STEPS)
        return denoising_loss(lambda x, t: predict(x, t) + bias, SCHEDULE, data, key, times=times)

    assert float(loss(0.0)) == pytest.approx(2 * floor, rel=0.01)
    assert float(loss(0.1)) == pytest.approx(2 * (floor + 0.01), rel=0.01)


@pytest.mark.parametrize(
    ("std", "mean", "narrow"),
    chosen([(0.1, 0.29998, 0.03152), (0.2, 0.29992, 0.11398), (0.5, 0.29952, 0.44348), (1.0, 0.29808, 0.89673)], 0, 2),
)
def test_five_steps_are_too_narrow_even_for_a_perfect_network(std: float, mean: float, narrow: float) -> None:
    """Of N(.3, s²), without clipping."""

    @quick
    def moments() -> tuple[Array, Array]:
        x = jax.random.normal(jax.random.key(0), (200_000, 1))
        model = as_model(exact_noise(0.3, std), SCHEDULE)
        x = sample(model, grid(SCHEDULE, STEPS), ancestral("forward"), jax.random.key(1), x)
        return jnp.mean(x), jnp.std(x)

    found = moments()
    assert float(found[0]) == pytest.approx(mean, abs=4 * narrow / 200_000**0.5)
    assert float(found[1]) == pytest.approx(narrow, rel=0.01)


SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_blocks": 1,
    "time_dim": 16,
    "flow_hidden_dims": (16, 16),
    "critic_hidden_dims": (16, 16),
    "behavior_updates": 4,
    "critic_updates": 4,
    "learning_rate": 3e-2,
    "act": idql.Act(num_candidates=6),
}
OBSERVATION, ACTION, BATCH = 4, 2, 8
SPEC = Spec.plain(OBSERVATION, ACTION)
FLOW: dict[str, Any] = {"clone": "flow", "critic_activation": "gelu", "layer_norm": True, "ema_decay": 0.0, "cosine": False}


def config(**changes: Any) -> idql.Config:
    return idql.Config(**(SMALL | changes))


def sizes(method: idql.Config) -> dict[str, int]:
    """Of networks for HalfCheetah."""
    algorithm = idql.make(method, Spec.plain(17, 6))
    state = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hparams)
    learners = {name: getattr(state, name).params for name in ("behavior", "value", "critic")}
    return {name: sum(leaf.size for leaf in jax.tree.leaves(params)) for name, params in learners.items()}


def test_published_sizes() -> None:
    """32 learnt frequencies -> 64 -> 128 -> 128; [6 + 17 + 128] -> 256, three blocks of 256 × 4, -> 6; IFQL's 512 × 4."""
    block = 2 * 256 + 256 * 1024 + 1024 + 1024 * 256 + 256
    ends = 151 * 256 + 256 + 256 * 6 + 6
    paper = 32 + 64 * 128 + 128 + 128 * 128 + 128 + ends + 3 * block
    assert paper == 1_643_558
    value, q = 17 * 256 + 256 + 256 * 256 + 256 + 257, 23 * 256 + 256 + 256 * 256 + 256 + 257
    assert sizes(idql.Config()) == {"behavior": paper, "value": value, "critic": 2 * q}
    later = idql.Config(num_frequencies=64, time_dim=256, activation="swish", normalize_value_input=True)
    wider = 64 + 128 * 256 + 256 + 256 * 256 + 256 + ends + 128 * 256 + 3 * block
    assert sizes(later) == {"behavior": wider, "value": value + 2 * 17, "critic": 2 * q}
    hidden, norms = 512 + 3 * (512 * 512 + 512), 4 * 2 * 512
    flow = idql.Config(**FLOW, critic_hidden_dims=(512, 512, 512, 512))
    assert sizes(flow) == {
        "behavior": 24 * 512 + hidden + 512 * 6 + 6,
        "value": 17 * 512 + hidden + norms + 513,
        "critic": 2 * (23 * 512 + hidden + norms + 513),
    }


# ---------------------------------------------------------------------------------------------------------- one update


@cache
def setup(clone: str) -> tuple[Any, dict[str, Any], Any, Transition]:
    """The algorithm, its jitted updates, a state whose averages are far from the networks, and a batch."""
    algorithm = idql.make(config(**FLOW) if clone == "flow" else config(), SPEC)
    init, hparams = quick(algorithm.init), jax.tree.map(jnp.float32, algorithm.hparams)
    state, other = (init(jax.random.key(seed), hparams) for seed in range(2))
    state = state.replace(target_critic_params=other.critic.params, ema_params=other.behavior.params)
    batch = random_batch(BATCH, OBSERVATION, ACTION)
    return algorithm, {stage.name: quick(stage.update) for stage in algorithm.stages}, state, batch


CLONES = ["diffusion", "flow"]


@pytest.mark.parametrize("clone", chosen(CLONES, 0))
def test_stages_do_not_look_at_each_other(clone: str) -> None:
    """The clone's step leaves V and Q alone and never asks them nor the rewards; the critic's leaves the clone alone."""
    _, updates, state, batch = setup(clone)
    key = jax.random.key(0)
    cloned, _ = updates["behavior"](state, batch, key)
    assert trees_equal(
        (cloned.value, cloned.critic, cloned.target_critic_params), (state.value, state.critic, state.target_critic_params)
    )
    other = state.replace(critic=state.critic.replace(params=state.target_critic_params))
    assert trees_equal(updates["behavior"](other, batch.replace(reward=batch.reward + 1.0), key)[0].behavior, cloned.behavior)
    valued, _ = updates["critic"](state, batch, key)
    assert trees_equal((valued.behavior, valued.ema_params), (state.behavior, state.ema_params))
    assert not trees_equal(valued.critic, state.critic)


@pytest.mark.parametrize("clone", CLONES)
def test_average_and_rate_of_the_clone(clone: str) -> None:
    """IDQL's average moves by a thousandth and its rate falls to 0 at the end; IFQL acts by the flow itself, at one rate."""
    _, updates, state, batch = setup(clone)
    for k in range(SMALL["behavior_updates"] + 1):
        before, (state, _) = state, updates["behavior"](state, batch, jax.random.key(k))
        decay = 0.0 if clone == "flow" else 0.999
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1.0 - d) * b, before.ema_params, state.behavior.params)
        assert_trees_close(state.ema_params, average, rtol=1e-5, atol=1e-6)
    assert trees_equal(before.behavior.params, state.behavior.params) == (clone == "diffusion")


def test_critics_learn_v_first() -> None:
    """Gradients of V against the old targets, of Q against the new V, the mean of both critics' errors, then the targets."""
    _, updates, state, batch = setup("diffusion")
    after, metrics = updates["critic"](state, batch, jax.random.key(0))
    value = Value((16, 16), dense=xavier_dense)

    def v(params: Any, observation: Array) -> Array:
        return value.apply({"params": params}, observation)  # pyright: ignore

    def q(params: Any) -> Array:
        (stacked,) = params.values()
        x = jnp.concatenate([batch.action, batch.observation], axis=-1)
        found = []
        for k in range(2):
            member, h = jax.tree.map(lambda leaf, k=k: leaf[k], stacked), x
            for layer in range(3):
                h = h @ member[f"Dense_{layer}"]["kernel"] + member[f"Dense_{layer}"]["bias"]
                h = jax.nn.relu(h) if layer < 2 else h
            found.append(h[:, 0])
        return jnp.stack(found)

    def value_loss(params: Any) -> Array:
        u = jnp.min(q(state.target_critic_params), axis=0) - v(params, batch.observation)
        return jnp.mean(jnp.abs(0.7 - (u < 0)) * u**2)

    def critic_loss(params: Any, value_params: Any) -> Array:
        target = batch.reward + 0.99 * (1.0 - batch.terminal) * v(value_params, batch.next_observation)
        return jnp.mean((q(params) - target) ** 2)

    assert_trees_close(first_gradient(after.value), quick(jax.grad(value_loss))(state.value.params), rtol=1e-3, atol=1e-5)
    gradient = quick(jax.grad(critic_loss))(state.critic.params, after.value.params)
    assert_trees_close(first_gradient(after.critic), gradient, rtol=1e-3, atol=1e-5)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(state.critic.params, after.value.params)), rel=1e-4)
    average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, state.target_critic_params, after.critic.params)
    assert_trees_close(after.target_critic_params, average)


# --------------------------------------------------------------------------------------------------------------- acting


@pytest.mark.parametrize(("count", "expected"), [(16, 1.7660), (32, 2.0697), (64, 2.3437), (128, 2.5946), (256, 2.8269)])
def test_best_of_normal_values(count: int, expected: float) -> None:
    """The mean maximum of N values from N(0, 1): what more candidates can gain."""
    q = jnp.asarray(np.random.default_rng(count).normal(size=(count, 20_000)), jnp.float32)
    assert float(np.mean(best_of(q[..., None], q))) == pytest.approx(expected, abs=0.015)


def parts(clone: str, **acting: Any) -> tuple[Any, Any, Array, Array, Array]:
    """An algorithm that acts so, a policy, observations, their candidates `[N, B, A]` for key 3, and min Q there."""
    _, _, state, batch = setup(clone)
    changes = (FLOW if clone == "flow" else {}) | {"act": dataclasses.replace(SMALL["act"], **acting)}
    method = config(**changes)
    algorithm = idql.make(method, SPEC)
    policy = algorithm.policy(state)
    start_key, draw_key, _ = jax.random.split(jax.random.key(3), 3)
    start = jax.random.normal(start_key, (method.act.num_candidates, BATCH, ACTION))
    drawn = quick(idql.CLONES[clone](method, SPEC).draw)(policy["behavior"], batch.observation, start, draw_key)
    critics = idql.Critics(
        (16, 16),
        dense=xavier_dense,
        activation=ACTIVATIONS[method.critic_activation],
        layer_norm="after" if method.layer_norm else "",
    )
    repeated = jnp.broadcast_to(batch.observation, (*drawn.shape[:2], OBSERVATION))
    q = jnp.min(critics.apply({"params": state.target_critic_params}, repeated, drawn), axis=0)  # pyright: ignore
    return algorithm, policy, batch.observation, drawn, q


@pytest.mark.parametrize("clone", CLONES)
def test_the_best_candidate_acts(clone: str) -> None:
    """That of the highest minimum of the target critics, for each observation its own, inside the bounds."""
    algorithm, policy, observation, drawn, q = parts(clone)
    assert np.all(np.abs(drawn) <= 1.0)
    assert len(np.unique(np.argmax(q, axis=0))) > 1
    action, _ = quick(algorithm.act)(policy, (), observation, jax.random.key(3))
    expected = np.stack([drawn[k, b] for b, k in enumerate(np.argmax(q, axis=0))])
    np.testing.assert_allclose(action, expected, atol=1e-5)


@pytest.mark.parametrize("clone", CLONES)
def test_candidates_of_an_observation_are_as_of_one_alone(clone: str) -> None:
    """The network broadcasts observations and times; what comes out is as if each candidate brought its own."""
    method = config(**(FLOW if clone == "flow" else {}), act=idql.Act(num_candidates=3))
    _, _, state, batch = setup(clone)
    draw = quick(idql.CLONES[clone](method, SPEC).draw)
    start, key = jax.random.normal(jax.random.key(0), (3, BATCH, ACTION)), jax.random.key(1)
    together = draw(state.ema_params, batch.observation, start, key)
    repeated = jnp.tile(batch.observation, (3, 1))
    if clone == "flow":  # whose steps draw nothing
        alone = draw(state.ema_params, repeated, start.reshape(1, 3 * BATCH, ACTION), key)
        np.testing.assert_allclose(alone.reshape(together.shape), together, atol=1e-5)
    assert not np.allclose(together[0], together[1])
    other = draw(state.ema_params, batch.observation.at[0].set(9.0), start, key)
    np.testing.assert_array_equal(np.any(other != together, axis=(0, 2)), np.arange(BATCH) == 0)


@pytest.mark.parametrize("value_loss", ["expectile", "quantile", "linex"])
def test_implicit_choices_are_as_often_as_their_weights(value_loss: idql.ImplicitName) -> None:
    """One of three candidates of values 1, 0 and -2 by w(Q - V), V = -.5, over many rows."""
    q = jnp.broadcast_to(jnp.array([1.0, 0.0, -2.0])[:, None], (3, 40_000))
    hparams = idql.HParams(expectile=0.7, beta=0.8)
    drawn = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (3, 40_000, 1))
    chosen = idql.draw_implicit(jax.random.key(0), drawn, q, jnp.full(40_000, -0.5), value_loss, hparams)
    a = np.array([1.5, 0.5, -1.5])
    side = np.where(a > 0, 0.7, 0.3)
    weight = {"expectile": side, "quantile": side / np.abs(a), "linex": 0.8 * np.abs(np.expm1(0.8 * a)) / np.abs(a)}[value_loss]
    share = [np.mean(np.asarray(chosen)[:, 0] == k) for k in range(3)]
    np.testing.assert_allclose(share, weight / weight.sum(), atol=0.01)


@pytest.mark.slow
def test_one_candidate_is_the_clone() -> None:
    """Nothing is chosen, and no critic is asked."""
    algorithm, policy, observation, drawn, _ = parts("diffusion", num_candidates=1)
    action, _ = quick(algorithm.act)(policy, (), observation, jax.random.key(3))
    np.testing.assert_allclose(action, drawn[0], atol=1e-5)
    without = policy | {"critic": jax.tree.map(jnp.zeros_like, policy["critic"])}
    np.testing.assert_array_equal(quick(algorithm.act)(without, (), observation, jax.random.key(3))[0], action)


def test_which_critics_judge() -> None:
    _, _, state, _ = setup("diffusion")
    for judge, params in (("target", state.target_critic_params), ("online", state.critic.params)):
        policy = idql.make(config(judge=judge), SPEC).policy(state)
        assert trees_equal(policy["critic"], params)
        assert trees_equal(policy["behavior"], state.ema_params)


# ---------------------------------------------------------------------------------------------------------- impossible


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (idql.Config(act=idql.Act(num_denoising_steps=6)), "act.num_denoising_steps = 6 is more than .* = 5 of training"),
        (idql.Config(clone="flow", schedule="cosine"), "schedule = 'cosine' is of a noise schedule, and clone='flow' has none"),
        (idql.Config(clone="flow", num_diffusion_steps=10), "num_diffusion_steps = 10 is of a noise schedule"),
        (idql.Config(clone="flow", act=idql.Act(noise_scale=0.5)), "act.noise_scale = 0.5 is of a diffusion sampler"),
        (idql.Config(normalize_value_input=True, layer_norm=True), "unset it, or set critic_activation='relu'"),
    ],
)
def test_settings_that_do_not_fit_together(method: idql.Config, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        idql.make(method, SPEC)
    assert "\n" not in str(error.value)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.act\.num_candidates must be at least 1"):
        validate_method(idql.Config(act=idql.Act(num_candidates=0)))


def test_a_flow_may_take_more_steps() -> None:
    idql.make(config(**FLOW, act=idql.Act(num_denoising_steps=20)), SPEC)
