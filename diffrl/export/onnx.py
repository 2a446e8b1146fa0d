"""A policy as an ONNX graph, by jax2onnx, checked by onnxruntime: its draws are inputs, weights inside."""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, export
from jax.extend import core

from diffrl.export.check import TOLERANCE, difference, example
from diffrl.export.description import BATCH, Tensor, tensors_in, tensors_out
from diffrl.export.function import Acting, ExportError, written_out
from diffrl.export.written import Written

OPSET = 21  # what onnxruntime of 2024 and newer reads


def write(acting: Acting, name: str, tolerance: float = TOLERANCE) -> Written:
    """(observation, carries, noise) -> (action, carries); for any number of environments where jax2onnx can, else for one.

    Raises:
        ExportError: a package is missing, jax2onnx cannot convert the policy, or the graph acts otherwise than JAX.
    """
    if acting.undrawable:
        raise ExportError(acting.undrawable)
    try:
        convert, runtime = _converter(), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ExportError(f"ONNX needs {error.name or 'more packages'}: pip install 'diffrl[export]'") from error
    count = len(acting.carry)

    @jax.jit
    def act(observation: Array, *rest: Array) -> tuple[Array, ...]:
        action, carry = jax.vmap(acting.by_draws)(observation, list(rest[:count]), list(rest[count:]))
        return (action, *carry)

    # Some shapes jax2onnx gets wrong where a dimension is not known: the check tells.
    faults: list[str] = []
    for batch, batches in ((BATCH, (1, 4)), (1, (1,))):
        inputs, outputs = tensors_in(acting, (batch,)), tensors_out(acting, (batch,))
        try:
            with _quiet():
                data, opset = _graph(convert, act, inputs, outputs)
            session = _session(runtime, data)
            known = {argument.name for argument in session.get_inputs()}

            def run(*arrays: np.ndarray, session: Any = session, inputs: Any = inputs, known: Any = known) -> list[np.ndarray]:
                given = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True) if tensor.name in known}
                return session.run(None, given)

            apart = difference(act, run, inputs, acting.spec, batches, tolerance)
        except Exception as error:  # converter and runtime each raise their own kinds
            faults.append(f"{error}".splitlines()[0][:200] if f"{error}" else repr(error))
            continue
        once = partial(run, *example(inputs, acting.spec))
        versions = {package: version(package) for package in ("jax", "jax2onnx", "onnx")} | {"opset": str(opset)}
        used = tuple(tensor for tensor in inputs if tensor.name in known)
        return Written({name: data}, used, outputs, apart, versions, once)
    raise ExportError(f"no ONNX graph of this policy: {faults[-1]}; --format=stablehlo has it")


def _graph(convert: Any, act: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[bytes, int]:
    batch: Any = export.symbolic_shape(BATCH)[0] if BATCH in inputs[0].shape else None
    shapes = [[batch if size == BATCH else size for size in tensor.shape] for tensor in inputs]
    abstract = [jax.ShapeDtypeStruct(shape, np.dtype(tensor.dtype)) for shape, tensor in zip(shapes, inputs, strict=True)]
    model = convert(
        core.jaxpr_as_fun(written_out(act, *abstract)),
        abstract,
        model_name="policy",
        opset=OPSET,
        input_names=[tensor.name for tensor in inputs],
        output_names=[tensor.name for tensor in outputs],
    )
    model.producer_name = f"diffrl {version('diffrl')}"
    return model.SerializeToString(), model.opset_import[0].version


def _session(runtime: Any, data: bytes) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it says is said by the check
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _converter() -> Any:
    """jax2onnx's, with what plain operations need: to import all its plugins, examples among them, takes half a minute."""
    found = importlib.import_module("jax2onnx")
    plugins: Any = importlib.import_module("jax2onnx.plugins.plugin_system")
    if not plugins._already_imported_plugins:
        with _quiet():
            for room in ("core", "lax"):
                folder = Path(str(plugins.__file__)).parent / "jax" / room
                for path in sorted(folder.glob("[a-z]*.py")):
                    importlib.import_module(f"jax2onnx.plugins.jax.{room}.{path.stem}")
        plugins._already_imported_plugins = True
    return found.to_onnx


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Their notes on shapes that they do not write down, by the hundred, and on JAX's names of tomorrow are not for users."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "jax2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
