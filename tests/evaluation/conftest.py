import shutil
from pathlib import Path

import pytest
from workdirs import make_workdir


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "run"
    make_workdir(path)
    return path


@pytest.fixture
def workdir(template: Path, tmp_path: Path) -> Path:
    """Two seeds × two points; checkpoints at 10 (first stage), 20 and 30 (last stage)."""
    return Path(shutil.copytree(template, tmp_path / "run"))
