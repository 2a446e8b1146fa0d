"""Topology: hosts, the mesh, placement on it, padding of the run axis. The only file that knows how many devices there are."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffrl import machine
from diffrl.errors import UserError

RUN = PartitionSpec("run")
BATCH = PartitionSpec("batch")
SHARED = PartitionSpec()


class DeviceError(UserError, RuntimeError):
    """The devices or hosts that were asked for cannot be had; the message says what there is."""


def configure(cpu_devices: int = 0, cache_dir: Path | None = None) -> None:
    """Settings that must precede the first use of JAX.

    Args:
        cpu_devices: number of devices that host cores present themselves as; 0 means one per core. Runs on separate
            devices proceed in parallel where one device would only split its matrix products: on two cores that made a
            twin critic's updates 1.2 (256 wide) to 1.45 (128 wide) times faster. Without effect on GPU and TPU.
        cache_dir: where compiled programs persist; None uses JAX_COMPILATION_CACHE_DIR or the user's cache folder. Programs
            that compile in less than a second do too, which JAX leaves out: second starts are up to a fifth shorter.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cpu_devices or machine.cores())
    if cache_dir is None and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache_dir = machine.cache_folder() / "xla"
    if cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def join_hosts(coordinator: str = "", num_hosts: int = 0, host: int = -1, timeout: int = 30) -> None:
    """Make one machine of several processes, each of which calls this before its first use of JAX.

    Args:
        coordinator: "address:port" at which process 0 can be reached; empty to find out from the scheduler.
        num_hosts, host: number of processes and this one's number; 0 and -1 to find out.
        timeout: seconds of silence after which a process counts as dead and all others stop.

    Does nothing where no coordinator is given and neither Slurm (a step of several tasks) nor a TPU slice says that there are
    several processes.

    Raises:
        DeviceError: only some of the three are given, or the others do not answer.
    """
    given = [bool(coordinator), num_hosts > 0, host >= 0]
    detected = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if not any(given) and not detected:
        return
    if any(given) and not all(given):
        raise DeviceError("--coordinator, --num_hosts and --host go together (or none of them, under Slurm and on TPU slices)")
    explicit = {"coordinator_address": coordinator, "num_processes": num_hosts, "process_id": host} if all(given) else {}
    try:
        jax.distributed.initialize(**explicit, heartbeat_timeout_seconds=timeout, initialization_timeout=10 * timeout)
    except (RuntimeError, ValueError) as error:
        where = f"the coordinator {coordinator}" if coordinator else "the scheduler's coordinator"
        raise DeviceError(f"the {num_hosts or ''} processes did not meet at {where}: {error}") from error


def is_primary() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def make_mesh(num_runs: int, devices: Sequence[Any] | None = None, batch_devices: int = 1) -> Mesh:
    """A mesh (run, batch) with no more devices than runs on the first axis, and `batch_devices` of them for each on the second.

    Raises:
        DeviceError: there are not that many devices, or with several hosts, more devices than runs.
    """
    devices = jax.devices() if devices is None else devices
    rows = min(len(devices) // batch_devices, num_runs)
    if rows == 0:
        raise DeviceError(f"batch_devices={batch_devices} needs as many devices; there are {len(devices)}")
    used = devices[: rows * batch_devices]
    if len({device.process_index for device in used}) < jax.process_count():
        raise DeviceError(
            f"{num_runs} runs on {batch_devices} devices each leave some of {jax.process_count()} hosts idle: train more runs in "
            "this program, or use fewer hosts"
        )
    return Mesh(np.array(used).reshape(rows, batch_devices), ("run", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


def padded_size(num_runs: int, mesh: Mesh) -> int:
    """Smallest multiple of the run axis' device count that holds all runs."""
    devices = mesh.shape["run"]
    return -(-num_runs // devices) * devices


def pad(tree: Any, size: int) -> Any:
    """Extend the leading axis to `size` with copies of the last entry. They are computed and thrown away."""

    def extend(x: Any) -> Any:
        return x if x.shape[0] == size else x[jnp.minimum(jnp.arange(size), x.shape[0] - 1)]

    return jax.tree.map(extend, tree)


def place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Put a tree on the mesh: RUN splits the leading axis, SHARED copies to every device. Each host sends its own part only."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    with jax.transfer_guard("allow"):  # placing is meant, wherever it happens
        return jax.tree.map(put, tree)


def map_runs(function: Callable[..., Any], mesh: Mesh, in_specs: Any = RUN) -> Callable[..., Any]:
    """`shard_map` over the run axis, with results split over it too.

    The batch axis is left to XLA's partitioner only where it splits anything: with it jnp.searchsorted fails (JAX 0.10.2).
    """
    axes = {"run"} if mesh.shape["batch"] > 1 else set(mesh.axis_names)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=RUN, axis_names=axes)


def sharding_of(rows: int, mesh: Mesh) -> NamedSharding:
    """Of arrays `[rows, ...]` that need no padding: split over runs where that divides, else a copy on every device."""
    return NamedSharding(mesh, RUN if rows % mesh.shape["run"] == 0 else SHARED)


def fetch(tree: Any, mesh: Mesh) -> Any:
    """A tree of device arrays as numpy arrays, whole on every host."""
    if jax.process_count() > 1:
        tree = _replicate(mesh)(tree)
    return jax.device_get(tree)


def any_host(flag: bool) -> bool:
    """Whether any host says so. All hosts must ask together."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    with jax.transfer_guard("allow"):
        return bool(multihost_utils.process_allgather(np.array(flag)).any())


@cache
def _replicate(mesh: Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, SHARED))
