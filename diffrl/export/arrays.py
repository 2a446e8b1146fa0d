"""A policy as plain arrays and a list of operations on them, which NumPy alone carries out: `read_policy.py` stands beside it.

Of one environment. What the observation, the memory and the noise do not reach is computed here, once.
"""

import io
import itertools
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from diffrl import records
from diffrl.export import read_policy
from diffrl.export.check import TOLERANCE, difference
from diffrl.export.description import BATCH, Operation, Tensor, tensors_in, tensors_out
from diffrl.export.function import Acting, ExportError, written_out
from diffrl.export.written import Written

Call = tuple[str, tuple[Any, ...], dict[str, Any]]  # an operation of `read_policy.OPERATIONS`, its inputs, its options

# lax's name -> NumPy's, where they take the same inputs and nothing else.
_SAME = {
    **{
        name: name
        for name in ("exp", "expm1", "log", "log1p", "sqrt", "square", "tanh", "sin", "cos", "sign", "floor", "logistic")
    },
    **{"add": "add", "add_any": "add", "sub": "subtract", "mul": "multiply", "max": "maximum", "min": "minimum", "pow": "power"},
    **{"neg": "negative", "abs": "absolute", "gt": "greater", "lt": "less", "ge": "greater_equal", "le": "less_equal"},
    **{"eq": "equal", "ne": "not_equal"},
}
_TRUTH = {"and": "logical_and", "or": "logical_or", "not": "logical_not"}


def write(acting: Acting, name: str, tolerance: float = TOLERANCE) -> Written:
    """Arrays, and the operations of their description.

    Raises:
        ExportError: the policy has an operation that is not described so, or acts otherwise than in JAX.
    """
    if acting.undrawable:
        raise ExportError(acting.undrawable)
    inputs, outputs, count = tensors_in(acting, ()), tensors_out(acting, ()), len(acting.carry)

    def act(*values: Any) -> tuple[Any, ...]:
        action, carry = acting.by_draws(values[0], list(values[1 : 1 + count]), list(values[1 + count :]))
        return (action, *carry)

    abstract = [jax.ShapeDtypeStruct(tensor.shape, np.dtype(tensor.dtype)) for tensor in inputs]
    arrays, operations = _described(written_out(act, *abstract), inputs, outputs)
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
    data = content.getvalue()
    batched = jax.jit(jax.vmap(act))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.npz"
        path.write_bytes(data)
        described = {"inputs": records.plain(inputs), "operations": records.plain(operations)}
        Path(f"{path}.json").write_text(json.dumps(described))
        policy = read_policy.Policy(path)

    def run(*given: np.ndarray) -> list[np.ndarray]:
        """Row by row."""
        rows = []
        for row in zip(*given, strict=True):
            named = dict(zip([tensor.name for tensor in inputs], row, strict=True))
            observation = named.pop("observation")
            policy.carry = {key: value for key, value in named.items() if key in policy.carry}
            noise = {key: value for key, value in named.items() if key not in policy.carry}
            rows.append((policy(observation, **noise), *policy.carry.values()))
        return [np.stack(column) for column in zip(*rows, strict=True)]

    apart = difference(batched, run, tensors_in(acting, (BATCH,)), acting.spec, tolerance=tolerance)
    observation = np.asarray(acting.spec.observation_mean, np.float32)
    reader = Path(str(read_policy.__file__)).read_bytes()
    files = {name: data, "read_policy.py": reader}
    return Written(files, inputs, outputs, apart, {"jax": version("jax")}, lambda: policy(observation), tuple(operations))


def _described(
    closed: core.ClosedJaxpr, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> tuple[dict[str, np.ndarray], list[Operation]]:
    """Arrays by name, and operations between them, the inputs and the outputs."""
    jaxpr, arrays, operations = closed.jaxpr, {}, []
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))  # what is known now
    values |= dict(zip(jaxpr.invars, (tensor.name for tensor in inputs), strict=True))  # else its name

    def value(atom: Any) -> Any:
        kind: Any = atom.aval
        return np.asarray(atom.val, kind.dtype) if isinstance(atom, core.Literal) else values[atom]

    def named(given: Any) -> str | float | int | bool:
        """Numbers stand as they are; arrays get a name."""
        if isinstance(given, str):
            return given
        if given.ndim == 0:
            return given.item()
        key = next((key for key, array in arrays.items() if array is given), f"array_{len(arrays)}")
        arrays[key] = given
        return key

    def emit(call: Call, output: str) -> str:
        name, given, options = call
        operations.append(Operation(name, tuple(map(named, given)), output, options))
        return output

    for eqn in jaxpr.eqns:
        given = list(map(value, eqn.invars))
        calls = _calls(eqn, given)
        for out, steps in zip(eqn.outvars, calls, strict=True):
            found: Any = None
            for name, taken, options in steps:
                taken = tuple(found if x is None else x for x in taken)
                if any(isinstance(x, str) for x in taken):
                    found = emit((name, taken, options), f"step_{len(operations)}")
                else:
                    found = np.asarray(read_policy.OPERATIONS[name](*taken, **options)).astype(out.aval.dtype)
            values[out] = found
    for atom, tensor in zip(jaxpr.outvars, outputs, strict=True):
        emit(("astype", (value(atom),), {"dtype": tensor.dtype}), tensor.name)
    return arrays, operations


def _calls(eqn: Any, given: list[Any]) -> list[list[Call]]:
    """For each output the calls that make it, one after another; None among inputs is what the call before gave.

    Raises:
        ExportError: there are none.
    """
    name, params, out = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    shape, floating = list(out.shape), jnp.issubdtype(out.dtype, jnp.floating)
    truth = all(atom.aval.dtype == np.bool_ for atom in eqn.invars)
    x = given[0] if given else None
    if name in _SAME:
        return [[(_SAME[name], tuple(given), {})]]
    if name in _TRUTH and truth:
        return [[(_TRUTH[name], tuple(given), {})]]
    if name == "div" and floating:
        return [[("divide", tuple(given), {})]]
    if name == "integer_pow":
        return [[("power", (x, np.asarray(params["y"])), {})]]
    if name == "rsqrt":
        return [[("sqrt", (x,), {}), ("divide", (np.asarray(1.0, out.dtype), None), {})]]
    if name == "clamp":
        return [[("maximum", (given[1], x), {}), ("minimum", (None, given[2]), {})]]
    if name == "select_n" and len(given) == 3 and eqn.invars[0].aval.dtype == np.bool_:
        return [[("where", (x, given[2], given[1]), {})]]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [[("reshape", (x,), {"shape": shape})]]
    if name == "broadcast_in_dim":
        sizes = dict(zip(params["broadcast_dimensions"], eqn.invars[0].aval.shape, strict=True))
        thin = [sizes.get(place, 1) for place in range(len(shape))]
        return [[("reshape", (x,), {"shape": thin}), ("broadcast_to", (None,), {"shape": shape})]]
    if name == "transpose":
        return [[("transpose", (x,), {"axes": list(params["permutation"])})]]
    if name == "concatenate":
        return [[("concatenate", tuple(given), {"axis": params["dimension"]})]]
    if name == "slice":
        strides = params["strides"] or [1] * len(shape)
        bounds = [list(bound) for bound in zip(params["start_indices"], params["limit_indices"], strides, strict=True)]
        return [[("slice", (x,), {"bounds": bounds})]]
    if name == "split":
        ends, axis = np.cumsum([0, *params["sizes"]]).tolist(), params["axis"]
        whole = [[0, size, 1] for size in eqn.invars[0].aval.shape]
        parts = [[*whole[:axis], [*part, 1], *whole[axis + 1 :]] for part in itertools.pairwise(ends)]
        return [[("slice", (x,), {"bounds": part})] for part in parts]
    if name in ("reduce_sum", "reduce_max", "reduce_min"):
        return [[(name.removeprefix("reduce_"), (x,), {"axis": list(params["axes"])})]]
    if name == "argmax" and len(params["axes"]) == 1:
        return [[("argmax", (x,), {"axis": params["axes"][0]}), ("astype", (None,), {"dtype": out.dtype.name})]]
    if name == "iota":
        return [[("astype", (np.asarray(_iota(params)),), {"dtype": out.dtype.name})]]
    if name in ("convert_element_type", "copy", "copy_p"):
        return [[("astype", (x,), {"dtype": out.dtype.name})]]
    if name == "dot_general":
        return [[_product(eqn, given)]]
    raise ExportError(f"plain arrays describe no {name!r}, which this policy needs: --format=onnx or stablehlo")


def _iota(params: Any) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    return np.broadcast_to(np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def _product(eqn: Any, given: list[Any]) -> Call:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    a, b = (atom.aval for atom in eqn.invars)
    if not left_batch:
        if b.ndim == 2 and tuple(left) == (a.ndim - 1,) and tuple(right) == (0,):
            return "matmul", tuple(given), {}
        return "tensordot", tuple(given), {"axes": [list(left), list(right)]}
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_a = {axis: next(letters) for axis in range(a.ndim)}
    of_b = {axis: next(letters) for axis in range(b.ndim)}
    of_b |= {axis: of_a[other] for axis, other in zip((*right, *right_batch), (*left, *left_batch), strict=True)}
    free_a = [of_a[i] for i in range(a.ndim) if i not in (*left, *left_batch)]
    free_b = [of_b[i] for i in range(b.ndim) if i not in (*right, *right_batch)]
    ordered = [of_a[axis] for axis in left_batch] + free_a + free_b
    return "einsum", tuple(given), {"subscripts": f"{''.join(of_a.values())},{''.join(of_b.values())}->{''.join(ordered)}"}
