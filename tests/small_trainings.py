"""Trainings of a second, in process: cloning with eight units on 64 rows."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import Source
from diffrl.registry import make
from diffrl.training.checkpoint import Checkpoints
from diffrl.training.devices import make_mesh
from diffrl.training.runs import abstract_states, make_runs
from diffrl.types import Spec

UPDATES = 20


def source() -> Source:
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(64, 3)), rng.uniform(-1, 1, (64, 2))
    return from_arrays(observation=observation, action=action, reward=rng.normal(size=64), terminal=np.zeros(64), id="tests")


def config_of(method: Any = None, **changes: Any) -> Config:
    method = method or bc.Config(hidden_dims=(8,), num_updates=UPDATES, batch_size=8)
    every: dict[str, Any] = {"dataset": DatasetConfig(), "num_seeds": 3, "updates_per_chunk": 10, "checkpoint_every": 10}
    return Config(method, **(every | changes))


def state_of(config: Config, workdir: Path, step: int) -> Any:
    """Of all runs."""
    algorithm, runs, checkpoints = make(config.algorithm, Spec.plain(3, 2)), make_runs(config), Checkpoints(workdir)
    index = np.array(checkpoints.progress(step).rows)
    abstract = abstract_states(algorithm, runs, int(index.max()) + 1, make_mesh(1))
    return jax.tree.map(lambda x: x[index], jax.device_get(checkpoints.restore_state(step, abstract)))
