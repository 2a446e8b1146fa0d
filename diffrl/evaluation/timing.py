"""Measurements of cost: stages of training against the machine's own matrix-product rate, and the time of an action."""

import importlib.metadata
import itertools
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.config import Config, ConfigError, override
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.evaluation import floor
from diffrl.evaluation.env_timing import EnvTime
from diffrl.evaluation.floor import timed
from diffrl.evaluation.stage_cost import compile_chunk, inputs, measure
from diffrl.evaluation.strategies import StrategyTime
from diffrl.registry import make
from diffrl.training.devices import make_mesh, padded_size
from diffrl.training.runs import make_runs
from diffrl.training.train import init_states
from diffrl.types import Spec


class Problem(NamedTuple):
    """Sizes of a dataset. Its values do not matter to cost, so they are random."""

    observation_dim: int
    action_dim: int
    rows: int

    def spec(self) -> Spec:
        return Spec.plain(self.observation_dim, self.action_dim)

    def dataset(self) -> Dataset:
        width = 2 * self.observation_dim + self.action_dim + 3
        rows = np.random.default_rng(0).uniform(-1.0, 1.0, (self.rows, width)).astype(np.float32)
        rows[:, -2:] = 0.0  # neither terminal nor timeout
        return Dataset(jnp.asarray(rows), observation_dim=self.observation_dim, action_dim=self.action_dim)


class StageTime(NamedTuple):
    """Cost of one stage with some number of runs in one program."""

    stage: str
    runs: int
    updates_per_second: float  # of each run
    compile_seconds: float
    memory_bytes: int  # arguments, results and temporaries of the compiled chunk, all devices
    flops_per_update: float  # of one run, counted by XLA
    flops_per_second: float  # of all runs
    of_ceiling: float
    bytes_per_update: float  # of one run, as XLA counts them, caches or not
    of_bandwidth: float
    kernels_per_update: int  # of all runs that share a device

    def cells(self) -> tuple[str, ...]:
        return (
            self.stage,
            str(self.runs),
            f"{self.updates_per_second:,.1f}",
            f"{self.updates_per_second * self.runs:,.1f}",
            f"{self.compile_seconds:.1f}",
            f"{self.memory_bytes / 1e6:,.0f}",
            f"{self.flops_per_update / 1e9:.3f}",
            f"{self.flops_per_second / 1e9:,.0f}",
            f"{100 * self.of_ceiling:.0f} %",
            f"{self.bytes_per_update / 1e6:,.1f}",
            f"{100 * self.of_bandwidth:.0f} %",
            str(self.kernels_per_update),
        )


class ActionTime(NamedTuple):
    """Cost of choosing actions: one call from host observations to host actions."""

    method: str
    variant: dict[str, str]  # settings that differ from the experiment's
    batch: int
    seconds_per_call: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.method,
            ", ".join(f"{name} {value}" for name, value in self.variant.items()),
            str(self.batch),
            f"{self.seconds_per_call * 1e6:,.0f}",
            f"{self.batch / self.seconds_per_call:,.0f}",
        )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), **versions}


def stages(
    config: Config,
    problem: Problem,
    run_counts: list[int],
    names: list[str],
    seconds: float,
    chunks: int,
    ceiling: float,
    bandwidth: float,
) -> Iterator[StageTime]:
    """Time every stage of a config for each number of runs; chunks are sized to last about `seconds`.

    Args:
        ceiling, bandwidth: FLOP/s and bytes/s of all devices, see `floor`.
    """
    algorithm = make(config.algorithm, problem.spec())
    dataset = attach(problem.dataset(), algorithm.columns)
    for stage in algorithm.stages:
        if names and stage.name not in names:
            continue
        for count in run_counts:
            config.num_seeds, config.sweep = count, ""
            runs = make_runs(config)
            mesh = make_mesh(runs.size)
            given = inputs(algorithm, stage, runs, dataset, mesh)
            on_device = padded_size(runs.size, mesh) / mesh.shape["run"]
            once = compile_chunk(stage, 1, mesh, given)
            flops, moved = floor.flops(once) / on_device, floor.bytes_accessed(once) / on_device
            launches = floor.kernels(compile_chunk(stage, 3, mesh, given).as_text())  # a loop of one pass would be no loop
            cost = measure(stage, mesh, given, seconds, chunks)
            rate = cost.updates_per_second
            yield StageTime(
                stage=stage.name,
                runs=count,
                updates_per_second=rate,
                compile_seconds=cost.compile_seconds,
                memory_bytes=cost.memory_bytes * mesh.size,
                flops_per_update=flops,
                flops_per_second=flops * rate * count,
                of_ceiling=flops * rate * count / ceiling,
                bytes_per_update=moved,
                of_bandwidth=moved * rate * count / bandwidth,
                kernels_per_update=launches,
            )


def axes_of(text: str) -> dict[str, list[str]]:
    """ "name=v1,v2 name=v1" -> the values of each name, in order.

    Raises:
        ConfigError: a word is not of that form.
    """
    axes: dict[str, list[str]] = {}
    for word in text.split():
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise ConfigError(f"--variants: {word!r} is not of the form name=v1,v2")
        axes[name] = values.split(",")
    return axes


def variants(texts: list[str]) -> list[dict[str, str]]:
    """All combinations of each text's axes, one text after another; the experiment as it is where there are none."""
    found = []
    for axes in map(axes_of, texts):
        found += [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return found or [{}]


def acting_config(config: Config, variant: dict[str, str], problem: Problem) -> Config:
    """The config with a variant's settings, known to make an Algorithm; its runs are one.

    Raises:
        ConfigError: a setting is unknown or impossible.
    """
    for name, value in variant.items():
        override(config.algorithm, f"{name}={value}")
    config.num_seeds, config.sweep = 1, ""
    try:
        make(config.algorithm, problem.spec())
    except ValueError as error:
        raise ConfigError(f"--variants: {error}") from error
    return config


def acting(
    name: str, variant: dict[str, str], config: Config, problem: Problem, batches: list[int], chunks: int
) -> Iterator[ActionTime]:
    """Time one run's `act` from observations on the host to actions on the host, median over calls."""
    algorithm = make(config.algorithm, problem.spec())
    policy = algorithm.policy(jax.tree.map(lambda x: x[0], init_states(algorithm, make_runs(config))))
    key = jax.random.key(0)
    act = jax.jit(algorithm.act)
    for batch in batches:
        observation = np.random.default_rng(0).normal(size=(batch, problem.observation_dim)).astype(np.float32)
        carry = algorithm.init_carry(policy, batch)
        call = lambda: np.asarray(act(policy, carry, observation, key)[0])  # noqa: B023, E731
        yield ActionTime(name, variant, batch, statistics.median(timed(call, 20 * chunks)))


def markdown(results: dict[str, Any], columns: tuple[str, ...]) -> str:
    """The tables as a page, machine and versions first."""
    lines = [
        "# Benchmark",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items()),
        f"float32 matrix products: {results['matmul_ceiling_flops'] / 1e9:,.0f} GFLOP/s; passes over memory: "
        f"{results['copy_bytes_per_second'] / 1e9:,.1f} GB/s",
        "",
        f"## Training: {results['config']}",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(StageTime(**row).cells()) + " |" for row in results["training"]),
        "",
        "## Ways to run the same updates",
        "",
        "H: host loop, numpy batches, one call per update. S: one run, data on the device, scanned. R: the run axis.",
        "",
        "| stage | way | runs | updates/s of all | against H |",
        "| --- | --- | --- | --- | --- |",
        *("| " + " | ".join(StrategyTime(**row).cells()) + " |" for row in results["strategies"]),
        "",
        "## Acting",
        "",
        "| method | settings | batch | microseconds/call | actions/s |",
        "| --- | --- | --- | --- | --- |",
        *("| " + " | ".join(ActionTime(**row).cells()) + " |" for row in results["acting"]),
        "",
        "## Environments",
        "",
        "| task | simulator | environments | steps/s |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(EnvTime(**row).cells()) + " |" for row in results["environments"]),
    ]
    return "\n".join(lines) + "\n"
