"""diffrl: offline and off-policy reinforcement learning with diffusion models, many runs in one program.

    policy = diffrl.load_policy("runs/srpo")
    action = policy(observation)
    policy.reset()

Importing this package imports no simulator, no dataset library and no accelerator runtime: `train`, `evaluate` and `load_policy`
are imported when they are first used, everything else from its rooms.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrl.acting import Policy, load_policy
    from diffrl.api import evaluate, train

__version__ = "0.1.0"
__all__ = ["Policy", "__version__", "evaluate", "load_policy", "train"]

_ROOMS = {"Policy": "acting", "load_policy": "acting", "evaluate": "api", "train": "api"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"diffrl.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
