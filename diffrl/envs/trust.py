"""Which environments may be made from a file: data name code, and only that of known packages is run.

gymnasium imports and calls whatever the `entry_point` of an EnvSpec and of its wrappers name, so the spec in a dataset or in a
workdir that came from elsewhere could run anything, "os:system" for one.
"""

import importlib
import importlib.metadata
import os
from typing import Any

VARIABLE = "DIFFRL_ENV_PACKAGES"
LARGEST, MOST = 1_000_000, 100_000  # a whole number among an environment's arguments, and how many values these have
_ENVIRONMENTS = ("diffrl.envs", "gymnasium.envs", "gymnasium_robotics.envs", "ogbench")
_WRAPPERS = ("gymnasium.wrappers", "diffrl.envs")
_WRITES = "RecordVideo"  # files, wherever its arguments say


class TrustError(ValueError):
    """A spec names code that is not known to be an environment; the message says what to do where it is trusted."""


def check(spec: dict[str, Any]) -> None:
    """Refuse a spec (`env_spec.read`) that names anything but environments and wrappers of known packages.

    Known are what this process or an installed plug-in of gymnasium has registered itself, environment classes of the packages
    that come with the extras, gymnasium's own wrappers, and packages that the user names in DIFFRL_ENV_PACKAGES.

    Raises:
        TrustError: the environment or a wrapper is something else.
        ImportError: the package that has it is not installed.
    """
    import gymnasium

    bounded(spec)
    _check(spec, "environment", _ENVIRONMENTS, gymnasium.Env)
    for wrapper in spec.get("additional_wrappers") or ():
        _check(wrapper, "wrapper", _WRAPPERS, gymnasium.Wrapper)


def bounded(spec: dict[str, Any]) -> None:
    """Refuse arguments of an environment or a wrapper with which making it would take all memory, whatever is made of them.

    Raises:
        TrustError: a whole number is above a million and no seed, or there are more than 100,000 values.
    """
    arguments = [("", one.get("kwargs") or {}) for one in (spec, *(spec.get("additional_wrappers") or ()))]
    count = 0
    while arguments:
        name, value = arguments.pop()
        count += 1
        if isinstance(value, dict):
            arguments += value.items()
        elif isinstance(value, list):
            arguments += [(name, one) for one in value]
        elif isinstance(value, int) and abs(value) > LARGEST and "seed" not in str(name):
            raise TrustError(f"{spec.get('id')} has the argument {name}={value}, above {LARGEST:,}: no environment needs that")
        if count + len(arguments) > MOST:
            raise TrustError(f"{spec.get('id')} has arguments of more than {MOST:,} values: no environment needs that")


def own_module(spec: dict[str, Any]) -> str:
    """The module of an environment of the user's own package; "" for one that any program knows.

    Any knows the packages that come with the extras, and plug-ins of gymnasium, which it imports by itself.
    """
    module = str(spec.get("entry_point")).partition(":")[0]
    plugins = {point.module.split(".")[0] for point in importlib.metadata.entry_points(group="gymnasium.envs")}
    return "" if _is_of(module, (*_ENVIRONMENTS, *plugins)) else module


def is_named(module: str) -> bool:
    """Whether the user names a module's package in DIFFRL_ENV_PACKAGES, for every program to make its environments."""
    return _is_of(module, _named())


def _named() -> tuple[str, ...]:
    return tuple(package.strip() for package in os.environ.get(VARIABLE, "").split(",") if package.strip())


def _is_of(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _check(named: dict[str, Any], what: str, known: tuple[str, ...], kind: type) -> None:
    entry_point, name = str(named.get("entry_point")), str(named.get("id", named.get("name")))
    if _registered(name, entry_point):
        return
    module, _, attribute = entry_point.partition(":")
    if not _is_of(module, (*known, *_named())):
        raise TrustError(
            f"{name} names {entry_point!r} as its {what}, which is of no package known for that, and data are not allowed to run "
            f"code. If you trust it: {VARIABLE}={module.split('.')[0]}"
        )
    # Packages register their environments, functions among them, when they are imported.
    made = getattr(importlib.import_module(module), attribute, None)
    is_kind = isinstance(made, type) and issubclass(made, kind)
    if not (is_kind or _registered(name, entry_point)) or getattr(made, "__name__", "") == _WRITES:
        raise TrustError(f"{name} names {entry_point!r} as its {what}, which it is not, or one that may not be made from data")


def _registered(name: str, entry_point: str) -> bool:
    import gymnasium

    return name in gymnasium.registry and gymnasium.registry[name].entry_point == entry_point
