"""Write a policy for where this package is not: ONNX, StableHLO or plain arrays, with its description and a model card."""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffrl import __version__, files, records
from diffrl.acting import Chosen
from diffrl.config import algorithm_name
from diffrl.export.card import card
from diffrl.export.check import TOLERANCE
from diffrl.export.description import Description
from diffrl.export.function import ExportError, acting_of

FORMATS = {"onnx": "onnx", "stablehlo": "stablehlo", "npz": "arrays"}  # the room's files that write them
CALLS = 200


class Exported(NamedTuple):
    """What was written of a format.

    Attributes:
        files: all of them, the policy's first.
        description: that stands beside it.
        microseconds: an action for one environment took, at the median of some calls in this process.
    """

    files: list[Path]
    description: Description
    microseconds: float


def export(
    chosen: Chosen, formats: Sequence[str], out: Path, command: str = "", tolerance: float = TOLERANCE
) -> dict[str, Exported]:
    """Write a policy in some formats to a folder; what is checked first is written, all of it or nothing.

    Args:
        command: what made it, for the card.
        tolerance: allowed difference from JAX, in units of half the range of an action.

    Raises:
        ExportError: an unknown format, a missing package, or a policy that a format cannot have.
    """
    if unknown := [name for name in formats if name not in FORMATS] or ([] if formats else [""]):
        raise ExportError(f"--format={unknown[0]} is unknown; choose of {', '.join(FORMATS)}")
    trained = chosen.trained
    acting = acting_of(chosen.algorithm, chosen.arrays, trained.spec, trained.config.matmul_precision)
    written = {}
    for name in dict.fromkeys(formats):
        writer = importlib.import_module(f"diffrl.export.{FORMATS[name]}")
        written[name] = writer.write(acting, f"policy.{name}", tolerance)
    found = {}
    for name, one in written.items():
        described = Description(
            file=f"policy.{name}",
            format=name,
            method=algorithm_name(trained.config),
            data=trained.card.id,
            step=chosen.step,
            run=chosen.run,
            seed=chosen.seed,
            point=chosen.point,
            act=dict(chosen.act),
            observation_parts=trained.spec.observation_parts,
            action_low=trained.spec.action_low,
            action_high=trained.spec.action_high,
            num_actions=trained.spec.num_actions,
            inputs=one.inputs,
            outputs=one.outputs,
            difference=one.difference,
            versions={"diffrl": __version__, **one.versions},
            operations=one.operations,
        )
        paths = [out / file for file in one.files]
        for path, content in zip(paths, one.files.values(), strict=True):
            files.write(path, content)
        records.write(out / f"policy.{name}.json", described)
        found[name] = Exported([*paths, out / f"policy.{name}.json"], described, _microseconds(one.once))
    text = card(chosen, [one.description for one in found.values()], command)
    files.write(out / "README.md", text.encode())
    return found


def _microseconds(once: Callable[[], Any]) -> float:
    took = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        once()
        took.append(time.perf_counter() - begun)
    return sorted(took)[CALLS // 2] * 1e6
