"""The benchmark's yardsticks: what XLA's programs say of themselves, and the same updates run three ways."""

import jax
import jax.numpy as jnp
import pytest
from support import quick_compilation, unchecked

from diffrl.algorithms import bc
from diffrl.benchmarks import limits
from diffrl.benchmarks.stages import COLUMNS, Problem, stages
from diffrl.config import Config, DatasetConfig


def loop(length: int, products: int) -> str:
    """The compiled text of a scan whose body multiplies matrices, each product followed by one that it depends on."""

    def body(x: jax.Array, m: jax.Array) -> tuple[jax.Array, None]:
        for _ in range(products):
            x = jnp.sin(x @ m)
        return x, None

    # Too large for XLA to merge a product with its neighbour.
    scan = jax.jit(lambda x, ms: jax.lax.scan(body, x, ms)[0])
    return scan.lower(jnp.ones((128, 128)), jnp.ones((length, 128, 128))).compile().as_text()


def test_kernels_grow_with_what_a_pass_does_and_not_with_passes() -> None:
    one, two, five = (limits.kernels(loop(8, products)) for products in (1, 2, 5))
    assert one > 0
    assert two - one == (five - two) / 3
    assert limits.kernels(loop(64, 2)) == two
    assert limits.kernels(jax.jit(lambda x: x + 1).lower(jnp.ones(3)).compile().as_text()) == 0


def test_arithmetic_and_traffic_of_a_product() -> None:
    """2 n³ FLOPs, and three matrices moved."""
    x = jnp.ones((256, 256))
    compiled = jax.jit(lambda a, b: a @ b).lower(x, x).compile()
    assert limits.flops(compiled) == pytest.approx(2 * 256**3, rel=0.01)
    assert limits.bytes_accessed(compiled) == pytest.approx(3 * x.nbytes, rel=0.01)


@pytest.mark.slow
def test_three_ways_are_measured() -> None:
    problem = Problem(3, 2, 200)
    config = Config(algorithm=bc.Config(hidden_dims=(8,), batch_size=16), dataset=DatasetConfig())
    with quick_compilation(), unchecked():
        rows = list(stages("bc", config, problem, [1, 3], [], 0.01, 2, rates=lambda: (1e11, 1e10)))
    assert [(row.way, row.runs) for row in rows] == [("host loop", 1), ("scan", 1), ("runs", 3)]
    assert rows[0].of_host_loop == 1.0
    assert all(row.updates_per_second > 0 for row in rows)
    assert rows[1].of_host_loop == pytest.approx(rows[1].updates_per_second / rows[0].updates_per_second)
    # A forward and a backward pass through [3, 8, 2] for 16 rows, and the optimiser, of each run.
    assert 3 * 2 * 16 * (3 * 8 + 8 * 2) * 0.6 < rows[2].flops_per_update < 20_000
    assert rows[2].of_ceiling == pytest.approx(rows[2].flops_per_update * rows[2].updates_per_second / 1e11)
    assert all(len(row.cells()) == len(COLUMNS) for row in rows)


@pytest.mark.slow
def test_what_an_update_costs_does_not_depend_on_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As XLA counts it; four runs to each of eight devices, all together and one at a time, and half of them."""
    config, found = Config(algorithm=bc.Config(hidden_dims=(8,), batch_size=16), dataset=DatasetConfig()), []
    for count, cache in ((32, 2**30), (32, 1), (16, 1)):
        monkeypatch.setattr("diffrl.training.chunk.CACHE_BYTES", cache)
        with quick_compilation(), unchecked():
            found += stages("bc", config, Problem(3, 2, 200), [count], [], 0.01, 2, host=False, rates=lambda: (1e11, 1e10))
    together, turns, half = found
    assert turns.flops_per_update == pytest.approx(together.flops_per_update, rel=0.02)
    assert (turns.flops_per_update, turns.bytes_per_update) == (half.flops_per_update, half.bytes_per_update)
    assert turns.kernels_per_update == half.kernels_per_update
