"""Topology: the mesh, placement on it, and padding of the run axis. The only file that knows how many devices there are."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

RUN = PartitionSpec("run")
SHARED = PartitionSpec()


def configure(cpu_devices: int = 0, cache_dir: Path | None = None) -> None:
    """Settings that must precede the first use of JAX.

    Args:
        cpu_devices: number of devices that host cores present themselves as; 0 means one per core. Runs on separate
            devices proceed in parallel where one device would only split its matrix products: on two cores that made a
            twin critic's updates 1.2 (256 wide) to 1.45 (128 wide) times faster. Without effect on GPU and TPU.
        cache_dir: where compiled programs persist; None uses JAX_COMPILATION_CACHE_DIR or the user's cache folder.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cpu_devices or len(os.sched_getaffinity(0)))
    if cache_dir is None and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffrl" / "xla"
    if cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir))


def make_mesh(num_runs: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over the run axis, with no more devices than runs. The second axis, `batch`, is for data parallelism."""
    devices = jax.devices() if devices is None else devices
    used = devices[: min(len(devices), num_runs)]
    return Mesh(np.array(used).reshape(-1, 1), ("run", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


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
    """Put a tree on the mesh: RUN splits the leading axis, SHARED copies to every device."""
    return jax.device_put(tree, NamedSharding(mesh, spec))
