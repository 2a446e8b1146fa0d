"""Importing simulators without their notices. Imports neither JAX nor a simulator, for worker processes."""

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep gymnasium-robotics from printing a notice about unrelated environments when it is imported."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
