"""Noise schedules: how much of the data is left at time t. No reinforcement learning in this folder.

Every process here is x_t = α_t x_0 + σ_t z with z ~ N(0, I); t = 0 is data, t = 1 is noise. A schedule is α, σ and the
inverse of the log signal-to-noise ratio λ = log(α/σ); all else in this folder is written in those.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Shaped


@runtime_checkable
class Path(Protocol):
    """Weights of the data, α(t), and of what they are mixed with, σ(t): noise, or samples of a source (`bridges.py`)."""

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]: ...

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]: ...


@runtime_checkable
class Schedule(Path, Protocol):
    """A path to noise, and the time at which log(α/σ) has a given value."""

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]: ...


def over(values: Shaped[Array, "batch *some"], like: Shaped[Array, "batch *dims"]) -> Shaped[Array, "batch *ones"]:
    """One number per example, shaped to broadcast over all that an example has: a vector, or a sequence of them."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


class LinearVP(NamedTuple):
    """Continuous variance-preserving diffusion with linear β(t) (Song et al. 2021, eq. 33).

    log α_t = -t² (β₁ - β₀)/4 - t β₀/2 and σ_t² = 1 - α_t². At t = i/T this is also the discrete "vp" table of T steps:
    its β_i integrate β(t) over one step exactly.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        # expm1: 1 - α² loses half the digits of float32 near t = 0.
        return jnp.sqrt(-jnp.expm1(2.0 * self.log_alpha(t)))

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        # The positive root of t² Δ/2 + t β₀ = -2 log α, without cancellation (Lu et al. 2022, app. D.4).
        weight = jnp.logaddexp(-2.0 * log_snr, 0.0)  # = -2 log α
        slope = self.beta_max - self.beta_min
        return 2.0 * weight / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2.0 * slope * weight))


class CosineVP(NamedTuple):
    """α_t = cos(π/2 · (t + s)/(1 + s)) over its value at 0 (Nichol & Dhariwal 2021, eq. 17); α_1 is `alpha_end`.

    The paper's table has β ≤ 0.999, which leaves √0.001 of the last but one α at the end; T steps are `alpha_end` =
    `CosineVP.clipped(T)`.
    """

    offset: float = 0.008
    alpha_end: float = 1e-4

    @classmethod
    def clipped(cls, num_steps: int, offset: float = 0.008) -> "CosineVP":
        """The schedule whose values at t = i/T are the paper's table of T steps with β clipped at 0.999."""
        angle = 0.5 * math.pi * (1.0 - 1.0 / num_steps + offset) / (1.0 + offset)
        first = math.cos(0.5 * math.pi * offset / (1.0 + offset))
        return cls(offset, math.sqrt(1e-3) * math.cos(angle) / first)

    def _angle(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        first = math.cos(0.5 * math.pi * self.offset / (1.0 + self.offset))
        return jnp.maximum(jnp.cos(self._angle(t)) / first, self.alpha_end)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        # 1 - α² = sin(a - a₀) sin(a + a₀) / cos² a₀, with a - a₀ written out: exact near t = 0, and 0 there.
        first = 0.5 * math.pi * self.offset / (1.0 + self.offset)
        moved = 0.5 * math.pi * t / (1.0 + self.offset)
        exact = jnp.sin(moved) * jnp.sin(moved + 2.0 * first) / math.cos(first) ** 2
        return jnp.sqrt(jnp.clip(exact, 0.0, 1.0 - self.alpha_end**2))

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        first = math.cos(0.5 * math.pi * self.offset / (1.0 + self.offset))
        alpha = jnp.exp(-0.5 * jnp.logaddexp(-2.0 * log_snr, 0.0))
        return jnp.clip(2.0 / math.pi * jnp.arccos(alpha * first) * (1.0 + self.offset) - self.offset, 0.0, 1.0)


def _between(values: np.ndarray, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Linear between values at t = 0, 1/S, …, 1, constant beyond. Equal steps need no search, as jnp.interp would make."""
    table, last = jnp.asarray(values), len(values) - 1
    position = jnp.clip(t, 0.0, 1.0) * last
    i = jnp.minimum(position.astype(jnp.int32), last - 1)
    return table[i] + (position - i) * (table[i + 1] - table[i])


class TableVP(NamedTuple):
    """A discrete variance-preserving table: log α at t = 0, 1/T, …, 1; linear in between."""

    log_alphas: tuple[float, ...]

    @classmethod
    def from_betas(cls, betas: tuple[float, ...]) -> "TableVP":
        """α_i² = Π_{j ≤ i} (1 - β_j)."""
        return cls((0.0, *(0.5 * np.cumsum(np.log1p(-np.asarray(betas)))).tolist()))

    @classmethod
    def linear(cls, num_steps: int, first: float = 1e-4, last: float = 2e-2) -> "TableVP":
        """β from 1e-4 to 2e-2 (Ho et al. 2020, sec. 4), for 1,000 steps; fewer steps leave more of the data at t = 1."""
        return cls.from_betas(tuple(np.linspace(first, last, num_steps).tolist()))

    @property
    def _knots(self) -> np.ndarray:
        return np.linspace(0.0, 1.0, len(self.log_alphas), dtype=np.float32)

    def _log_alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return _between(np.asarray(self.log_alphas, np.float32), t)

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.sqrt(-jnp.expm1(2.0 * self._log_alpha(t)))

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        log_alpha = -0.5 * jnp.logaddexp(-2.0 * log_snr, 0.0)
        return jnp.interp(-log_alpha, -jnp.asarray(self.log_alphas, jnp.float32), self._knots)


class VE(NamedTuple):
    """Variance-exploding: α = 1, σ geometric from `sigma_min` to `sigma_max` (Song et al. 2021, eq. 31)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.ones_like(t)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return (-log_snr - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


class TableVE(NamedTuple):
    """A list of noise levels added to the data, α = 1 (Song & Ermon 2019): σ at t = 1, 1 - 1/S, …, 1/S; linear in between.

    `sigmas` fall; the first is that of t = 1. Level i of S is at t = 1 - i/S.
    """

    sigmas: tuple[float, ...]

    @classmethod
    def cosine(cls, sigma_max: float, sigma_min: float, num_levels: int) -> "TableVE":
        """(σ_max - σ_min) (1 + cos(π i/(S - 1)))/2 + σ_min: Suh et al. 2023, their code."""
        angle = np.linspace(0.0, np.pi, num_levels)
        return cls(tuple((0.5 * (sigma_max - sigma_min) * (1.0 + np.cos(angle)) + sigma_min).tolist()))

    @classmethod
    def geometric(cls, sigma_max: float, sigma_min: float, num_levels: int) -> "TableVE":
        """Equal ratios (Song & Ermon 2019, sec. 4.2)."""
        return cls(tuple(np.geomspace(sigma_max, sigma_min, num_levels).tolist()))

    @property
    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        rising = np.array((0.0, *reversed(self.sigmas)), np.float32)
        return np.linspace(0.0, 1.0, len(rising), dtype=np.float32), rising

    def index(self, t: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
        """The level nearest to t."""
        count = len(self.sigmas)
        return jnp.clip(jnp.round(count * (1.0 - t)).astype(jnp.int32), 0, count - 1)

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.ones_like(t)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return _between(self._knots[1], t)

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        times, sigmas = self._knots
        return jnp.interp(jnp.exp(-log_snr), sigmas, times)


class EDM(NamedTuple):
    """α = 1 and σ^(1/ρ) linear in t: equal steps of t are the noise levels of Karras et al. 2022, eq. 5."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return jnp.ones_like(t)

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        low, high = self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)
        return (low + t * (high - low)) ** self.rho

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        low, high = self.sigma_min ** (1.0 / self.rho), self.sigma_max ** (1.0 / self.rho)
        return (jnp.exp(-log_snr / self.rho) - low) / (high - low)


class RectifiedFlow(NamedTuple):
    """The straight line x_t = (1 - t) x_0 + t z (Liu et al. 2023; Lipman et al. 2023)."""

    def alpha(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return 1.0 - t

    def sigma(self, t: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return t

    def time(self, log_snr: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        return 1.0 / (1.0 + jnp.exp(log_snr))


class Level(NamedTuple):
    """One noise level (scalars), or a sequence of them (arrays `[N]`)."""

    t: Array
    alpha: Array
    sigma: Array

    @property
    def log_snr(self) -> Array:
        return jnp.log(self.alpha) - jnp.log(self.sigma)


def level_at(schedule: Schedule, t: Float[Array, "*batch"]) -> Level:
    """The level or levels at times t."""
    return Level(t, schedule.alpha(t), schedule.sigma(t))


class Grid(NamedTuple):
    """The noise levels that a sampler visits, from noise to data.

    Attributes:
        schedule: whose levels they are.
        levels: arrays `[num_steps + 1]`.
        to_data: the last level is the data itself (σ = 0), where no network is asked.
    """

    schedule: Schedule
    levels: Level
    to_data: bool

    @property
    def num_steps(self) -> int:
        return self.levels.t.shape[0] - 1

    def __getitem__(self, index: int | Array) -> Level:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Level(*(values[index] for values in self.levels))


def grid(
    schedule: Schedule,
    num_steps: int,
    *,
    t_max: float = 1.0,
    t_min: float | None = None,
    spacing: str = "time",
    table: int | None = None,
) -> Grid:
    """`num_steps` steps from `t_max` down to the data, or to `t_min` where one is given.

    Args:
        spacing: "time" for equal steps of t; "log_snr" for equal steps of λ, from λ(t_max) to λ(`t_min` or 1e-3).
        table: round times to multiples of 1/`table`, the levels that a model of a discrete process was trained on.

    Raises:
        ValueError: fewer than one step, an unknown spacing, more steps than the table has, or equal steps of λ from where it is
            not finite (α = 0, as at t = 1 of a rectified flow).
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if spacing not in ("time", "log_snr"):
        raise ValueError(f"spacing must be 'time' or 'log_snr', got {spacing!r}")
    if table is not None and num_steps > table:
        raise ValueError(f"num_steps must be at most {table}, the levels of the discrete process, got {num_steps}")
    to_data = t_min is None
    with jax.ensure_compile_time_eval():  # the levels are constants of the program
        if spacing == "time" and to_data and float(schedule.sigma(jnp.float32(0.0))) == 0.0:
            t = jnp.linspace(t_max, 0.0, num_steps + 1)[:-1]
        elif spacing == "time":
            t = jnp.linspace(t_max, t_min or 0.0, num_steps if to_data else num_steps + 1)
        else:
            ends = level_at(schedule, jnp.array([t_max, t_min or 1e-3])).log_snr
            if not jnp.isfinite(ends[0]):
                raise ValueError(f"λ is not finite at t_max = {t_max}: start below it, or use spacing='time'")
            t = schedule.time(jnp.linspace(ends[0], ends[1], num_steps if to_data else num_steps + 1))
        if table is not None:
            t = jnp.round(t * table) / table
        levels = level_at(schedule, t)
        if to_data:
            data = (0.0, 1.0, 0.0)
            levels = Level(*(jnp.append(values, end) for values, end in zip(levels, data, strict=True)))
    return Grid(schedule, levels, to_data)
