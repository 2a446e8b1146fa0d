"""A segment of updates on a dataset, as the loop moves it on."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError
from diffrl.data.dataset import Dataset
from diffrl.training.checkpoint import Progress
from diffrl.training.chunk import make_chunk, make_prepare, runs_together
from diffrl.training.devices import RUN, SHARED, padded_size, place
from diffrl.training.loop import Population, Programs, Saver, Segment
from diffrl.training.memory import free_bytes, on_host, tree_bytes
from diffrl.training.pace import Pace
from diffrl.training.runs import Runs
from diffrl.training.slabs import Slabs, Whole
from diffrl.types import Metrics


def forecast_prepared(algorithm: Algorithm, dataset: Dataset, runs: Runs, mesh: Mesh) -> list[str]:
    """What the stages will compute once over the data, and the memory that it takes, in words.

    Args:
        dataset: with all columns, or its shapes.

    Raises:
        ConfigError: a device has no room for that of its runs.
    """
    words, key = [], jax.random.key(0)
    state = jax.eval_shape(algorithm.init, key, algorithm.hparams)
    on_device, free = padded_size(runs.size, mesh) // (1 if on_host() else mesh.shape["run"]), free_bytes()
    for stage in algorithm.stages:
        if stage.prepare is None:
            continue
        columns = jax.eval_shape(stage.prepare, state, dataset, key)
        size = tree_bytes(columns)
        what = f"{stage.name} first computes {', '.join(columns)} for all {dataset.size:,} rows, {size / 1e6:,.3g} MB per run"
        if on_device * size > free:
            raise ConfigError(
                f"{what}: {on_device * size / 1e9:,.3g} GB for {on_device} runs, and {free / 1e9:,.3g} GB are free. Train fewer "
                "runs at once (--config.num_seeds; launch/sweep.py shares them out by itself), or fewer rows, or change the "
                "method's settings"
            )
        words.append(what)
    return words


class OfflinePhase:
    """A population, and the rows that its batches are drawn from."""

    def __init__(
        self,
        algorithm: Algorithm,
        segment: Segment,
        step: int,
        config: Config,
        runs: Runs,
        population: Population,
        diverged: dict[int, int],
        data: Whole | Slabs,
        mesh: Mesh,
        save: Saver,
    ) -> None:
        """Prepare what the stage computes once over the data.

        Args:
            step: at which the phase begins: the segment's beginning, or where it was left.
            diverged: runs that stand still.
        """
        cohort = population.cohort
        alive = np.array([run not in diverged for run in range(len(cohort.index))])
        self.alive = place(cohort.padded(alive, mesh), mesh, RUN)
        self.keys = place(cohort.padded(runs.keys, mesh), mesh, RUN)
        self.stage, self.start = algorithm.stages[segment.index], segment.start
        self.data, self.mesh, self._save, self.log_norms = data, mesh, save, config.log_norms
        self.population, self.programs = population, Programs()
        data.begin(self.stage, config.updates_per_chunk)
        self.prepared = make_prepare(self.stage, mesh)(population.states, self.keys, data.at(step - self.start))

    def advance(self, step: int, turns: int) -> Metrics:
        """See `loop.Phase`."""
        states, self.alive, metrics = self.programs((turns,), self._chunk, *self._given(step))
        self.population = self.population._replace(states=states)
        return metrics

    def pace(self, step: int, per_chunk: int, most: int) -> Pace:
        """See `loop.Phase`."""
        pace, states, size = Pace(per_chunk), self.population.states, len(self.keys) // self.mesh.shape["run"]
        # Two operations for each example and number, of parameters and of an optimiser, is near the truth and costs nothing;
        # a method that samples inside its updates does more, as its program says.
        pace.expect(tree_bytes(states) / 2 / self.mesh.shape["run"] * self.stage.batch_size)
        passes = size // runs_together(tree_bytes(states) // len(self.keys), size, self.mesh)
        pace.expect(passes * self.programs.flops((min(pace.turns, most),), self._chunk, *self._given(step)))
        return pace

    def _given(self, step: int) -> tuple:
        rows, count = self.data.at(step - self.start), place(np.int32(step), self.mesh, SHARED)
        return self.population.states, self.alive, self.keys, self.prepared, rows, count

    def save(self, progress: Progress) -> None:
        """See `loop.Phase`."""
        self._save(self.population, progress)

    def _chunk(self, turns: int) -> Any:
        return make_chunk(self.stage, turns, self.mesh, self.log_norms)
