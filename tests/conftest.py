"""Before any use of JAX: eight CPU devices, so that the tests can share runs out over several; and one cache for all programs."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # For the programs that tests run. Workers inherit it; the folder goes with this object, at the end of the process.
    _compiled = tempfile.TemporaryDirectory(prefix="diffrl-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _compiled.name

# Tests compile the same programs again and again. Each worker has a cache of its own, since writing to it is not atomic.
jax.config.update("jax_compilation_cache_dir", f"{os.environ['XDG_CACHE_HOME']}/{os.environ.get('PYTEST_XDIST_WORKER', 'tests')}")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Files go to workers in this order: the rooms of long tests come first, so that no worker is left alone with a long one.
LONG = ("contract", "end_to_end", "mishaps", "resume", "training", "algorithms", "envs", "collection", "studies", "devices")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rooms = {room: place for place, room in enumerate(LONG)}
    items.sort(key=lambda item: rooms.get(item.path.parent.name, len(LONG)))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collections of garbage to come, of which tracing causes many, pass it over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _forget(request: pytest.FixtureRequest) -> Iterator[None]:
    """No program outlives the file that compiled it: together they take gigabytes, and hardly any is used again."""
    yield
    for value in list(vars(request.module).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from workdirs import make_workdir

    path = tmp_path_factory.mktemp("template") / "run"
    make_workdir(path)
    return path


@pytest.fixture
def workdir(template: Path, tmp_path: Path) -> Path:
    """Two seeds × two points; checkpoints at 10 (first stage), 20 and 30 (last stage)."""
    return Path(shutil.copytree(template, tmp_path / "run"))
