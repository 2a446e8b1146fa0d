"""What a stage of training costs, beside a host loop and the machine's own limits, and what choosing an action costs."""

import copy
import dataclasses
import importlib.metadata
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrl.benchmarks import limits
from diffrl.benchmarks.host_loop import host_loop
from diffrl.benchmarks.limits import timed
from diffrl.config import Config, ConfigError, find, override, validate_method
from diffrl.data.columns import attach
from diffrl.data.dataset import Dataset
from diffrl.registry import REGISTRY, make, name_of
from diffrl.training.chunk import runs_together
from diffrl.training.cost import compile_chunk, inputs, measure, shapes
from diffrl.training.devices import make_mesh
from diffrl.training.memory import tree_bytes
from diffrl.training.runs import Runs, make_runs
from diffrl.training.train import init_states
from diffrl.types import Spec

HOST_LOOP, SCAN, RUNS = "host loop", "scan", "runs"  # ways of running the same updates: see `host_loop`
SLOW = 0.25  # seconds of choosing one action


class Problem(NamedTuple):
    """Sizes of a dataset. Its values do not matter to cost, so they are random."""

    observation_dim: int
    action_dim: int
    rows: int

    def spec(self, method: Any) -> Spec:
        """What a method's config is told of them; one that takes no vectors has as many discrete actions."""
        plain = Spec.plain(self.observation_dim, self.action_dim)
        if "box" in REGISTRY[name_of(method)].actions:
            return plain
        return dataclasses.replace(plain, action_low=(0.0,) * self.action_dim, num_actions=self.action_dim)

    def dataset(self) -> Dataset:
        width = 2 * self.observation_dim + self.action_dim + 3
        rows = np.random.default_rng(0).uniform(-1.0, 1.0, (self.rows, width)).astype(np.float32)
        rows[:, -2:] = 0.0  # neither terminal nor timeout
        return Dataset(
            jnp.asarray(rows),
            observation_dim=self.observation_dim,
            action_dim=self.action_dim,
            episode_start=jnp.zeros(self.rows, jnp.int32),
            episode_end=jnp.full(self.rows, self.rows, jnp.int32),
        )


class StageTime(NamedTuple):
    """Cost of one stage of a method, for some number of runs. Of the host loop only the rate is measured."""

    method: str
    stage: str
    way: str  # HOST_LOOP, SCAN or RUNS
    runs: int
    updates_per_second: float  # of all runs together
    of_host_loop: float
    flops_per_update: float  # of one run, as XLA counts them
    of_ceiling: float  # share of the machine's rate of matrix products
    bytes_per_update: float  # of one run, as XLA counts them, caches or not
    of_bandwidth: float
    kernels_per_update: int  # of the runs that advance together on a device
    compile_seconds: float
    second_compile_seconds: float  # with what the first left in the persistent cache
    memory_bytes: int  # arguments, results and temporaries of the compiled chunk, all devices

    def cells(self) -> tuple[str, ...]:
        """For a table whose heads are `COLUMNS`."""
        rate = (self.method, self.stage, self.way, str(self.runs), f"{self.updates_per_second:,.1f}", f"{self.of_host_loop:.2f}")
        if self.way == HOST_LOOP:
            return (*rate, *[""] * (len(COLUMNS) - len(rate)))
        return (
            *rate,
            f"{self.flops_per_update / 1e9:.3f}",
            f"{100 * self.of_ceiling:.0f} %",
            f"{self.bytes_per_update / 1e6:,.1f}",
            f"{100 * self.of_bandwidth:.0f} %",
            str(self.kernels_per_update),
            f"{self.compile_seconds:.1f}",
            f"{self.second_compile_seconds:.1f}",
            f"{self.memory_bytes / 1e6:,.0f}",
        )


COLUMNS = ("method", "stage", "way", "runs", "updates/s", "against host loop", "GFLOP/update", "of ceiling", "MB/update")
COLUMNS += ("of bandwidth", "kernels/update", "compile s", "again s", "memory MB")


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
    name: str,
    config: Config,
    problem: Problem,
    run_counts: list[int],
    names: list[str],
    seconds: float,
    chunks: int,
    host: bool = True,
    longest: float = float("inf"),
    rates: Callable[[], tuple[float, float]] = limits.rates,
) -> Iterator[StageTime]:
    """Time every stage of a config by each way and for each number of runs; chunks are sized to last about `seconds`.

    Args:
        name: for the results.
        names: of the stages; empty for all.
        host: whether to run the host loop and the scan too.
        longest: seconds; numbers of runs whose update would take longer, by the one before, are left out.
        rates: FLOP/s and bytes/s of all devices; asked before every stage, since shared machines do not keep their speed.
    """
    algorithm = make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
    dataset = attach(problem.dataset(), algorithm.columns)
    # A scan is the program of one run, so that one run needs no measurement of its own beside it.
    ways = [(SCAN, 1)] * host + [(RUNS, count) for count in run_counts if count > 1 or not host]
    for stage in algorithm.stages:
        if names and stage.name not in names:
            continue
        per_host = float("nan")
        if host:
            per_host = host_loop(algorithm, stage, _runs(config, 1), dataset, seconds, chunks)
            yield StageTime(name, stage.name, HOST_LOOP, 1, per_host, 1.0, *[0] * 8)
        ceiling, bandwidth = rates()
        one = 0.0
        for way, count in ways:
            if count * one > longest:
                continue
            runs = _runs(config, count)
            mesh = make_mesh(count, jax.devices()[:1] if way == SCAN else None)
            given = inputs(algorithm, stage, runs, dataset, mesh)
            together = runs_together(tree_bytes(given.states) // len(given.keys), len(given.keys) // mesh.shape["run"], mesh)
            cost = measure(stage, mesh, given, seconds, chunks)
            turn = cost.program
            if together * mesh.shape["run"] < len(given.keys):
                # XLA counts one pass of the loop over turns, but the states of all: a program of one turn has neither.
                runs = _runs(config, together * mesh.shape["run"])
                turn = compile_chunk(stage, 2, mesh, shapes(algorithm, stage, runs, dataset, mesh))
            flops, moved = limits.flops(turn) / together, limits.bytes_accessed(turn) / together
            rate = count * cost.updates_per_second
            one = 1.0 / rate
            yield StageTime(
                method=name,
                stage=stage.name,
                way=way,
                runs=count,
                updates_per_second=rate,
                of_host_loop=rate / per_host,
                flops_per_update=flops,
                of_ceiling=flops * rate / ceiling,
                bytes_per_update=moved,
                of_bandwidth=moved * rate / bandwidth,
                kernels_per_update=limits.kernels(turn.as_text()),
                compile_seconds=cost.compile_seconds,
                second_compile_seconds=cost.second_compile_seconds,
                memory_bytes=cost.memory_bytes * mesh.size,
            )


def _runs(config: Config, count: int) -> Runs:
    return make_runs(dataclasses.replace(config, num_seeds=count, sweep=""))


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


def acting_configs(
    wanted: dict[str, Config], texts: list[str], problem: Problem, strict: bool = True
) -> list[tuple[str, dict[str, str], Config]]:
    """Name, variant and config of all that is to act: every method as it is, and with the variants it has the settings for.

    Args:
        strict: these variants were asked for. Others may suit only some methods.

    Raises:
        ConfigError: a method is impossible as it is; `strict` and no method has a variant's settings, or one of its values is
            impossible.
    """
    for name, config in wanted.items():
        _refuse_impossible(name, config, problem)
    found, used = [(name, {}, config) for name, config in wanted.items()], set()
    for text in filter(None, texts):
        for name, config in wanted.items():
            if not _has(config.algorithm, axes_of(text)):
                continue
            used.add(text)
            for variant in variants([text]):
                changed = copy.deepcopy(config)
                for setting, value in variant.items():
                    override(changed.algorithm, f"{setting}={value}")
                try:
                    _refuse_impossible(name, changed, problem)
                except ConfigError:
                    if strict:
                        raise
                else:
                    found.append((name, variant, changed))
    unused = [text for text in texts if text and text not in used and wanted]
    if unused and strict:
        raise ConfigError(f"--variants={unused[0]!r}: no method here has these settings")
    return found


def _refuse_impossible(name: str, config: Config, problem: Problem) -> None:
    try:
        validate_method(config.algorithm)
        make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
    except ValueError as error:
        raise ConfigError(f"--variants, {name}: {error}") from error


def _has(method: Any, settings: Iterable[str]) -> bool:
    try:
        return all(find(method, setting) for setting in settings)
    except ConfigError:
        return False


def acting(
    name: str, variant: dict[str, str], config: Config, problem: Problem, batches: list[int], seconds: float, chunks: int
) -> Iterator[ActionTime]:
    """Time one run's `act` from observations on the host to actions on the host: the median of `chunks` calls or more."""
    algorithm = make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
    policy = algorithm.policy(jax.tree.map(lambda x: x[0], init_states(algorithm, _runs(config, 1))))
    key = jax.random.key(0)
    act = jax.jit(algorithm.act)
    for batch in batches:
        observation = np.random.default_rng(0).normal(size=(batch, problem.observation_dim)).astype(np.float32)
        carry = algorithm.init_carry(policy, batch)
        call = lambda: np.asarray(act(policy, carry, observation, key)[0])  # noqa: B023, E731
        once = timed(call, 1)[0]
        calls = min(max(chunks, int(seconds / once)), 20 * chunks)
        yield ActionTime(name, variant, batch, statistics.median(timed(call, calls)))
        if once > SLOW:
            break  # a planner, whose larger batches would take minutes
