"""One run's batch over several devices: the numbers of one device, gradients averaged by the compiler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_trees_close, make_dataset, quick_compilation, runs_of

from diffrl.algorithms import bc, sgp, srpo
from diffrl.registry import make
from diffrl.training.chunk import make_chunk
from diffrl.training.devices import RUN, SHARED, DeviceError, make_mesh, place
from diffrl.training.train import init_states
from diffrl.types import Spec

SPEC = Spec.plain(3, 2)
SRPO = srpo.Config(
    behavior_hidden_dim=16, behavior_blocks=1, critic_hidden_dims=(16,), policy_hidden_dims=(16,), behavior_batch_size=64
)


def train(config: Any, stage: int, num_runs: int, batch_devices: int, devices: list[jax.Device]) -> tuple[Any, Any, str]:
    """Five updates: states, metrics, and the compiled program."""
    rng = np.random.default_rng(0)
    data = make_dataset(rng.normal(size=(64, 3)), rng.uniform(-1, 1, (64, 2)), rng.normal(size=64), terminal=rng.random(64) < 0.2)
    algorithm, runs = make(config, SPEC), runs_of(config, num_runs)
    mesh = make_mesh(num_runs, devices, batch_devices)
    states = place(init_states(algorithm, runs), mesh, RUN)
    alive, keys = place((jnp.ones(num_runs, bool), runs.keys), mesh, RUN)
    arguments = (states, alive, keys, {}, *place((data, jnp.int32(0)), mesh, SHARED))
    with quick_compilation():
        states, _, metrics = make_chunk(algorithm.stages[stage], 5, mesh)(*arguments)
        return jax.device_get(states), jax.device_get(metrics), str(states.step.sharding)


SGP = sgp.Config(hidden_dim=16, batch_size=64)
SCORE = 2  # the stage whose noise levels are a table


SLOW = [pytest.param(*one, marks=pytest.mark.slow) for one in ((SRPO, 0), (SRPO, 1), (SRPO, 2), (SGP, SCORE))]


@pytest.mark.parametrize(("config", "stage"), [(bc.Config(hidden_dims=(16,)), 0), *SLOW])
def test_two_runs_on_four_devices_each_equal_one_device(config: Any, stage: int) -> None:
    """Noise, dropout and diffusion times too are those of the whole batch."""
    states, metrics, _ = train(config, stage, 2, 4, jax.devices())
    expected, expected_metrics, _ = train(config, stage, 2, 1, jax.devices()[:1])
    assert_trees_close(states, expected, rtol=1e-3, atol=1e-5)
    assert_trees_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    assert len(np.unique(metrics[min(name for name in metrics if name.endswith("/loss"))])) == 2


def test_a_mesh_needs_its_devices() -> None:
    assert make_mesh(2, batch_devices=4).shape == {"run": 2, "batch": 4}
    assert make_mesh(5, batch_devices=4).shape == {"run": 2, "batch": 4}
    assert make_mesh(1, batch_devices=3).shape == {"run": 1, "batch": 3}
    with pytest.raises(DeviceError, match="batch_devices=9 needs as many devices; there are 8"):
        make_mesh(1, batch_devices=9)
