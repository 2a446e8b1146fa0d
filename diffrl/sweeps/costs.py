"""What the groups of a sweep cost on this machine, and how they are split where their runs do not fit into its memory."""

import dataclasses
import functools
import statistics
from typing import NamedTuple

import jax
import numpy as np

from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError
from diffrl.data.dataset import Dataset
from diffrl.sweeps.parts import Part, share_out, split_group
from diffrl.sweeps.plan import Group
from diffrl.sweeps.subjects import Subject
from diffrl.training.cohort import equal_runs
from diffrl.training.cost import compile_chunk, inputs, peak_bytes, prepare_seconds, run_chunks, shapes
from diffrl.training.devices import make_mesh, padded_size
from diffrl.training.loop import ONLINE
from diffrl.training.memory import free_bytes, on_host, tree_bytes
from diffrl.training.online.environment import stage_of
from diffrl.training.online.interaction import empty_replay
from diffrl.training.runs import Runs, make_runs
from diffrl.training.slabs import rows_per_slab

SHARE = 0.8  # of the memory: on a CPU a training was seen to take up to a fifth more than its programs say
SHORT, CHUNKS = 20, 5  # updates of a measured chunk, and how many of them


class Limit(NamedTuple):
    """Memory that a program may use.

    Attributes:
        bytes: in all.
        source: where the number comes from, in words.
        shared: whether all devices share it, as a host's cores do; else each device has it to itself.
    """

    bytes: int
    source: str
    shared: bool


class StageCost(NamedTuple):
    """The cost of one stage of one training. Times are of the stage's updates and what it prepares, without compiling.

    `distinct_runs` are really trained: runs that differ only in what later stages read share this one.
    """

    stage: str
    runs: int
    distinct_runs: int
    updates: int
    memory_bytes: int  # as `Limit` counts it
    updates_per_second: float | None = None
    seconds: float | None = None


def limit_of(memory_gb: float) -> Limit:
    """`memory_gb` where it is positive, else most of a device's memory, or of what the host has left for all."""
    shared = on_host()
    if memory_gb > 0:
        return Limit(int(memory_gb * 1e9), "as --memory_gb says", shared)
    whose = "what the host has left" if shared else jax.devices()[0].device_kind
    return Limit(int(SHARE * free_bytes()), f"{SHARE:.0%} of {whose}", shared)


def fit(group: Group, subject: Subject, limit: Limit, length: int | None = None) -> list[Part]:
    """The group's runs in as few parts as the memory allows: by seeds, and where one seed is too much by points.

    Args:
        group, subject, limit: what must fit where.
        length: of the chunks that are compiled; the trainer's own by default, so that it finds these programs in the cache.

    Raises:
        ConfigError: a single run does not fit, or the runs do not where they must be compared on the way.
    """

    @functools.cache
    def needed(num_seeds: int, num_points: int) -> int:
        config = dataclasses.replace(group.config, num_seeds=num_seeds)
        runs = make_runs(config, group.points[:num_points])
        return max(cost.memory_bytes for cost in stage_costs(config, runs, subject, limit, length))

    try:
        parts = share_out(group, needed, limit.bytes)
    except ConfigError as error:
        raise ConfigError(f"group {group.label}: {error}, {limit.source}: smaller batches or networks would help") from error
    if len(parts) > 1 and group.config.halving.rungs:
        raise ConfigError(
            f"group {group.label} does not fit into {limit.bytes / 1e9:.3g} GB, {limit.source}, and halving.rungs compares all "
            "its points in one program: sweep fewer seeds or points, or drop the rungs"
        )
    return parts


def stage_costs(
    config: Config, runs: Runs, subject: Subject, limit: Limit, length: int | None = None, timed: bool = False
) -> list[StageCost]:
    """Memory of every stage and, with `timed`, its time by running it on the data. Memory does not depend on a chunk's length."""
    online = [_online_cost(config, subject, runs, limit)] if config.online.env_id else []
    if subject.dataset is None:
        return online
    costs = []
    mesh = make_mesh(runs.size, batch_devices=config.batch_devices)
    algorithm, dataset = subject.algorithm, subject.dataset
    in_turn = 0
    if slab_rows := rows_per_slab(config.dataset.slab_rows, dataset, mesh):
        dataset = jax.tree.map(lambda x: x[:slab_rows], dataset)
        in_turn = 2 * tree_bytes(dataset)  # beside the slab in use, the one before and the one after
    for stage, distinct in zip(algorithm.stages, distinct_runs(algorithm, runs, dataset), strict=True):
        with jax.default_matmul_precision(config.matmul_precision):
            given = (inputs if timed else shapes)(algorithm, stage, distinct, dataset, mesh)
            updates = min(stage.num_updates, length or config.updates_per_chunk)
            chunk = compile_chunk(stage, updates, mesh, given)
            used = in_turn + peak_bytes(chunk, algorithm, stage, distinct, given, mesh, runs.size)
            used *= mesh.size if limit.shared else 1
            cost = StageCost(stage.name, runs.size, distinct.size, stage.num_updates, used)
            if timed:
                preparing = prepare_seconds(stage, mesh, given)
                times, _ = run_chunks(chunk, given, 1 + CHUNKS)
                rate = updates / statistics.median(times[1:])
                cost = cost._replace(updates_per_second=rate, seconds=preparing + stage.num_updates / rate)
        costs.append(cost)
    return costs + online


def predict(group: Group, parts: list[Part], subject: Subject, limit: Limit) -> list[tuple[Group, list[StageCost]]]:
    """Memory and time of the trainings that the group is; parts of equal size are measured once."""
    costs: dict[int, list[StageCost]] = {}
    found = []
    for one in split_group(group, parts):
        if one.num_runs not in costs:
            costs[one.num_runs] = stage_costs(one.config, make_runs(one.config, one.points), subject, limit, SHORT, timed=True)
        found.append((one, costs[one.num_runs]))
    return found


def distinct_runs(algorithm: Algorithm, runs: Runs, dataset: Dataset) -> list[Runs]:
    """For every stage the runs that it trains: of those that nothing has told apart yet the first."""
    found = []
    for same in equal_runs(algorithm, runs, dataset):
        index = np.unique(same)
        found.append(
            Runs(
                seeds=[runs.seeds[run] for run in index],
                points=[runs.points[run] for run in index],
                hparams=jax.tree.map(lambda x, index=index: x[index], runs.hparams),
                keys=runs.keys[index],
            )
        )
    return found


def _online_cost(config: Config, subject: Subject, runs: Runs, limit: Limit) -> StageCost:
    """States, their copies for a checkpoint, buffers and data; what the compiled program needs beside them is not counted."""
    online, stage = config.online, stage_of(subject.algorithm)
    states = jax.eval_shape(jax.vmap(subject.algorithm.init), runs.keys, runs.hparams)
    buffer = jax.eval_shape(lambda: empty_replay(stage, subject.spec, config))
    mesh = make_mesh(runs.size)
    total = padded_size(runs.size, mesh) * (2 * tree_bytes(states) // runs.size + tree_bytes(buffer))
    total += mesh.shape["run"] * (tree_bytes(subject.dataset) if subject.dataset is not None else 0)
    updates = online.num_env_steps // online.turn * online.updates_per_step
    return StageCost(ONLINE, runs.size, runs.size, updates, total if limit.shared else total // mesh.shape["run"])
