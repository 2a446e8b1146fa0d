"""Reference scores: which episode returns (or success rates) count as 0 and as 100, and who says so.

Raw returns are always stored beside; a score can be computed anew from any other reference.
"""

import dataclasses
import re
from typing import Literal

import numpy as np
from jaxtyping import Float

from diffrl.data.d4rl_names import task_of
from diffrl.data.dataset import Card
from diffrl.envs import env_spec
from diffrl.envs.ogbench import tasks
from diffrl.records import Finite


@dataclasses.dataclass(frozen=True)
class Reference:
    """Values that count as 0 and 100, with their source; of a mean episode return, or of a rate of success."""

    min: Finite
    max: Finite
    source: str
    quantity: Literal["return", "success"] = "return"

    def __post_init__(self) -> None:
        if not self.min < self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")


_D4RL = "D4RL, REF_MIN_SCORE and REF_MAX_SCORE of d4rl/infos.py (Fu et al. 2020, arXiv 2004.07219)"
DM_CONTROL = Reference(0.0, 1000.0, "dm_control: rewards in [0, 1] over 1,000 steps (Tassa et al. 2018, arXiv 1801.00690)")
OGBENCH = Reference(0.0, 1.0, "OGBench scores by the rate of success (Park et al. 2025, arXiv 2410.20092)", "success")

# By the environment's name without its version. D4RL's constants were measured on -v2 locomotion and -v0 Adroit tasks;
# it applies them to every version, and so do papers.
TABLE: dict[str, Reference] = {
    "Hopper": Reference(-20.272305, 3234.3, _D4RL),
    "HalfCheetah": Reference(-280.178953, 12135.0, _D4RL),
    "Walker2d": Reference(1.629008, 4592.3, _D4RL),
    "Ant": Reference(-325.6, 3879.7, _D4RL),
    "AntMaze": Reference(0.0, 1.0, _D4RL + "; for tasks that end at the goal, so that a return is 0 or 1"),
    "FrankaKitchen": Reference(0.0, 4.0, _D4RL + "; a return is the number of finished tasks"),
    "AdroitHandPen": Reference(96.262799, 3076.8331017826877, _D4RL),
    "AdroitHandHammer": Reference(-274.856578, 12794.134825156867, _D4RL),
    "AdroitHandDoor": Reference(-56.512833, 2880.5693087298737, _D4RL),
    "AdroitHandRelocate": Reference(-6.425911, 4233.877797728884, _D4RL),
    # D4RL's maze2d is another task than PointMaze-v3 (radius 0.5, other limits): by its own names only.
    "maze2d-open": Reference(0.01, 20.66, _D4RL),
    "maze2d-umaze": Reference(23.85, 161.86, _D4RL),
    "maze2d-medium": Reference(13.13, 277.39, _D4RL),
    "maze2d-large": Reference(6.7, 273.99, _D4RL),
    "maze2d-open-dense": Reference(11.17817, 27.166538620695782, _D4RL),
    "maze2d-umaze-dense": Reference(68.537689, 193.66285642381482, _D4RL),
    "maze2d-medium-dense": Reference(44.264742, 297.4552547777125, _D4RL),
    "maze2d-large-dense": Reference(30.569041, 303.4857382709002, _D4RL),
}

_ALIASES = {
    "kitchen": "FrankaKitchen",
    "pen": "AdroitHandPen",
    "hammer": "AdroitHandHammer",
    "door": "AdroitHandDoor",
    "relocate": "AdroitHandRelocate",
    "antmaze": "AntMaze",
}
_LOCOMOTION = ("Hopper", "HalfCheetah", "Walker2d", "Ant")


def reference_for(card: Card) -> Reference | None:
    """The dataset's own reference scores (`ref_min_score` and `ref_max_score`, Minari's convention), else what its benchmark
    prescribes for its environment, else None.
    """
    if card.ref_min_score is not None and card.ref_max_score is not None and card.ref_min_score < card.ref_max_score:
        return Reference(card.ref_min_score, card.ref_max_score, card.ref_provenance or f"metadata of {card.id}")
    if tasks.scored_by_success(card.env_spec or ""):
        return OGBENCH
    if str(env_spec.read(card.env_spec).get("id", "")).startswith("dmc/"):
        return DM_CONTROL
    for name in _names(card):
        if name in TABLE:
            return TABLE[name]
    return None


def why_no_reference(card: Card) -> str:
    """One sentence for the reader of a score that could not be normalised."""
    names = ", ".join(_names(card)) or "no environment"
    return (
        f"dataset {card.id!r} carries no reference scores and there are none on record for {names}: "
        "returns are given in the environment's own units"
    )


def normalized(values: Float[np.ndarray, "*values"], reference: Reference) -> Float[np.ndarray, "*values"]:
    """Values of the reference's quantity on the scale where `reference.min` is 0 and `reference.max` is 100."""
    return 100.0 * (np.asarray(values, np.float64) - reference.min) / (reference.max - reference.min)


def _names(card: Card) -> list[str]:
    """Names to look up, without version, from the most to the least specific: of the environment, or where the data name none
    of the file.
    """
    spec = env_spec.read(card.env_spec)
    name = task_of(card.id) if card.env_spec is None else re.sub(r"-v\d+$", "", str(spec.get("id", "")).rsplit("/", 1)[-1])
    names = [name]
    if name.startswith("AntMaze_"):
        # A continuing AntMaze pays on every step at the goal: D4RL's 0 and 1 are not its scale.
        names += [] if (spec.get("kwargs") or {}).get("continuing_task", True) else ["AntMaze"]
    family = name.split("-", 1)[0].lower()
    names += [_ALIASES[family]] if family in _ALIASES else []
    names += [known for known in _LOCOMOTION if known.lower() == family]
    return names
