"""Before any use of JAX: eight CPU devices, so that the tests can share runs out over several; and one cache for all programs."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # For the programs that tests run. Workers inherit it; the folder goes with this object, at the end of the process.
    _compiled = tempfile.TemporaryDirectory(prefix="diffrl-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _compiled.name


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
