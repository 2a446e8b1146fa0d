"""What stands beside an exported policy: which it is, and what goes in and comes out."""

import dataclasses
from typing import Any, Literal

import numpy as np

from diffrl.export.function import Acting

BATCH = "batch"
Role = Literal["observation", "seed", "noise", "carry", "action"]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array that goes in or comes out.

    Attributes:
        name: as the file calls it. A carry comes out under the name it goes in by, with "next_" before it.
        shape: "batch" stands for any number of environments.
        role: "noise" is drawn anew for every action, from `distribution`; a "seed" is another number for every action; a "carry"
            that came out goes in with the next action, and begins an episode as `initial` in every environment.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    role: Role
    distribution: str = ""
    initial: Any = None


@dataclasses.dataclass(frozen=True)
class Operation:
    """A step of a policy of plain arrays: `output` = the operation of this name of `inputs`, which are names or numbers."""

    name: str
    inputs: tuple[str | float | int | bool, ...]
    output: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Description:
    """An exported policy.

    Attributes:
        file, format: what was written.
        method, data: what was trained on what.
        step, run, seed, point, act: which checkpoint and run of the training, and how it acts.
        observation_parts, action_low, action_high, num_actions: see `types.Spec`.
        inputs, outputs: in order.
        operations: of a policy of plain arrays.
        difference: the largest from JAX in a check of some episodes' beginnings, in units of half the range of an action.
        versions: of what wrote it.
    """

    file: str
    format: str
    method: str
    data: str
    step: int
    run: int
    seed: int
    point: dict[str, float]
    act: dict[str, str]
    observation_parts: tuple[tuple[str, int], ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    num_actions: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    difference: float
    versions: dict[str, str]
    operations: tuple[Operation, ...] = ()


def tensors_in(acting: Acting, batch: tuple[int | str, ...], seeded: bool = False) -> tuple[Tensor, ...]:
    """Observation, carry, and what randomness comes from: a seed, or noise; with `batch` before each shape but a seed's."""
    spec = acting.spec
    found = [Tensor("observation", (*batch, spec.observation_dim), "float32", "observation")]
    found += [
        Tensor(f"carry_{i}", (*batch, *leaf.shape), leaf.dtype.name, "carry", initial=leaf.tolist())
        for i, leaf in enumerate(acting.carry)
    ]
    if seeded and acting.random:
        return (*found, Tensor("seed", (), "uint32", "seed"))
    for i, draw in enumerate(acting.draws):
        found.append(Tensor(f"noise_{i}", (*batch, *draw.shape), "float32", "noise", draw.distribution))
    return tuple(found)


def tensors_out(acting: Acting, batch: tuple[int | str, ...]) -> tuple[Tensor, ...]:
    """The action, and the carry."""
    spec = acting.spec
    action = ("action", batch, "int32") if spec.num_actions else ("action", (*batch, spec.action_dim), "float32")
    carry = [Tensor(f"next_carry_{i}", (*batch, *x.shape), x.dtype.name, "carry") for i, x in enumerate(acting.carry)]
    return (Tensor(*action, "action"), *carry)


def concrete(tensor: Tensor, batch: int) -> tuple[int, ...]:
    """Its shape for a number of environments."""
    return tuple(batch if size == BATCH else int(size) for size in tensor.shape)


def first(tensor: Tensor, batch: int, rng: np.random.Generator) -> np.ndarray:
    """What goes in for a carry at an episode's beginning, a seed, or noise."""
    shape = concrete(tensor, batch)
    if tensor.role == "carry":
        return np.broadcast_to(np.asarray(tensor.initial, tensor.dtype), shape)
    if tensor.role == "seed":
        return rng.integers(2**32, size=shape, dtype=np.uint32)
    drawn = {"normal": rng.standard_normal, "gumbel": lambda size: rng.gumbel(size=size)}[tensor.distribution](shape)
    return drawn.astype(tensor.dtype)
