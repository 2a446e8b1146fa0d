"""What the programs under `launch/` share: finding experiment files and turning a user's mistake into one clear line."""

import difflib
import errno
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging

from diffrl import config as configs
from diffrl.registry import REGISTRY

DIVERGED = 3  # exit code of work that is complete, but for runs whose metrics stopped being finite


def guarded(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], None]:
    """Run a program's main; errors that a user can mend end it with one message and exit code 2 instead of a traceback."""

    def wrapped(argv: list[str]) -> None:
        # orbax tells its every step; whoever wants to hear it passes --verbosity.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        import jax

        try:
            code = main(argv)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            print(f"error: another host died or was cut off ({str(error).splitlines()[0][:200]})", file=sys.stderr)
            print("Start the same command on all hosts again: it goes on from the last checkpoint", file=sys.stderr, flush=True)
            os._exit(1)  # an orderly exit would wait for the dead
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                place = error.filename or "a file"
                fail(f"{error.strerror}: {place} could not be written. Make room, and the same command goes on")
            if error.filename is None:
                raise
            fail(f"{error.strerror}: {error.filename}")
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            if isinstance(error, _mistakes()):
                fail(str(error))
            raise
        sys.exit(code or 0)

    return wrapped


def _mistakes() -> tuple[type[Exception], ...]:
    """The errors that tell a user what to mend. Asked for once there is an error: their modules are many."""
    from diffrl.collection.collect import CollectionError
    from diffrl.collection.recipe import RecipeError
    from diffrl.data.dataset import DatasetError
    from diffrl.data.replay import ReplayError
    from diffrl.envs.gymnasium_backend import BackendError
    from diffrl.evaluation.evaluate import EvaluationError
    from diffrl.evaluation.results import ResultError
    from diffrl.evaluation.video import VideoError
    from diffrl.logging.writers import LogError
    from diffrl.records import RecordError
    from diffrl.reports.tables import ReportError
    from diffrl.training.checkpoint import CheckpointError
    from diffrl.training.devices import DeviceError
    from diffrl.training.workdir import WorkdirError

    data_errors = (CollectionError, DatasetError, RecipeError, BackendError)
    training_errors = (configs.ConfigError, DeviceError, WorkdirError, CheckpointError, ReplayError, LogError, RecordError)
    return (*data_errors, *training_errors, EvaluationError, ResultError, VideoError, ReportError)


def parse_flags(arguments: list[str]) -> list[str]:
    """For `app.run`: parse the flags; a wrong one ends the program with one message and exit code 2, as other mistakes do.

    Returns:
        The arguments that are no flags.
    """
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        fail(f"{error} (--help lists the flags)")


def fail(message: str) -> NoReturn:
    """Say what was wrong and exit with 2.

    Raises:
        SystemExit: always.
    """
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def no_more_arguments(argv: Sequence[str]) -> None:
    """Refuse words that are not flags."""
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; options start with --, see --help")


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
        fail(f"--config=EXPERIMENT is missing; the package has: {', '.join(experiments())}; or a method: {', '.join(REGISTRY)}")
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
        fail(f"{path} defines no get_config()")
    except (KeyError, ValueError) as error:
        fail(f"{path}: {error.args[0] if error.args else error}")


def load_methods(name: str) -> tuple[str, ...]:
    """METHODS of an experiment file that serves several."""
    path = _experiment_path(name)
    methods = getattr(_module(path), "METHODS", ())
    if not methods:
        fail(f"{path} lists no METHODS, so it is no suite")
    return tuple(methods)


def experiments() -> list[str]:
    """Names of the experiment files that come with the package."""
    files = (path.relative_to(_folder()) for path in _folder().rglob("*.py") if not path.stem.startswith("_"))
    return sorted(path.with_suffix("").as_posix() for path in files)


def _folder() -> Path:
    """Inside the package when installed, at the top of the repository when run from a checkout that is not."""
    package = Path(__file__).parent
    return package / "experiments" if (package / "experiments").is_dir() else package.parent / "experiments"


def _experiment_path(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in ("", ".py"):
        for known in (path.stem, f"{path.parent.name}/{path.stem}"):
            if known in experiments():
                return _folder() / f"{known}.py"
    near = difflib.get_close_matches(path.stem, (*experiments(), *REGISTRY), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the package has: {', '.join((*experiments(), *REGISTRY))}"
    fail(f"experiment file {name!r} does not exist; {hint}")


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        fail(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
