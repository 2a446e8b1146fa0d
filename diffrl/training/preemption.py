"""Turning a scheduler's signal into "save and exit 0"."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from diffrl.training.devices import any_host


class Preemption:
    """Set once SIGTERM, SIGINT, SIGHUP (a terminal that closes) or SIGUSR1 (Slurm's warning) arrived.

    The trainer looks between dispatches.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def anywhere(self) -> bool:
        """Whether a signal has come to this host or any other; all must ask together."""
        if any_host(bool(self)) and self.signal is None:
            self.signal = "a signal to another host"
        return bool(self)


@contextmanager
def watch_signals() -> Iterator[Preemption]:
    """Install handlers for the time of a `with` block, which should reach until the state is saved.

    In another thread than the main one, which alone hears signals, nothing is installed. A hang-up that is ignored, as nohup
    has it, stays so.
    """
    preemption = Preemption()
    if threading.current_thread() is not threading.main_thread():
        yield preemption
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    if previous[signal.SIGHUP] is signal.SIG_IGN:
        del previous[signal.SIGHUP]

    def handle(number: int, _: FrameType | None) -> None:
        preemption.signal = signal.Signals(number).name
        # Schedulers repeat their signals and mean the same; a second Ctrl-C is from somebody who will not wait.
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield preemption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
