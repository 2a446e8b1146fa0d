"""Turning a scheduler's signal into "save and exit 0"."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from diffrl.training.devices import any_host


class Preemption:
    """Set once SIGTERM, SIGINT or SIGUSR1 (Slurm's warning) arrived; the trainer looks between chunks."""

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
    """Install handlers for the time of a `with` block, which should reach until the state is saved."""
    preemption = Preemption()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _: FrameType | None) -> None:
        preemption.signal = signal.Signals(number).name
        # Schedulers repeat their signals and mean the same; a second Ctrl-C is from somebody who will not wait.
        if number == signal.SIGINT:
            signal.signal(number, previous[signal.SIGINT])

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield preemption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
