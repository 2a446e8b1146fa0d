"""What the programs under `launch/` share that take a config: finding experiment files and setting fields."""

import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffrl import completion
from diffrl import config as configs
from diffrl.registry import REGISTRY


def take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into "name=value" of every `--config.name=value`, whose names no flag declares, and the rest."""
    overrides, rest = [], []
    for argument in arguments:
        found = re.match(r"--?config\.", argument)  # absl takes flags with one dash too
        (overrides if found else rest).append(argument[found.end() if found else 0 :])
    return overrides, rest


def load_config(name: str | None, overrides: Sequence[str]) -> configs.Config:
    """The config of `--config` with the fields that `--config.name=value` sets. Exits with 2 where there is none.

    Raises:
        ConfigError: an override names no field or has a value of the wrong type.
    """
    if not name:
        packaged = ", ".join(completion.experiments())
        raise configs.ConfigError(
            f"--config=EXPERIMENT is missing; the package has: {packaged}; or a method: {', '.join(REGISTRY)}"
        )
    config = load_experiment(name)
    for text in overrides:
        configs.override(config, text)
    return config


def load_experiment(name: str) -> configs.Config:
    """The config of an experiment file, of a packaged experiment, or of a method's name: its defaults.

    An experiment's name may carry :argument.
    """
    if name in REGISTRY:
        return configs.Config(algorithm=REGISTRY[name].config())
    name, _, argument = name.partition(":")
    path = _experiment_path(name)
    module = _module(path)
    try:
        return module.get_config(argument) if argument else module.get_config()
    except AttributeError:
        raise configs.ConfigError(f"{path} defines no get_config()") from None
    except (KeyError, ValueError) as error:
        raise configs.ConfigError(f"{path}: {error.args[0] if error.args else error}") from error


def load_methods(name: str) -> tuple[str, ...]:
    """METHODS of an experiment file that serves several."""
    path = _experiment_path(name)
    methods = getattr(_module(path), "METHODS", ())
    if not methods:
        raise configs.ConfigError(f"{path} lists no METHODS, so it is no suite")
    return tuple(methods)


def _experiment_path(name: str) -> Path:
    path = completion.experiment_path(name)
    if path is not None:
        return path
    known = (*completion.experiments(), *REGISTRY)
    near = difflib.get_close_matches(Path(name).stem, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the package has: {', '.join(known)}"
    raise configs.ConfigError(f"experiment file {name!r} does not exist; {hint}")


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        raise configs.ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
