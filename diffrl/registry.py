"""Name -> method. The only place, beside its own file, where a method is mentioned."""

import importlib
from collections import UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

from diffrl.action_chunks import in_chunks, wide
from diffrl.algorithm import Algorithm, in_environment_units
from diffrl.types import Spec


class Method(NamedTuple):
    """What makes an Algorithm of a name.

    Attributes:
        config: the method's config dataclass.
        make: the constructor that takes it.
        models: what makes `planning.Problem`s, of a method that plans: `Models` of its file.
        figures: the module whose `draw(out)` makes figures of its paper that need no training run, where there are some.
        actions: the kinds that it can learn, of "box" and "discrete".
        imitates: whether it learns without rewards.
    """

    config: type
    make: Callable[[Any, Spec], Algorithm]
    models: Callable[[Any, Spec], Any] | None = None
    figures: str | None = None
    actions: tuple[str, ...] = ("box",)
    imitates: bool = False


class Registry(UserDict[str, Method]):
    """Methods by name. The file of each, `algorithms/NAME.py`, is imported when it is first asked for: a training needs one."""

    def __init__(self, listed: dict[str, Any]) -> None:
        """Of each name a Method, or the attributes of one that its file does not tell."""
        super().__init__()
        self.data.update(listed)

    def __getitem__(self, name: str) -> Method:
        found: Any = self.data[name]
        if not isinstance(found, Method):
            file = importlib.import_module(f"diffrl.algorithms.{name}")
            found = self.data[name] = Method(file.Config, file.make, getattr(file, "Models", None), **found)
        return found


_BOTH = ("box", "discrete")
REGISTRY = Registry(
    {
        "bc": {"actions": _BOTH, "imitates": True},
        "beso": {"imitates": True},
        "bridger": {"imitates": True},
        "cep": {},
        "cfgrl": {},
        "dac": {},
        "diar": {},
        "diffusion_bc": {"imitates": True},
        "diffusion_ql": {},
        "dsrl": {},
        "edm": {"actions": ("discrete",), "imitates": True},
        "edp": {},
        "eqr": {},
        "fql": {},
        "gaussian_bc": {"imitates": True},
        "idql": {},
        "iql": {"actions": _BOTH},
        "maac": {},
        "qc": {},
        "qgpo": {},
        "qsm": {},
        "rebrac": {},
        "sac": {},
        "sgp": {"figures": "diffrl.studies.score_figures"},
        "srpo": {},
        "swg": {},
        "td3_bc": {},
    }
)


def name_of(config: Any) -> str:
    """The registered name of a method's config.

    Raises:
        KeyError: no method has a config of this type.
    """
    file = type(config).__module__.rpartition(".")[2]
    for name in sorted(REGISTRY, key=lambda name: name != file):
        if type(config) is REGISTRY[name].config:
            return name
    raise KeyError(f"no method is registered for {type(config).__qualname__}")


def make(config: Any, spec: Spec, action_chunk: int = 1) -> Algorithm:
    """The Algorithm of a config; its `act` takes raw observations and returns actions in the environment's units.

    Args:
        action_chunk: actions that are chosen at a time, see `action_chunks.in_chunks`.

    Raises:
        ValueError: the method cannot have actions of this kind, chunks of them, data without rewards, or one of its settings.
    """
    name, kind = name_of(config), "discrete" if spec.num_actions else "box"
    method = REGISTRY[name]
    if kind not in method.actions:
        able = ", ".join(other for other in REGISTRY if kind in REGISTRY[other].actions) or "none"
        raise ValueError(f"{name} cannot have {kind} actions; methods that can: {able}")
    if not spec.has_rewards and not method.imitates:
        able = ", ".join(other for other in REGISTRY if REGISTRY[other].imitates)
        raise ValueError(
            f"{name} learns from rewards, and the data have none (OGBench's tasks give them: dataset.task); without: {able}"
        )
    if action_chunk == 1:
        return in_environment_units(method.make(config, spec), spec)
    return in_environment_units(in_chunks(method.make(config, wide(spec, action_chunk)), spec, action_chunk), spec)
