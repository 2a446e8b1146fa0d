"""Segments of interaction, as the loop moves them on: environments and buffers of all runs, and the iterations over them."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffrl.algorithm import Algorithm
from diffrl.config import Config, OnlineConfig
from diffrl.data import replay as replays
from diffrl.data.dataset import Dataset
from diffrl.envs.protocol import HostEnvironments
from diffrl.training.checkpoint import Progress
from diffrl.training.devices import RUN, pad, padded_size, place, sharding_of
from diffrl.training.loop import Population, Programs, Saver, Segment
from diffrl.training.online.environment import World, stage_of
from diffrl.training.online.interaction import (
    DeviceLoop,
    Environments,
    HostLoop,
    RunState,
    empty_replay,
    first_episodes,
    interact,
)
from diffrl.training.pace import Pace
from diffrl.training.runs import Runs
from diffrl.types import Key, Metrics, State


class OnlinePhase:
    """The states of all runs, none of which are parked, with their environments and buffers.

    Transitions lie in the workdir's `replay`, each in the one file of the checkpoint that came after it.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        segment: Segment,
        step: int,
        config: Config,
        world: World,
        runs: Runs,
        population: Population,
        environments: Environments | None,
        diverged: dict[int, int],
        data: Dataset | None,
        mesh: Mesh,
        save: Saver,
        workdir: Path,
    ) -> None:
        """Begin the first episodes, or go on with those of a checkpoint.

        Args:
            step: at which the phase begins: the interaction's start, or where it was left.
            environments: as they were saved, `[R, ...]`; None to begin with new episodes.
            diverged: runs that stand still.
            data: rows that batches are drawn from beside the buffer's, placed on the devices.

        Raises:
            ReplayError: transitions are missing.
        """
        size, online, envs = padded_size(runs.size, mesh), config.online, world.envs
        self.start, self.turn, self.data, self._save, self.path = segment.start, segment.turn, data, save, workdir / "replay"
        self.keys = place(pad(runs.keys, size), mesh, RUN)
        self.done, self.world = segment.turns(step), world
        self.warmup = online.warmup_steps // online.turn
        if environments is None:
            environments = jax.jit(_fresh(algorithm, world, online))(population.states, self.keys)
            if self.done:
                replays.give_up_episodes(self.path, self.done)
        stage = stage_of(algorithm)
        empty = jax.tree.map(lambda x: jnp.zeros((runs.size, *x.shape), x.dtype), empty_replay(stage, world.spec, config))
        self.runs = RunState(
            algorithm=population.states,
            environments=place(pad(environments, size), mesh, RUN),
            replay=place(pad(replays.restored(empty, self.path, self.done), size), mesh, RUN),
            alive=place(pad(np.array([run not in diverged for run in range(runs.size)]), size), mesh, RUN),
        )
        self.cohort = population.cohort
        parts = interact(algorithm, stage, world.spec, world.card, config, envs.max_episode_steps, first_update=segment.start)
        if isinstance(envs, HostEnvironments):
            self.loop: DeviceLoop | HostLoop = HostLoop(parts, envs, config, runs, size, mesh)
        else:
            self.loop = DeviceLoop(parts, envs, config, mesh)

    @property
    def programs(self) -> Programs:
        """See `loop.Phase`."""
        return self.loop.programs

    @property
    def population(self) -> Population:
        """See `loop.Phase`."""
        return Population(self.cohort, self.runs.algorithm, None)

    def advance(self, step: int, turns: int) -> Metrics:
        """See `loop.Phase`."""
        first = (step - self.start) // self.turn
        self.runs, metrics = self.loop(self.runs, self.data, self.keys, first, turns, first >= self.warmup)
        return metrics

    def pace(self, step: int, per_chunk: int, most: int) -> Pace:
        """See `loop.Phase`."""
        pace, first = Pace(per_chunk, any_length=isinstance(self.loop, HostLoop)), (step - self.start) // self.turn
        if isinstance(self.loop, DeviceLoop):
            pace.expect(self.loop.flops(self.runs, self.data, self.keys, first, most, first >= self.warmup))
        return pace

    def save(self, progress: Progress) -> None:
        """The transitions first: a checkpoint that is there has its own."""
        done = (progress.step - self.start) // self.turn
        with jax.transfer_guard("allow"):  # reading the rings is meant
            replays.save_rows(self.path, self.runs.replay.rows[: len(self.cohort.index)], self.done, done)
        self.done = done
        self._save(self.population, progress, self.runs.environments if self.world.on_device else None)


def abstract_environments(
    algorithm: Algorithm, world: World, online: OnlineConfig, states: State, runs: Runs, mesh: Mesh
) -> Environments:
    """Shapes, dtypes and shardings of saved environments `[R, ...]` for those of the states."""
    sharding = sharding_of(runs.size, mesh)
    shapes = jax.eval_shape(_fresh(algorithm, world, online), states, runs.keys)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _fresh(algorithm: Algorithm, world: World, online: OnlineConfig) -> Callable[[State, Key], Environments]:
    env = None if isinstance(world.envs, HostEnvironments) else world.envs
    return functools.partial(first_episodes, algorithm, env, world.spec, online.num_envs)
