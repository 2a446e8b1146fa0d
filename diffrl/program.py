"""How every program under `launch/` begins and ends: flags, a display that may go away, and one line for a user's mistake."""

import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn, TextIO

from absl import app, flags, logging
from rich.console import Console
from rich.text import Text

from diffrl.errors import UserError
from diffrl.escape import printable

DIVERGED = 3  # exit code of work that is complete, but for runs whose metrics stopped being finite


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse the flags and run a program's main; see `guarded`."""
    sys.stdout, sys.stderr = _Enduring(sys.stdout, 1), _Enduring(sys.stderr, 2)
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        fail("the current directory does not exist any more: change to one that does")
    # A notebook's choice, which its own process inherits to others, draws nothing outside of it.
    os.environ["MPLBACKEND"] = "agg"
    _explain_as_main(sys.modules[main.__module__])
    app.run(guarded(main), flags_parser=parse_flags)


def _explain_as_main(module: ModuleType) -> None:
    """Let --help tell of a program's module: absl looks at the main one, which is a stub where the program is installed."""
    if module.__name__ != "__main__":
        sys.modules["__main__"].__doc__ = module.__doc__
        for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


class _Enduring:
    """A stream of text that never ends the work: what cannot be shown is replaced, and what nobody reads is dropped."""

    def __init__(self, stream: TextIO | None, number: int) -> None:
        self._stream: Any = open(os.devnull, "w") if stream is None else stream  # noqa: PTH123, SIM115
        self._number = number
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._enduring(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._enduring(lambda: self._stream.flush())

    def _enduring(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (OSError, ValueError):  # a closed pipe, a full disk; a stream that was closed
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._number)
            os.close(null)


class _Console(Console):
    """A terminal that takes no text for mark-up, and shows nothing that it could act upon."""

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


def console(width: int = 140, **options: Any) -> Console:
    """Where a program prints; tables are `width` wide where no terminal says otherwise."""
    return _Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False, emoji=False, **options)


@contextlib.contextmanager
def status(console: Console, text: str, every: float = 10.0) -> Iterator[Callable[[str], None]]:
    """Shows what is under way, and what the function that is given is told of it since.

    One line that changes on a terminal; elsewhere plain lines, at most one in `every` seconds.
    """
    if console.is_terminal:
        with console.status(text) as shown:
            yield shown.update
        return
    console.print(text, soft_wrap=True)
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            console.print(text, soft_wrap=True)

    yield say


def guarded(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], None]:
    """Run a program's main; errors that a user can mend end it with one message and exit code 2 instead of a traceback."""

    def wrapped(argv: list[str]) -> None:
        # orbax tells its every step, JAX of accelerators that it did not find; whoever wants to hear it passes --verbosity.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        try:
            code = main(argv)
        except UserError as error:
            fail(str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                fail(f"{error.strerror}: {error.filename or 'a file'}. Make room, and the same command goes on")
            if error.filename is None:
                raise
            fail(f"{error.strerror}: {error.filename}")
        except MemoryError as error:
            fail(f"not enough memory ({error or 'none left'}): take fewer rows or runs, or a machine with more")
        except KeyboardInterrupt:
            code = 130
        except RuntimeError as error:
            if "nable to initialize backend" in str(error):
                asked = f"; JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} asks for it" if "JAX_PLATFORMS" in os.environ else ""
                fail(f"{str(error).splitlines()[0][:200]}{asked}: unset JAX_PLATFORMS to take the devices that there are")
            _leave_other_hosts(error)
            raise
        sys.exit(code or 0)

    return wrapped


OWN_FAULTS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")  # statuses that are not of the way between hosts


def _leave_other_hosts(error: RuntimeError) -> None:
    """Leave at once what several hosts do together, and say whether another's end is what went wrong."""
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
        if str(error).startswith(OWN_FAULTS):
            traceback.print_exception(error)
        else:
            print(f"error: another host died or was cut off ({str(error).splitlines()[0][:200]})", file=sys.stderr)
            print("Start the same command on all hosts again: it goes on from the last checkpoint", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # an orderly exit would wait for the others


def parse_flags(arguments: list[str]) -> list[str]:
    """For `app.run`: parse the flags; a wrong one ends the program with one message and exit code 2, as other mistakes do.

    Returns:
        The arguments that are no flags.
    """
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        fail(f"{error} (--help lists the flags)")
    except SystemExit:
        raise SystemExit(0) from None  # help was asked for, which absl counts as a failure


def fail(message: str) -> NoReturn:
    """Say what was wrong and exit with 2.

    Raises:
        SystemExit: always.
    """
    print("error: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)
    raise SystemExit(2)


def no_more_arguments(argv: Sequence[str]) -> None:
    """Refuse words that are not flags."""
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; options start with --, see --help")
