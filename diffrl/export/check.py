"""An exported policy against JAX: the same observations, random numbers and memory into both."""

from collections.abc import Callable, Sequence

import numpy as np

from diffrl.export.description import Tensor, first
from diffrl.export.function import ExportError
from diffrl.types import Spec

Function = Callable[..., Sequence[np.ndarray]]  # arrays in the order of the inputs -> in the order of the outputs
TOLERANCE = 1e-5
STEPS = 3


def difference(
    ours: Function,
    exported: Function,
    inputs: Sequence[Tensor],
    spec: Spec,
    batches: Sequence[int] = (1, 4),
    tolerance: float = TOLERANCE,
) -> float:
    """The largest difference over some steps, in units of half the range of an action, and for what is remembered relative to 1.

    Raises:
        ExportError: it is above the tolerance.
    """
    rng = np.random.default_rng(0)
    mean, std = np.asarray(spec.observation_mean), np.asarray(spec.observation_std)
    half = 1.0 if spec.num_actions else np.maximum((np.asarray(spec.action_high) - np.asarray(spec.action_low)) / 2.0, 1e-30)
    worst = 0.0
    for batch in batches:
        given = {tensor.name: first(tensor, batch, rng) for tensor in inputs if tensor.role == "carry"}
        for _ in range(STEPS):
            seen = (mean + std * rng.standard_normal((batch, spec.observation_dim))).astype(np.float32)
            given |= {tensor.name: first(tensor, batch, rng) for tensor in inputs if tensor.role in ("seed", "noise")}
            arguments = [seen if tensor.role == "observation" else given[tensor.name] for tensor in inputs]
            expected, found = (list(map(np.asarray, function(*arguments))) for function in (ours, exported))
            for i, (a, b) in enumerate(zip(expected, found, strict=True)):
                scale = half if i == 0 else np.maximum(1.0, np.abs(a.astype(np.float64)))
                apart = np.abs(a.astype(np.float64) - b.astype(np.float64)) / scale
                worst = max(worst, float(np.max(apart, initial=0.0)))
            given |= {f"carry_{i}": value for i, value in enumerate(expected[1:])}
    if not worst <= tolerance:
        raise ExportError(
            f"it acts otherwise than JAX, by {worst:.1e} of half an action's range, more than --tolerance={tolerance:.0e}"
        )
    return worst


def example(inputs: Sequence[Tensor], spec: Spec, batch: int = 1) -> list[np.ndarray]:
    """Arrays for all inputs, at an episode's beginning."""
    rng = np.random.default_rng(0)
    mean = np.asarray(spec.observation_mean, np.float32)
    observation = np.tile(mean, (batch, 1))
    return [observation if tensor.role == "observation" else first(tensor, batch, rng) for tensor in inputs]
