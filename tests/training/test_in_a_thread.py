"""A notebook or a server trains beside its own work: in a thread, where no signal is heard."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_trainings import UPDATES, config_of, source, state_of
from support import trees_equal, unchecked

from diffrl.training.train import Outcome, train

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.slow
def test_two_trainings_in_threads_are_those_of_the_main_thread(tmp_path: Path) -> None:
    """They leave the signals alone, and what they make is what the main thread makes, bit for bit."""
    config, handlers = config_of(), list(map(signal.getsignal, SIGNALS))
    with unchecked(), ThreadPoolExecutor(2) as threads:
        train(config, tmp_path / "main", source())
        outcomes = threads.map(lambda name: train(config, tmp_path / name, source()), ("a", "b"))
        assert list(outcomes) == [Outcome(True, ())] * 2
    for name in ("a", "b"):
        assert trees_equal(state_of(config, tmp_path / name, UPDATES), state_of(config, tmp_path / "main", UPDATES))
    assert list(map(signal.getsignal, SIGNALS)) == handlers
