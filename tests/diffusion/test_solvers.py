"""Every solver on every schedule against a probability flow that is known: in one dimension it keeps quantiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support import chosen, gaussian_epsilon, quick_compilation

from diffrl.diffusion.dpm_solver import dpm_solver, fast
from diffrl.diffusion.samplers import Solver, ancestral, boxed, ddim, heun, langevin, midpoint, sample, still
from diffrl.diffusion.schedules import EDM, VE, CosineVP, Grid, Level, LinearVP, RectifiedFlow, Schedule, TableVP, grid, level_at
from diffrl.diffusion.targets import Model, Prediction, as_model, from_epsilon

MEANS, WEIGHTS, STD = np.array([-0.6, 0.5]), np.array([0.3, 0.7]), 0.35
SCHEDULES: dict[str, Schedule] = {
    "linear": LinearVP(),
    "cosine": CosineVP(),
    "ve": VE(0.02, 10.0),
    "edm": EDM(0.02, 10.0),
    "flow": RectifiedFlow(),
}
SOLVERS: dict[str, tuple[Solver, int]] = {
    "ddim": (ddim(), 1),
    "heun": (heun(), 2),
    "midpoint": (midpoint(), 2),
    "dpm2s": (dpm_solver(2, multistep=False), 2),
    "dpm3s": (dpm_solver(3, multistep=False), 3),
    "dpm2m": (dpm_solver(2), 2),
    "dpm3m": (dpm_solver(3), 3),
    "noise2s": (dpm_solver(2, multistep=False, integrand="epsilon"), 2),
    "noise3s": (dpm_solver(3, multistep=False, integrand="epsilon"), 3),
    "noise2m": (dpm_solver(2, integrand="epsilon"), 2),
    "dpm2s-time": (dpm_solver(2, multistep=False, nodes="time"), 2),
    "noise3s-time": (dpm_solver(3, multistep=False, integrand="epsilon", nodes="time"), 3),
}
EACH = chosen([*SOLVERS], *range(6), len(SOLVERS) - 1)


def mixture_model(means: np.ndarray = MEANS, weights: np.ndarray = WEIGHTS) -> Model:
    """The exact prediction for a mixture of N(mean, STD²) in one dimension."""

    def model(x: jax.Array, level: Level) -> Prediction:
        variance = level.alpha**2 * STD**2 + level.sigma**2
        difference = x - level.alpha * means
        weight = jax.nn.softmax(jnp.log(weights) - 0.5 * difference**2 / variance, axis=-1)
        return from_epsilon(x, level, level.sigma * jnp.sum(weight * difference, axis=-1, keepdims=True) / variance)

    return model


def quantile(x: np.ndarray, schedule: Schedule, t: float, means: np.ndarray = MEANS, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """The mixture's distribution function at time t."""
    level = level_at(schedule, jnp.asarray(t))
    alpha, sigma = float(level.alpha), float(level.sigma)
    return norm.cdf(x[:, :1], alpha * means, np.sqrt(alpha**2 * STD**2 + sigma**2)) @ weights


def final_error(
    solver: Solver, schedule: Schedule, steps: int, t_max: float, t_min: float, means: np.ndarray, weights: np.ndarray
) -> float:
    levels = grid(schedule, steps, t_max=t_max, t_min=t_min, spacing="log_snr")
    start = levels[0].sigma * jnp.linspace(-1.5, 1.5, 21)[:, None]
    end = sample(mixture_model(means, weights), levels, solver, jax.random.key(0), start, unroll=False)
    change = quantile(np.asarray(end), schedule, t_min, means, weights) - quantile(
        np.asarray(start), schedule, t_max, means, weights
    )
    return float(np.max(np.abs(change)))


@pytest.mark.parametrize(("data", "schedule"), chosen([("gaussian", "linear"), *(("mixture", name) for name in SCHEDULES)], 1))
@pytest.mark.parametrize("solver", EACH)
def test_order_of_convergence(solver: str, data: str, schedule: str) -> None:
    """The largest error of a quantile falls as steps^-order (double precision, between levels where λ is finite).

    The third-order multistep solver starts with a first-order step, which shows where σ is large at the start.
    """
    means, weights = (np.array([0.2]), np.ones(1)) if data == "gaussian" else (MEANS, WEIGHTS)
    method, order = SOLVERS[solver]
    slack = 0.8 if solver == "dpm3m" else 0.25
    with jax.enable_x64(True), quick_compilation():
        steps = [48, 96, 192]
        errors = [final_error(method, SCHEDULES[schedule], n, 0.95, 0.05, means, weights) for n in steps]
    measured = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert errors[-1] < 0.02
    assert order - slack < measured < order + 0.6, f"errors {errors}"


@pytest.mark.parametrize("schedule", chosen([*SCHEDULES], 4))
@pytest.mark.parametrize("solver", EACH)
def test_noise_to_data(solver: str, schedule: str) -> None:
    """From the schedule's own start to σ = 0 in 60 steps of float32 the quantiles are those of the data."""
    chosen = SCHEDULES[schedule]
    t_max = 0.999 if schedule in ("cosine", "flow") else 1.0  # where α is 0, or held above it
    levels = grid(chosen, 60, t_max=t_max, spacing="log_snr")
    start = levels[0].sigma * jnp.linspace(-1.5, 1.5, 21)[:, None]
    end = sample(mixture_model(), levels, SOLVERS[solver][0], jax.random.key(0), start, unroll=False)
    change = quantile(np.asarray(end), chosen, 0.0) - quantile(np.asarray(start), chosen, t_max)
    assert np.max(np.abs(change)) < (0.05 if solver == "ddim" else 0.012)


def test_euler_of_a_straight_flow_is_exact() -> None:
    """For a point mass the velocity is constant along the line: one step of any solver lands on it."""

    def model(x: jax.Array, level: Level) -> Prediction:
        return Prediction(jnp.full_like(x, 0.7), (x - level.alpha * 0.7) / level.sigma)

    for solver, _ in SOLVERS.values():
        levels = grid(RectifiedFlow(), 1, t_max=0.9)
        end = sample(model, levels, solver, jax.random.key(0), jnp.array([[0.3], [-2.0]]))
        np.testing.assert_allclose(end, 0.7, rtol=1e-6)


STOCHASTIC = {
    "posterior": ancestral(),
    "forward": ancestral("forward"),
    "ddim-eta-1": ddim(1.0),
    "langevin": langevin(ddim(), 0.1, 2),
}


@pytest.mark.parametrize("solver", chosen([*STOCHASTIC], 1))
def test_stochastic_samplers_reach_the_mixture(solver: str) -> None:
    """Mass of each mode and moments with 400 steps, within sampling and discretisation error."""
    n = 20_000
    start = jax.random.normal(jax.random.key(1), (n, 1))
    end = np.asarray(sample(mixture_model(), grid(LinearVP(), 400), STOCHASTIC[solver], jax.random.key(2), start, unroll=False))[
        :, 0
    ]
    mean = MEANS @ WEIGHTS
    std = np.sqrt(STD**2 + WEIGHTS @ (MEANS - mean) ** 2)
    exact = norm.cdf(0.0, MEANS, STD) @ WEIGHTS
    assert np.mean(end < 0.0) == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(n) + 0.005)
    assert end.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(n) + 0.005)
    assert end.std() == pytest.approx(std, rel=0.02)


def test_ancestral_is_ddim_with_eta_one() -> None:
    """Two forms of one sampler for variance-preserving schedules: same key, same result."""
    start, key = jax.random.normal(jax.random.key(0), (32, 1)), jax.random.key(1)
    levels = grid(LinearVP(), 10)
    a, b = (sample(mixture_model(), levels, solver, key, start) for solver in (ancestral(), ddim(1.0)))
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_langevin_alone_forgets_where_it_started() -> None:
    """Corrections at one level draw from that level's marginal: started at 3, they end in N(αm, α²s² + σ²)."""
    schedule, n, t = LinearVP(), 20_000, 0.5
    model = mixture_model(np.array([0.2]), np.ones(1))
    at = level_at(schedule, jnp.full(401, t))
    solver = langevin(still(), 0.02)
    end = np.asarray(sample(model, Grid(schedule, at, False), solver, jax.random.key(3), jnp.full((n, 1), 3.0), unroll=False))
    alpha, sigma = float(at.alpha[0]), float(at.sigma[0])
    std = np.sqrt(alpha**2 * STD**2 + sigma**2)
    assert end.mean() == pytest.approx(0.2 * alpha, abs=4 * std / np.sqrt(n) + 0.01)
    assert end.std() == pytest.approx(std, rel=0.025)
    climb = langevin(still(), 0.02, noise_scale=0.0)
    end = sample(model, Grid(schedule, at, False), climb, jax.random.key(3), jnp.full((2, 1), 3.0), unroll=False)
    np.testing.assert_allclose(end, 0.2 * alpha, atol=1e-2)


@pytest.mark.parametrize(
    "solver", [ancestral(), heun(), dpm_solver(3), langevin(ddim())], ids=["ddpm", "heun", "dpm3m", "langevin"]
)
@pytest.mark.parametrize("history", [False, True])
def test_unrolled_and_scanned_agree(solver: Solver, history: bool) -> None:
    """Same noise, same levels; the history ends in the result."""
    start, levels, key = jax.random.normal(jax.random.key(0), (8, 1)), grid(LinearVP(), 6), jax.random.key(1)
    results = [
        np.asarray(sample(mixture_model(), levels, solver, key, start, unroll=unroll, history=history))
        for unroll in (True, False)
    ]
    np.testing.assert_allclose(*results, atol=1e-5)
    assert results[0].shape == ((7, 8, 1) if history else (8, 1))
    if history:
        end = sample(mixture_model(), levels, solver, key, start)
        np.testing.assert_allclose(results[0][-1], end, atol=1e-5)
        np.testing.assert_array_equal(results[0][0], start)


def test_noise_scale_zero_draws_nothing() -> None:
    """The means alone: keys do not matter."""
    start, levels = jnp.zeros((4, 1)), grid(LinearVP(), 5)
    a, b = (sample(mixture_model(), levels, ancestral(noise_scale=0.0), jax.random.key(seed), start) for seed in (0, 1))
    np.testing.assert_array_equal(a, b)


def test_boxed_holds_every_state() -> None:
    """x itself stays within the box after every step, the last one too."""
    solver = boxed(ancestral(), -0.4, 0.3)
    path = sample(mixture_model(), grid(LinearVP(), 8), solver, jax.random.key(0), jnp.ones((16, 1)), history=True)
    assert np.asarray(path)[1:].max() <= 0.3
    assert np.asarray(path)[1:].min() >= -0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid(LinearVP(), 0), "at least 1"),
        (lambda: grid(LinearVP(), 5, spacing="cubic"), "spacing"),
        (lambda: ancestral("beta"), "variance"),
        (lambda: dpm_solver(4), "order"),
        (lambda: dpm_solver(2, integrand="x"), "integrand"),
        (lambda: dpm_solver(2, nodes="t"), "nodes"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # pyright: ignore[reportCallIssue]


# ------------------------------------------------------------------------------ DPM-Solver-fast, with the times of EDP's code

PAPER = TableVP.linear(1_000)
ONE_GAUSSIAN = gaussian_epsilon([0.2], 0.3, PAPER)


@pytest.mark.parametrize(("evaluations", "std"), chosen([(15, 0.25183), (30, 0.29002), (99, 0.29957)], 0, 1))
def test_spread_of_dpm_solver(evaluations: int, std: float) -> None:
    """For a Gaussian the solver is an affine map: two points give its moments. Blocks and nodes are those of EDP's code."""
    ends = jax.jit(lambda x: fast(PAPER, evaluations, 1e-3)(as_model(ONE_GAUSSIAN, PAPER), x))(jnp.array([[0.0], [1.0]]))
    mean, spread = float(ends[0, 0]), float(ends[1, 0] - ends[0, 0])
    assert mean == pytest.approx(0.1997, abs=1e-4)
    assert spread == pytest.approx(std, abs=1e-5)


@pytest.mark.parametrize(("evaluations", "std"), chosen([(5, 0.06252), (15, 0.13495), (25, 0.16387)], 1))
def test_spread_of_second_order(evaluations: int, std: float) -> None:
    """QGPO's sampler on N(.3, .2²), in double precision by its formulas: narrow, for the last step is a long one in λ."""
    one = gaussian_epsilon([0.3], 0.2, LinearVP())
    walk = fast(LinearVP(), evaluations, 1e-3, order=2, integrand="x0")
    ends = jax.jit(lambda x: walk(as_model(one, LinearVP()), x))(jnp.array([[0.0], [1.0]]))
    assert float(ends[1, 0] - ends[0, 0]) == pytest.approx(std, abs=1e-5)


def test_as_many_steps_of_ddim_are_narrower() -> None:
    """.223 of .3, where DPM-Solver has .252."""
    levels = grid(PAPER, 15, t_min=1e-3)
    ends = jax.jit(lambda x: sample(as_model(ONE_GAUSSIAN, PAPER), levels, ddim(), jax.random.key(0), x, unroll=False))(
        jnp.array([[0.0], [1.0]])
    )
    assert float(ends[1, 0] - ends[0, 0]) == pytest.approx(0.22343, abs=1e-5)


def test_every_evaluation_has_a_time_of_its_own() -> None:
    """Fifteen evaluations on a grid of fifteen equal steps in t, from 1 on."""
    asked: list[float] = []

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        jax.debug.callback(lambda t: asked.append(float(t[0])), t, ordered=True)
        return ONE_GAUSSIAN(x, t)

    jax.block_until_ready(jax.jit(lambda x: fast(PAPER, 15, 1e-3)(as_model(predict, PAPER), x))(jnp.zeros((1, 1))))
    jax.effects_barrier()
    np.testing.assert_allclose(asked, np.linspace(1.0, 1e-3, 16)[:-1], atol=1e-5)
