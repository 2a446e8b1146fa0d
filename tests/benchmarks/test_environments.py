"""What the benchmark measures of simulators; the figures themselves are the machine's."""

import json

import pytest

from diffrl.benchmarks import environments
from diffrl.envs.gymnasium_backend import BackendError


@pytest.mark.slow
def test_every_simulator_that_has_the_task_is_measured():
    specs = {name: environments.lasting_spec(name) for name in ("PointMaze_UMaze-v3", "HalfCheetah-v5")}
    rows = list(environments.environments(specs, [1, 4], seconds=0.05, mjx=False))
    assert [row[:3] for row in rows] == [
        (name, backend, count)
        for name, backends in (("PointMaze_UMaze-v3", ("jax", "gymnasium")), ("HalfCheetah-v5", ("mujoco", "gymnasium")))
        for backend in backends
        for count in (1, 4)
    ]
    rates = {row[:3]: row.steps_per_second for row in rows}
    assert all(50 < rate < 1e8 for rate in rates.values())
    assert rates["PointMaze_UMaze-v3", "jax", 4] > rates["PointMaze_UMaze-v3", "gymnasium", 4]
    assert environments.EnvTime("a", "b", 8, 1234.5).cells() == ("a", "b", "8", "1,234")


def test_falling_ends_nothing():
    for name in ("Hopper-v5", "Walker2d-v5"):
        assert json.loads(environments.lasting_spec(name))["kwargs"]["terminate_when_unhealthy"] is False
    assert "terminate_when_unhealthy" not in json.loads(environments.lasting_spec("HalfCheetah-v5"))["kwargs"]


def test_unknown_task():
    with pytest.raises(BackendError, match="--tasks: Environment `Hoper` doesn't exist"):
        environments.lasting_spec("Hoper-v5")
