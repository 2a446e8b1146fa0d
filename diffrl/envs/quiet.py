"""Importing simulators without their notices. Imports neither JAX nor a simulator, for worker processes."""

import contextlib
import io
import warnings
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep gymnasium-robotics from printing a notice about unrelated environments, dm_control from logging its renderer.

    Warnings are the packages' own concern; made errors, as by `python -W error`, those of Box2D end the process.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
