"""A policy as a StableHLO program, by `jax.export`: any number of environments, CPU, GPU and TPU; weights inside."""

from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from diffrl.export.check import TOLERANCE, difference, example
from diffrl.export.description import BATCH, Tensor, tensors_in, tensors_out
from diffrl.export.function import Acting, ExportError
from diffrl.export.written import Written

PLATFORMS = ("cpu", "cuda", "tpu")


def write(acting: Acting, name: str, tolerance: float = TOLERANCE) -> Written:
    """(observation, carries, seed where it draws) -> (action, carries). Environment i draws from `fold_in(key(seed), i)`.

    Raises:
        ExportError: a package is missing, or the program acts otherwise than JAX.
    """
    inputs = tensors_in(acting, (BATCH,), seeded=True)
    count = len(acting.carry)

    def act(observation: Array, *rest: Array) -> tuple[Array, ...]:
        key = jax.random.key(rest[count] if acting.random else 0)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(observation.shape[0]))
        action, carry = jax.vmap(acting.by_key)(observation, list(rest[:count]), keys)
        return (action, *carry)

    (batch,) = export.symbolic_shape(BATCH)
    program = export.export(jax.jit(act), platforms=PLATFORMS)(*(_abstract(tensor, batch) for tensor in inputs))
    try:
        data = bytes(program.serialize())
    except ImportError as error:
        raise ExportError("StableHLO needs the package flatbuffers: pip install 'diffrl[export]'") from error
    read = jax.jit(export.deserialize(bytearray(data)).call)
    apart = difference(jax.jit(act), read, inputs, acting.spec, tolerance=tolerance)
    versions = {"jax": version("jax"), "calling_convention": str(program.calling_convention_version)}
    given = example(inputs, acting.spec)
    return Written(
        {name: data}, inputs, tensors_out(acting, (BATCH,)), apart, versions, lambda: jax.block_until_ready(read(*given))
    )


def _abstract(tensor: Tensor, batch: Any) -> Any:
    return jax.ShapeDtypeStruct([batch if size == BATCH else size for size in tensor.shape], np.dtype(tensor.dtype))
