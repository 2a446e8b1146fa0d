"""Runs the training program and kills it, as an out-of-memory killer would, at a chosen moment.

    python killed_trainer.py MOMENT SAVE [train.py's flags]

MOMENT is "inside" (the save has begun, its files are being written), "after" (it is on disk, the next chunk has not
begun) or "before" (the save has not begun). SAVE counts saves from 1; 0 kills none.
"""

import importlib
import os
import signal
import sys

from diffrl.training.checkpoint import Checkpoints

moment, number = sys.argv[1], int(sys.argv[2])
sys.argv = ["train.py", *sys.argv[3:]]
original = Checkpoints.save
count = 0


def save(self: Checkpoints, *args: object) -> None:
    """The library's save, with the kill around it."""
    global count
    count += 1
    if count == number and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *args)  # pyright: ignore[reportArgumentType]
    if count == number and moment == "after":
        self._manager.wait_until_finished()
    if count == number:
        os.kill(os.getpid(), signal.SIGKILL)


Checkpoints.save = save  # pyright: ignore[reportAttributeAccessIssue]
importlib.import_module("diffrl.launch.train").run()
