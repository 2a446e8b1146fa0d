"""Soft value-based decoding against Gaussian closed forms, and what must not change a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import chosen

from diffrl.diffusion.decoding import SoftDecoding, soft_decode, survivors
from diffrl.diffusion.samplers import Solver, ancestral, sample
from diffrl.diffusion.schedules import Level, LinearVP, TableVP, grid
from diffrl.diffusion.targets import Model, Prediction, from_x0

STEPS = 50
TABLE = TableVP.from_betas(tuple(np.linspace(0.002, 0.4, STEPS).tolist()))
NUM = 4_000


def gaussian(condition: jax.Array) -> Model:
    """Of N(0, 1): E[x_0 | x_t] = α x_t."""
    del condition
    return lambda x, level: from_x0(x, level, level.alpha * x)


def reverse_kernel() -> Solver:
    """Exact for N(0, 1): N(√(1 - β) x, β), at the last step too."""

    def step(model: Model, schedule: TableVP, x: jax.Array, here: Level, there: Level, key: jax.Array, memory: tuple):
        ratio = here.alpha / there.alpha
        return ratio * x + jnp.sqrt(1.0 - ratio**2) * jax.random.normal(key, x.shape), memory

    return Solver(step, step)


def reward(condition: jax.Array, x: jax.Array) -> jax.Array:
    return -0.5 * (x[:, 0] - 2.0) ** 2


def exact_value(alpha: float):
    def value(condition: jax.Array, x: jax.Array, level: Level) -> jax.Array:
        return -alpha * (level.alpha * x[:, 0] - 2.0) ** 2 / (2.0 * (alpha + 1.0 - level.alpha**2))

    return value


def decoded(settings: SoftDecoding, exact: bool, seed: int = 0) -> np.ndarray:
    levels = grid(TABLE, STEPS, table=STEPS)
    value = exact_value(settings.temperature) if exact else None

    def draw(key: jax.Array) -> jax.Array:
        return soft_decode(gaussian, reward, levels, reverse_kernel(), key, jnp.zeros((NUM, 1)), 1, settings, value)

    return np.asarray(jax.jit(draw)(jax.random.key(seed)))


@pytest.mark.parametrize(
    ("alpha", "children", "exact", "mean", "std"),
    chosen(
        [
            (1.0, 1, True, 0.0, 1.0),
            (1.0, 5, True, 0.849, 0.757),
            (1.0, 20, True, 0.960, 0.717),
            (0.25, 5, True, 1.415, 0.525),
            (0.25, 20, True, 1.565, 0.463),
            (1.0, 5, False, 1.08, 0.712),
            (1.0, 20, False, 1.216, 0.676),
            (0.25, 20, False, 1.939, 0.373),
        ],
        4,
    ),
)
def test_a_tilted_gaussian(alpha: float, children: int, exact: bool, mean: float, std: float) -> None:
    """The exact value comes to N(2/(1 + α), α/(1 + α)) as the children grow in number, the predicted data's tilts too much."""
    x = decoded(SoftDecoding(num_children=children, temperature=alpha), exact)
    assert x.mean() == pytest.approx(mean, abs=0.04)
    assert x.std() == pytest.approx(std, abs=0.03)


def test_the_best_child_climbs_beyond_the_data() -> None:
    x = decoded(SoftDecoding(num_children=20, temperature=0.0), exact=False)
    assert x.mean() == pytest.approx(2.0, abs=0.003)
    assert x.std() < 0.01


@pytest.mark.slow
def test_chains_of_one_condition_tilt_further() -> None:
    """SVDD-R: each step's choice among chains tilts once more, beyond the target of mean 1.6."""
    alone = decoded(SoftDecoding(num_children=5, temperature=0.25), exact=True)
    together = decoded(SoftDecoding(num_children=5, temperature=0.25, num_chains=4), exact=True)
    assert together.shape == (4, NUM, 1)
    assert alone.mean() < 1.6 < together.mean() < 2.0
    assert together.std() < alone.std()


LEVELS = grid(LinearVP(), 6)


def two_modes(condition: jax.Array) -> Model:
    """±1 with a deviation of .1, shifted by the condition."""

    def model(x: jax.Array, level: Level) -> Prediction:
        centres = jnp.array([-1.0, 1.0]) + condition
        variance = (0.1 * level.alpha) ** 2 + level.sigma**2
        away = x - level.alpha * centres
        share = jax.nn.softmax(-(away**2) / (2.0 * variance), axis=-1)
        x0 = jnp.sum(share * (centres + 0.01 * level.alpha / variance * away), axis=-1, keepdims=True)
        return from_x0(x, level, x0)

    return model


def right(condition: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(x[:, 0] > condition[:, 0], 1.0, 0.0)


def drawn(settings: SoftDecoding, value=right, condition: jax.Array | None = None, seed: int = 0) -> np.ndarray:
    condition = jnp.zeros((NUM, 1)) if condition is None else condition

    def draw(key: jax.Array) -> jax.Array:
        return soft_decode(two_modes, value, LEVELS, ancestral(), key, condition, 1, settings)[0, :, 0]

    return np.asarray(jax.jit(draw)(jax.random.key(seed)))


def test_one_child_is_the_sampler_left_alone() -> None:
    """The same moments, and the same kernel: noise alone differs, whose keys are counted otherwise."""
    x = drawn(SoftDecoding(num_children=1))
    start = jax.random.normal(jax.random.key(1), (NUM, 1))
    plain = np.asarray(sample(two_modes(jnp.zeros((NUM, 1))), LEVELS, ancestral(), jax.random.key(2), start))
    assert x.std() == pytest.approx(plain.std(), rel=0.02)
    assert abs(x.mean()) < 0.05


@pytest.mark.parametrize("change", ["constant", "hot"])
def test_what_says_nothing_changes_nothing(change: str) -> None:
    """A constant value, or a temperature without end: any number of children, and the model's own samples."""
    settings = SoftDecoding(num_children=16, temperature=1.0 if change == "constant" else 1e6)
    x = drawn(settings, (lambda condition, x: jnp.full(len(x), 3.0)) if change == "constant" else right)
    assert (x > 0).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_units_and_offsets_of_the_value_do_not_matter() -> None:
    plain = drawn(SoftDecoding(temperature=0.5))
    np.testing.assert_array_equal(plain, drawn(SoftDecoding(temperature=2.0), lambda s, x: 4.0 * right(s, x)))
    np.testing.assert_allclose(plain, drawn(SoftDecoding(temperature=0.5), lambda s, x: right(s, x) + 8.0), atol=1e-6)


@pytest.mark.parametrize("alpha", chosen([1.0, 0.25], 1))
def test_two_modes_have_their_shares(alpha: float) -> None:
    """r = 1 on the right: e^{1/α} times as often there. The predicted data's value tilts further, never less."""
    share = (drawn(SoftDecoding(num_children=32, temperature=alpha)) > 0).mean()
    assert share >= 1.0 / (1.0 + np.exp(-1.0 / alpha)) - 0.02


def test_each_condition_has_its_own_choice() -> None:
    """Conditions 0 and 10 in one batch: none hears of the other."""
    condition = jnp.tile(jnp.array([[0.0], [10.0]]), (NUM // 2, 1))
    x = drawn(SoftDecoding(num_children=8, temperature=0.0, num_chains=2), condition=condition)
    assert (x[0::2] > 0.0).mean() > 0.85
    assert (x[1::2] > 10.0).mean() > 0.85


def test_selection_may_begin_late() -> None:
    """With no time to choose in, it is the sampler."""
    x = drawn(SoftDecoding(num_children=8, temperature=0.0, select_below=0.0))
    assert (x > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_survivors_by_hand() -> None:
    values = jnp.array([[[1.0, 0.0], [5.0, 2.0]], [[3.0, 4.0], [2.0, 9.0]]])  # 2 children, 2 chains, 2 conditions
    assert survivors(jax.random.key(0), values, 0.0).tolist() == [[2, 7], [2, 7]]
    assert survivors(jax.random.key(0), values[:, :1], 0.0).tolist() == [[2, 3]]


@pytest.mark.slow
def test_calls_are_counted() -> None:
    """The model is asked 1 + M (T - 1) times a sample, or T times beside a value of its own."""
    for noisy, expected in ((None, 1 + 8 * 5), (lambda s, x, level: x[:, 0], 6)):
        asked = []

        def counting(condition: jax.Array, asked: list[int] = asked) -> Model:
            def model(x: jax.Array, level: Level) -> Prediction:
                asked.append(len(x))
                return two_modes(condition)(x, level)

            return model

        soft_decode(counting, right, LEVELS, ancestral(), jax.random.key(0), jnp.zeros((3, 1)), 1, SoftDecoding(8), noisy)
        assert sum(asked) == 3 * expected
