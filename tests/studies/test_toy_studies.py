"""The laboratory from training to table and pictures, very small; and that it tells good samples from bad."""

from pathlib import Path

import pytest
from programs import run

from diffrl.config import ConfigError
from diffrl.data.toys import truth
from diffrl.evaluation.evaluate import EvaluationError, parse_act
from diffrl.studies import toys

TINY = {
    "toy_swg": ("diffusion_updates=20", "hidden_dim=16", "act.num_denoising_steps=4"),
    "toy_cep": ("behavior_updates=20", "energy_updates=20", "act.num_denoising_steps=4"),
    "toy_diffusion_bc": ("num_updates=20", "hidden_dim=16", "act.num_denoising_steps=4"),
    "toy_srpo": ("behavior_updates=20", "critic_updates=20", "policy_updates=20", "behavior_hidden_dim=16"),
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lab")
    for name, settings in TINY.items():
        overrides = [f"--config.algorithm.{setting}" for setting in settings]
        run(root, "launch/train.py", f"--config=experiments/{name}.py:moons", f"--workdir={root / name}", *overrides)
    return {name: root / name for name in TINY}


@pytest.mark.slow
def test_table_and_picture(workdirs: dict[str, Path], tmp_path: Path) -> None:
    """Every method at every β beside two true samples; ways of acting are rows of their own."""
    cells = toys.judge([workdirs["toy_swg"]], parse_act(("guidance_scale=0,1",)), n=50)
    others = [workdirs["toy_diffusion_bc"], workdirs["toy_cep"], workdirs["toy_srpo"]]
    # A choice that a method does not make is not asked of it.
    cells["moons"] += toys.judge(others, parse_act(("select=w",)), n=50, candidates=3)["moons"][5:]
    rows = cells["moons"]
    methods = list(dict.fromkeys(cell.method for cell in rows))
    assert methods == [toys.TRUE, "swg, guidance_scale 0", "swg, guidance_scale 1", "diffusion_bc, softmax of 3", "cep"]
    assert [cell.beta for cell in rows if cell.method == "cep"] == [0, 1, 5, 10, 15]
    true = [cell.wasserstein.mean() for cell in rows if cell.method == toys.TRUE]
    assert all(cell.wasserstein.mean() > true[0] for cell in rows if cell.method == "cep")  # twenty updates are not enough
    text = toys.to_markdown(cells)
    assert text.count("\n| ") == 1 + 1 + len(methods)
    assert toys.picture("moons", rows, tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.slow
def test_modes(workdirs: dict[str, Path], tmp_path: Path) -> None:
    picture = toys.modes(workdirs["toy_srpo"], tmp_path / "modes.png")
    assert picture is not None
    assert picture.stat().st_size > 10_000
    assert toys.modes(workdirs["toy_swg"], tmp_path / "none.png") is None


def test_true_samples_are_at_the_floor_and_shifted_ones_are_not() -> None:
    x = truth("rings", 5.0, toys.BLOCKS * 400, seed=9)
    true, shifted = (toys._cell("x", "rings", 5.0, [points], 400, seed=0) for points in (x, x + 0.3))
    assert shifted.wasserstein.mean() > 2 * true.wasserstein.mean()
    assert shifted.mmd.mean() > 2 * true.mmd.mean()


@pytest.mark.slow
def test_program(workdirs: dict[str, Path], tmp_path: Path) -> None:
    """One table, a picture of each toy and of each workdir of targets; a mistake is one line."""
    names = [str(workdirs[name]) for name in ("toy_cep", "toy_srpo")]
    run(tmp_path, "launch/lab.py", *names, "--points=20", f"--out={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "| cep |" in (tmp_path / "out" / "lab.md").read_text()
    wrong = run(tmp_path, "launch/lab.py", str(tmp_path), code=2)
    assert wrong.stderr.startswith("error: name at least one workdir")


@pytest.mark.slow
def test_errors(workdirs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a training directory"):
        toys.judge([tmp_path], [()])
    with pytest.raises(EvaluationError, match="there already"):
        toys.judge([workdirs["toy_cep"]] * 2, [()], n=20)
    with pytest.raises(ConfigError, match="select='w'"):
        toys.judge([workdirs["toy_swg"]], parse_act(("num_candidates=4", "select=q")), n=20)
