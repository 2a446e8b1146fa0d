"""Where the time of a chunk goes: a trace of one of its dispatches, to be looked at in Perfetto."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from diffrl import files


class Profiler:
    """Traces one dispatch of every segment into a folder, as `NAME.json.gz`: the second, whose program is compiled and warm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @contextlib.contextmanager
    def trace(self, name: str) -> Iterator[Path]:
        """What happens inside goes to the file that is given, once it is over; who dispatches work inside waits for it there."""
        path = self.folder / f"{files.slug(name)}.json.gz"
        with tempfile.TemporaryDirectory() as beside:
            with jax.profiler.trace(beside, create_perfetto_trace=True):
                yield path
            (made,) = Path(beside).rglob("perfetto_trace.json.gz")
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.move(made, path)
