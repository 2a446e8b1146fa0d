"""A wheel offers the same programs and experiments, anywhere."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from programs import ROOT, collect, environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        target = out / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={out}", str(out / "source")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_programs_and_experiments(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "diffrl/launch/train.py",
        "diffrl/experiments/srpo_pointmaze.py",
        "diffrl/experiments/published/iql_maze2d.py",
        "diffrl/py.typed",
        "diffrl/reports/page.js",
        "diffrl/algorithms/srpo.py",
    ):
        assert name in names
    # Everything but the package's own metadata lies inside the package: nothing collides with anybody's `launch`.
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"diffrl"}


def test_installed_elsewhere_the_commands_work(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that sees this one's libraries, but diffrl only from the wheel; run from an empty folder."""
    venv.create(tmp_path / "env")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "env" / "lib" / version / "site-packages" / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    collect(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def command(name: str, *flags: str) -> str:
        program = tmp_path / "env" / "bin" / name
        result = subprocess.run(
            [program, *flags], cwd=folder, env=environment(tmp_path), capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    tiny = ("--config.algorithm.num_updates=20", "--config.updates_per_chunk=10", "--config.num_seeds=1")
    command("diffrl-train", "--config=bc_pointmaze:umaze", *tiny, "--workdir=run")
    assert (folder / "run" / "DONE").exists()
    command("diffrl-evaluate", "--workdir=run", "--episodes=2")
    command("diffrl-report", "run", "--out=report")
    assert (folder / "report" / "results.md").exists()
