"""Stochastic interpolants: from samples of a source to data, by what is learnt of the way between them.

x_t = α_t x_0 + σ_t x_1 + γ_t d z with x_0 data, x_1 a sample of the source, z ~ N(0, I) and γ_t = √(2t(1 - t)), which is 0 at
both ends (Albergo, Boffi, Vanden-Eijnden 2023; Chen et al. 2024, BRIDGeR, arXiv 2402.16075). Time runs from data to source here
as everywhere; their papers count 1 - t.

Two things are learnt: where the interpolant is going, free of its schedule (`Interpolant.direction`), and the noise z in it. With
p the interpolant's progress the drift of its marginals is ṗ E[direction] + γ̇ d E[z], and their score is -E[z] / (γ d).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from diffrl.diffusion.objectives import perturb
from diffrl.diffusion.samplers import MAX_UNROLLED
from diffrl.diffusion.schedules import over
from diffrl.diffusion.targets import Prediction, combine
from diffrl.types import Key

T_MIN = 1e-3  # from either end, where 1/γ is not finite; what is learnt is asked no nearer
MAX_INVERSE = 200.0  # of γ, in the authors' steps

Number = Float[Array, ""] | float


class Interpolant(NamedTuple):
    """How data and source are mixed on the way.

    Attributes:
        progress: p(t), 1 at the data.
        through_noise: the source is given up before data come in, and halfway there is noise alone: p is 1 at the source too.
            Otherwise the source has what p leaves.
    """

    progress: Callable[[Array], Array]
    through_noise: bool = False

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Weight of the data."""
        return jnp.where(t < 0.5, self.progress(t), 0.0) if self.through_noise else self.progress(t)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Weight of the source."""
        return jnp.where(t < 0.5, 0.0, self.progress(t)) if self.through_noise else 1.0 - self.progress(t)

    def direction(self, t: Float[Array, "*batch"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """A and B of the target A x_0 + B x_1 for which d(α x_0 + σ x_1) = (A x_0 + B x_1) dp."""
        if self.through_noise:
            return (t < 0.5).astype(t.dtype), (t >= 0.5).astype(t.dtype)
        return jnp.ones_like(t), -jnp.ones_like(t)


InterpolantName = Literal["linear", "power3", "power4", "reverse_linear", "reverse_power3", "reverse_power4", "encode_decode"]
INTERPOLANTS: dict[InterpolantName, Interpolant] = {
    "linear": Interpolant(lambda t: 1.0 - t),
    "power3": Interpolant(lambda t: 1.0 - t**3),
    "power4": Interpolant(lambda t: 1.0 - t**4),
    "reverse_linear": Interpolant(lambda t: 1.0 - jnp.maximum(2.0 * t - 1.0, 0.0)),
    "reverse_power3": Interpolant(lambda t: (1.0 - t) ** 3),
    "reverse_power4": Interpolant(lambda t: (1.0 - t) ** 4),
    "encode_decode": Interpolant(lambda t: jnp.cos(jnp.pi * t) ** 2, through_noise=True),
}

DiffusionName = Literal["none", "linear", "parabola", "root", "square"]
# ε(t) ≥ 0 of the process that is run: any has the same marginals.
DIFFUSIONS: dict[DiffusionName, Callable[[Array], Array]] = {
    "none": jnp.zeros_like,
    "linear": lambda t: t,
    "parabola": lambda t: t * (1.0 - t),
    "root": lambda t: 1.0 - jnp.sqrt(1.0 - t),
    "square": lambda t: 1.0 - (1.0 - t) ** 2,
}


def gamma(t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The weight of d z."""
    return jnp.sqrt(2.0 * t * (1.0 - t))


class Crossing(NamedTuple):
    """What is expected of x_t: where its interpolant is going, and the noise z in it, `[B, …]` each."""

    direction: Array
    noise: Array


Predict = Callable[[Array, Array], Crossing]  # (x_t [B, …], t [B], or [1] for all) -> what is expected of it


def bridge_loss(
    predict: Predict,
    interpolant: Interpolant,
    data: Float[Array, "batch *dims"],
    source: Float[Array, "batch *dims"],
    noise_scale: Number,
    key: Key,
) -> Crossing:
    """E (direction - predicted)² and E (z - predicted)², t ~ U[T_MIN, 1 - T_MIN]: means over all numbers of an example.

    Their gradients are those of the paper's ½ |v|² - ∂_t I · v and ½ |s|² + z · s, but for the weight ṗ² of the first and the
    scale of the second, whose s is -d times this prediction; these have 0 for a floor that can be read.
    """
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, data.shape[:1], minval=T_MIN, maxval=1.0 - T_MIN)
    noise = jax.random.normal(noise_key, data.shape)
    ends = Prediction(data, source)
    x = perturb(interpolant, data, t, source) + over(noise_scale * gamma(t), data) * noise
    goal = combine(lambda _, t: interpolant.direction(t), interpolant, t, ends)
    found = predict(x, t)
    return Crossing(jnp.mean((found.direction - goal) ** 2), jnp.mean((found.noise - noise) ** 2))


class Steps(NamedTuple):
    """Steps from source to data, `[num_steps]`: x + `direction` E[direction] + d (`noise` E[z] + `fresh` ξ), asked at `t`."""

    t: Array
    direction: Array
    noise: Array
    fresh: Array


StepsForm = Literal["exact", "euler", "code"]


def bridge_steps(
    interpolant: Interpolant, num_steps: int, diffusion: DiffusionName = "linear", form: StepsForm = "exact"
) -> Steps:
    """Equal steps of the process dx = (b + ε ∇log p d²) dt + √(2ε) d dW.

    Args:
        form: "exact" moves by what p and γ²/2 change in a step, "euler" by their slopes at its beginning, which for steep
            interpolants is far off in few steps. "code" is the authors': slopes at a step's end, noise times Δt in place of its
            root, and ε once more in the part of γ; it ends too narrow.
    """
    with jax.ensure_compile_time_eval():  # constants of the program
        times = jnp.linspace(1.0, 0.0, num_steps + 1)
        before, after = times[:-1], times[1:]
        width = 1.0 / num_steps
        # A little behind a step's beginning, so that a direction that changes there has changed.
        t = jnp.clip(after if form == "code" else before - T_MIN, T_MIN, 1.0 - T_MIN)
        epsilon, scale = DIFFUSIONS[diffusion](t), 1.0 / gamma(t)
        if form == "exact":
            progress = interpolant.progress(after) - interpolant.progress(before)
            spread = (gamma(after) ** 2 - gamma(before) ** 2) / 2.0
            return Steps(t, progress, (spread - epsilon * width) * scale, jnp.sqrt(2.0 * epsilon * width))
        _, slope = jax.jvp(interpolant.progress, (t,), (-jnp.ones_like(t),))
        spread = 2.0 * t - 1.0  # the slope of γ²/2 = t (1 - t), towards the data
        if form == "euler":
            return Steps(t, slope * width, (spread - epsilon) * width * scale, jnp.sqrt(2.0 * epsilon * width))
        noise = epsilon * (spread - 1.0) * width * jnp.minimum(scale, MAX_INVERSE)
        return Steps(t, slope * width, noise, jnp.sqrt(2.0 * epsilon) * width)


def cross(
    predict: Predict,
    steps: Steps,
    source: Float[Array, "batch *dims"],
    noise_scale: Number,
    key: Key,
    *,
    deterministic: bool = False,
) -> Float[Array, "batch *dims"]:
    """Where the process comes to from these samples of the source.

    Args:
        deterministic: says that `steps.fresh` is 0, so that nothing is drawn.
    """
    num_steps = len(steps.t)
    fresh = jnp.zeros(num_steps) if deterministic else jax.random.normal(key, (num_steps, *source.shape))

    def step(x: Array, given: tuple[Steps, Array]) -> tuple[Array, None]:
        at, fresh = given
        found = predict(x, at.t[None])
        noise = at.noise * found.noise if deterministic else at.noise * found.noise + at.fresh * fresh
        return x + at.direction * found.direction + noise_scale * noise, None

    return jax.lax.scan(step, source, (steps, fresh), unroll=num_steps <= MAX_UNROLLED)[0]
