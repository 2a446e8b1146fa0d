"""Diffusion is free of rank: what it does to vectors `[B, D]` it does to sequences `[B, L, A]` of the same numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from diffrl.diffusion.dpm_solver import dpm_solver
from diffrl.diffusion.guidance import best_of, classifier_free, energy_guided, self_weighted, softmax_of
from diffrl.diffusion.objectives import denoising_loss, perturb
from diffrl.diffusion.samplers import Solver, ancestral, boxed, ddim, heun, langevin, sample
from diffrl.diffusion.schedules import LinearVP, grid, level_at
from diffrl.diffusion.targets import TARGETS, Model, Prediction, as_model, clipped, combine, split

SCHEDULE, KEY = LinearVP(), jax.random.key(0)
BATCH, LENGTH, ACTION = 5, 4, 3
SEQUENCE, VECTOR = (BATCH, LENGTH, ACTION), (BATCH, LENGTH * ACTION)
DATA, NOISE = jax.random.normal(KEY, SEQUENCE), jax.random.normal(jax.random.key(1), SEQUENCE)
T = jnp.linspace(0.1, 0.9, BATCH)  # of each example its own


def predict(x: Array, t: Array) -> Array:
    """A network that works on each number by itself, and on the example's time."""
    return jnp.sin(x) * t.reshape(t.shape + (1,) * (x.ndim - 1))


MODEL = as_model(predict, SCHEDULE)


def same(function: Callable[[Array, Array], Array | Prediction]) -> None:
    """`function(data, noise)` of sequences is that of vectors, reshaped."""
    found = function(DATA, NOISE)
    expected = function(DATA.reshape(VECTOR), NOISE.reshape(VECTOR))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape in ((), SEQUENCE)
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-6)


def test_perturbation() -> None:
    same(lambda data, noise: perturb(SCHEDULE, data, T, noise))


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"karras"}))
def test_targets(target: str) -> None:
    same(lambda data, noise: combine(target, SCHEDULE, T, Prediction(data, noise)))
    same(lambda data, noise: split(target, SCHEDULE, T, data, noise))


@pytest.mark.parametrize("weight", [None, lambda t: t])
def test_loss_sums_over_all_of_an_example(weight: Callable[[Array], Array] | None) -> None:
    same(lambda data, noise: denoising_loss(predict, SCHEDULE, data, KEY, weight=weight))


def test_a_weight_may_be_of_every_number() -> None:
    def loss(factor: float) -> float:
        return float(denoising_loss(predict, SCHEDULE, DATA, KEY, weight=lambda t: jnp.full(SEQUENCE, factor)))

    assert loss(2.0) == pytest.approx(2.0 * loss(1.0), rel=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        ddim(),
        ddim(1.0),
        ancestral(),
        heun(),
        dpm_solver(2),
        dpm_solver(3, multistep=False),
        langevin(ddim()),
        boxed(ddim(), -1.0, 1.0),
    ],
    ids=["ddim", "eta", "ancestral", "heun", "dpm2m", "dpm3s", "langevin", "boxed"],
)
def test_samplers(solver: Solver) -> None:
    same(lambda data, noise: sample(clipped(MODEL, -2.0, 2.0), grid(SCHEDULE, 4), solver, KEY, noise))


def test_guided_models() -> None:
    level = level_at(SCHEDULE, jnp.float32(0.5))
    models: list[Model] = [
        energy_guided(MODEL, lambda x, level: -jnp.sum(x.reshape(BATCH, -1) ** 2, axis=-1), 0.5),
        classifier_free(MODEL, clipped(MODEL, -1.0, 1.0), 2.0),
    ]
    for model in models:
        same(lambda data, noise, model=model: model(data, level))


def test_self_weighted_guidance_of_each_element() -> None:
    """An element `(a, w)` of a sequence is guided as it is alone, at the same time."""

    def joint(x: Array, t: Array) -> tuple[Array, Array]:
        noise = predict(x, t)
        return noise[..., :-1], noise[..., -1:] + 0.1 * jnp.sum(x, axis=-1, keepdims=True)

    model, level = self_weighted(joint, -10.0, 10.0, 2.0), level_at(SCHEDULE, jnp.float32(0.5))
    found, expected = model(DATA, level), model(DATA.reshape(-1, ACTION), level)
    np.testing.assert_allclose(found.epsilon.reshape(-1, ACTION), expected.epsilon, rtol=1e-5, atol=1e-6)


def test_choices_take_whole_sequences() -> None:
    candidates, values = jnp.stack([DATA, NOISE]), jax.random.normal(KEY, (2, BATCH))
    flat = candidates.reshape(2, *VECTOR)
    np.testing.assert_array_equal(best_of(candidates, values).reshape(VECTOR), best_of(flat, values))
    np.testing.assert_array_equal(softmax_of(KEY, candidates, values).reshape(VECTOR), softmax_of(KEY, flat, values))
