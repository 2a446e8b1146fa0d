"""What a learnt score knows of its data, in one and two dimensions, where the truth is known.

The small examples of Suh et al. 2023 (arXiv 2306.14079; github.com/hjsuh94/score_po, `examples/simple_1d` and tests): the
smoothed distance to data and its gradient, and Langevin walks. Nothing has units.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from diffrl.diffusion import empirical
from diffrl.diffusion.objectives import denoising_loss, discrete_times
from diffrl.diffusion.samplers import langevin, sample, still
from diffrl.diffusion.schedules import Grid, TableVE, level_at
from diffrl.diffusion.targets import Model, as_model
from diffrl.learner import Learner, forward
from diffrl.networks.mlp import MLP
from diffrl.networks.noise_conditioned import NoiseConditionedMLP
from diffrl.planning.gradient import level_indices
from diffrl.types import Key, Params

POINTS, SIGMA = np.array([[0.392938], [-0.427721], [-0.546297]], np.float32), 0.2  # of the smoothed likelihood
LOW, HIGH = 3.0, 7.0  # of the uniform distribution
BLUR = 0.1  # noise of the uniform and of the circle, in half ranges of their data
RADIUS = 3.0
BATCH = 256


def fit(
    network: nn.Module,
    inputs: tuple[Array, ...],
    loss: Callable[[Params, Key], Array],
    key: Key,
    updates: int,
    learning_rate: float = 1e-3,
) -> Params:
    """Parameters after `updates` of Adam with a cosine rate on `loss(params, key)`: one compiled program.

    `inputs` have the shapes that the network takes.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, updates))

    @jax.jit
    def train(key: Key) -> Params:
        init_key, loss_key = jax.random.split(key)

        def update(learner: Learner, step: Array) -> tuple[Learner, None]:
            return learner.step(lambda params: loss(params, jax.random.fold_in(loss_key, step)), optimizer)[0], None

        learner = Learner.init(network, optimizer, init_key, *inputs)
        return jax.lax.scan(update, learner, jnp.arange(updates))[0].params

    return train(key)


def learn_score(
    network: MLP | NoiseConditionedMLP,
    data: Float[Array, "rows dim"],
    schedule: TableVE,
    key: Key,
    *,
    updates: int,
) -> Model:
    """Denoising score matching at the levels of `schedule`; the network predicts ε = -σ · score.

    A plain MLP is not told the level, and is for one.
    """

    def predict(params: Params, x: Array, t: Array) -> Array:
        return forward(network, params, *((x, schedule.index(t)) if isinstance(network, NoiseConditionedMLP) else (x,)))

    def loss(params: Params, key: Key) -> Array:
        rows_key, loss_key = jax.random.split(key)
        rows = data[jax.random.randint(rows_key, (BATCH,), 0, len(data))]
        times = discrete_times(len(schedule.sigmas))
        return denoising_loss(lambda x, t: predict(params, x, t), schedule, rows, loss_key, times=times)

    level = () if isinstance(network, MLP) else (jnp.zeros(1, jnp.int32),)
    params = fit(network, (data[:1], *level), loss, key, updates)
    return as_model(lambda x, t: predict(params, x, t), schedule)


class Energies(NamedTuple):
    """Curves `[n]` over x: p_σ, -log p_σ, E_σ, and three gradients of E_σ: exact, of the score network, of a learnt E."""

    x: np.ndarray
    likelihood: np.ndarray
    minus_log_likelihood: np.ndarray
    energy: np.ndarray
    gradient: np.ndarray
    by_score: np.ndarray
    by_distance: np.ndarray


def energies(key: Key, x: Float[np.ndarray, " n"], *, updates: int = 2000) -> Energies:
    """Three points smoothed by σ = 0.2: likelihood, distance, and which network knows the distance's gradient.

    The score network sees noised data only, the distance network the exact E_σ of points uniform in [-3, 3] (L1).
    """
    at, points, schedule = jnp.asarray(x, jnp.float32)[:, None], jnp.asarray(POINTS), TableVE((SIGMA,))
    network = MLP((64,) * 6, 1, activation=nn.elu)
    score_key, distance_key = jax.random.split(key)
    model = learn_score(network, points, schedule, score_key, updates=updates)

    def distance_loss(params: Params, key: Key) -> Array:
        near = jax.random.uniform(key, (BATCH, 1), minval=-3.0, maxval=3.0)
        return jnp.mean(jnp.abs(forward(network, params, near)[:, 0] - empirical.energy(near, points, SIGMA)))

    params = fit(network, (at[:1],), distance_loss, distance_key, updates)

    @jax.jit
    def curves(at: Array) -> tuple[Array, ...]:
        log_likelihood = empirical.log_likelihood(at, points, SIGMA)
        return (
            jnp.exp(log_likelihood),
            -log_likelihood,
            empirical.energy(at, points, SIGMA),
            jax.grad(lambda z: jnp.sum(empirical.energy(z, points, SIGMA)))(at)[:, 0],
            model(at, level_at(schedule, jnp.float32(1.0))).epsilon[:, 0] / SIGMA,
            jax.grad(lambda z: jnp.sum(forward(network, params, z)))(at)[:, 0],
        )

    return Energies(x, *map(np.asarray, curves(at)))


def held(schedule: TableVE, steps: int) -> Grid:
    """`steps` steps over all levels, each held for as long, as planning does while it iterates."""
    index = level_indices(len(schedule.sigmas), steps)
    t = 1.0 - jnp.asarray(np.append(index[:1], index), jnp.float32) / len(schedule.sigmas)
    return Grid(schedule, level_at(schedule, t), False)


def langevin_of_uniform(
    key: Key, *, updates: int = 3000, chains: int = 4000, steps: int = 2000, step: float = 2e-3
) -> Float[np.ndarray, " chains"]:
    """Where chains z ← z + (ε/2) s(z) + √ε n from N(0, 1) end, with a learnt score of U[3, 7] smoothed by 0.1 of its half range.

    z = (x - 5)/2 is what the network sees; `step` is ε, in z's units.
    """
    centre, half, schedule = (LOW + HIGH) / 2.0, (HIGH - LOW) / 2.0, TableVE((BLUR,))
    data_key, fit_key, start_key, walk_key = jax.random.split(key, 4)
    data = jax.random.uniform(data_key, (20_000, 1), minval=-1.0)
    model = learn_score(MLP((128,) * 3, 1, activation=nn.elu), data, schedule, fit_key, updates=updates)
    start = (jax.random.normal(start_key, (chains, 1)) - centre) / half
    walk = langevin(still(), step / (2.0 * BLUR**2))
    end = jax.jit(lambda x: sample(model, held(schedule, steps), walk, walk_key, x))(start)
    return np.asarray(centre + half * end[:, 0])


class Ascent(NamedTuple):
    """Starts and ends `[B, 2]` of gradient ascent on log p_σ of a circle's points, with the exact and with a learnt score."""

    data: np.ndarray
    start: np.ndarray
    exact: np.ndarray
    learnt: np.ndarray


def ascent_to_circle(key: Key, *, updates: int = 3000, chains: int = 200, steps: int = 500, step: float = 0.1) -> Ascent:
    """Langevin walks without noise, z ← z + (ε/2) s(z) from N(0, I), on 1,000 points of a circle of radius 3.

    The exact score has one level, 0.1 radii; the learnt one falls to it from half a radius, because a network knows nothing of
    where its data never were. (Above 1/√2 radii the centre is a mode, where all would meet.) `step` is ε at the last level, in
    the circle's units.
    """
    data_key, fit_key, start_key = jax.random.split(key, 3)
    angle = 2.0 * jnp.pi * jax.random.uniform(data_key, (1000,))
    data = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)  # in radii
    levels, last = TableVE.geometric(0.5, BLUR, 10), TableVE((BLUR,))
    model = learn_score(NoiseConditionedMLP(2, 10, 128, 3), data, levels, fit_key, updates=updates)
    start = jax.random.normal(start_key, (chains, 2)) / RADIUS
    climb = langevin(still(), step / (2.0 * (BLUR * RADIUS) ** 2), noise_scale=0.0)

    def ascend(model: Model, schedule: TableVE) -> np.ndarray:
        end = jax.jit(lambda x: sample(model, held(schedule, steps), climb, fit_key, x))(start)
        return RADIUS * np.asarray(end)

    return Ascent(
        RADIUS * np.asarray(data),
        RADIUS * np.asarray(start),
        ascend(empirical.denoiser(data), last),
        ascend(model, levels),
    )
