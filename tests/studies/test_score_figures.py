"""The figures of score-guided planning: their numbers against known ones, and that they are drawn. Training is cut short."""

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from programs import run
from support import quick_compilation

from diffrl.registry import REGISTRY
from diffrl.studies import score_figures, scores, uncertainty

KEY = jax.random.key(0)
AT = np.array([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
ENERGY = np.array([26.404439, 2.375411, -0.647309, 1.306681, 0.250792, 0.143252, 4.606548, 32.283088])
SLOPE = np.array([-36.375626, -11.874259, -0.296775, -0.044465, -3.477917, 2.677075, 15.176541, 40.176541])


@pytest.fixture(autouse=True)
def compiled_quickly() -> Iterator[None]:
    with quick_compilation():
        yield


def written(path: Path) -> None:
    picture = imread(path)
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.02


@pytest.mark.slow
def test_energies_are_the_known_ones_and_the_score_network_finds_the_gradient(tmp_path: Path) -> None:
    found = scores.energies(KEY, AT, updates=600)
    np.testing.assert_allclose(found.energy, ENERGY, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(found.gradient, SLOPE, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(found.minus_log_likelihood - found.energy, 0.408113, atol=1e-5)
    np.testing.assert_allclose(found.likelihood, np.exp(-found.minus_log_likelihood), rtol=1e-6)
    near = np.abs(AT) <= 0.5
    np.testing.assert_allclose(found.by_score[near], SLOPE[near], atol=0.8)
    far = np.abs(AT) >= 1.0
    np.testing.assert_allclose(found.by_distance[far], SLOPE[far], rtol=0.15)
    lines = score_figures.draw_energies(found, tmp_path / "energy.png")
    assert lines[0].startswith("-log p - E is 0.4081 everywhere")
    written(tmp_path / "energy.png")


@pytest.mark.slow
def test_distance_bounds_the_error_where_the_ensemble_does_not(tmp_path: Path) -> None:
    x = np.linspace(-2.0, 2.0, 201)
    found = uncertainty.uncertainties(KEY, x, updates=300, width=64)
    distance, process, members = found
    nearest = np.min(np.abs(x[:, None] - uncertainty.FITTED[:, 0]), axis=1)
    assert (distance.value >= nearest - 1e-6).all()
    assert (distance.value**2 <= nearest**2 + 2.0 * uncertainty.SIGMA**2 * np.log(3.0) + 1e-6).all()
    assert distance.needed < 5.0 < 20.0 < members.needed
    assert process.needed > distance.needed
    lines = score_figures.draw_uncertainties(x, found, tmp_path / "uncertainty.png")
    assert len(lines) == 3
    written(tmp_path / "uncertainty.png")


def test_gaussian_process_interpolates_and_goes_back_to_its_prior() -> None:
    x, y = np.array([-1.0, 0.3, 1.1]), np.array([0.4, -0.7, 0.2])
    mean, variance = uncertainty.gaussian_process(x, y, np.append(x, 100.0))
    np.testing.assert_allclose(mean, [*y, 0.0], atol=1e-6)
    np.testing.assert_allclose(variance[:3], 0.0, atol=1e-6)
    assert 0.05 < variance[3] < 1.0


@pytest.mark.slow
def test_langevin_chains_fill_the_uniform(tmp_path: Path) -> None:
    end = scores.langevin_of_uniform(KEY, updates=400, chains=200, steps=600, step=6e-3)
    assert end.mean() == pytest.approx(5.0, abs=0.3)
    assert end.std() == pytest.approx((16.0 / 12.0 + 0.2**2) ** 0.5, rel=0.1)
    assert ((end > 2.2) & (end < 7.8)).all()
    score_figures.draw_uniform(end, tmp_path / "langevin.png")
    written(tmp_path / "langevin.png")
    x = np.linspace(0.0, 10.0, 2001)
    assert np.sum(score_figures.blurred_uniform(x)) * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_ascent_ends_on_the_circle(tmp_path: Path) -> None:
    found = scores.ascent_to_circle(KEY, updates=600, chains=20, steps=150)
    assert np.linalg.norm(found.start, axis=1).min() < 1.5
    np.testing.assert_allclose(np.linalg.norm(found.exact, axis=1), 3.0, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(found.learnt, axis=1), 3.0, atol=0.3)  # a short training
    score_figures.draw_circle(found, tmp_path / "circle.png")
    written(tmp_path / "circle.png")


def test_levels_are_held_as_in_planning() -> None:
    schedule = scores.TableVE((0.3, 0.2, 0.1))
    grid = scores.held(schedule, 9)
    assert grid.num_steps == 9
    sigmas = np.asarray(grid.levels.sigma)[1:]
    assert (np.diff(sigmas) <= 1e-7).all()
    np.testing.assert_allclose(np.unique(sigmas.round(5)), [0.1, 0.2, 0.3], atol=1e-5)


def test_every_collection_of_figures_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered modules have `draw`; it writes its pictures one by one and then tells what they say."""
    for method in REGISTRY.values():
        assert method.figures is None or callable(importlib.import_module(method.figures).draw)
    monkeypatch.setattr(scores, "energies", lambda key, x: scores.Energies(x, *([np.sin(x)] * 6)))
    fit = uncertainty.Uncertainty("fit", 1.0, *([np.cos(score_figures.X) + 1.1] * 3))
    monkeypatch.setattr(uncertainty, "uncertainties", lambda key, x: (fit, fit))
    monkeypatch.setattr(scores, "langevin_of_uniform", lambda key: np.linspace(3.0, 7.0, 50))
    points = np.random.default_rng(0).normal(size=(4, 20, 2))
    monkeypatch.setattr(scores, "ascent_to_circle", lambda key: scores.Ascent(*points))
    paths = list(score_figures.draw(tmp_path))
    *pictures, page, html = paths
    assert [path.name for path in pictures] == ["energy.png", "uncertainty.png", "langevin.png", "circle.png"]
    assert (page.name, html.name) == ("figures.md", "report.html")
    assert html.read_text().count("<img ") == 4
    text = page.read_text()
    assert text.count("![") == 4
    assert "mean 5.00" in text


@pytest.mark.slow
def test_the_program(tmp_path: Path) -> None:
    launch = partial(run, tmp_path, "launch/report.py", f"--out={tmp_path}", timeout=280.0)
    refused = launch("--figures=nobody", code=2)
    assert refused.stderr.startswith("error: --figures=nobody: no such figures; there are those of ")
    launch("--figures=sgp", "runs/a", code=2)
    done = launch("--figures=sgp")
    assert done.stdout.count("wrote ") == 6
    for name in ("energy", "uncertainty", "langevin", "circle"):
        written(tmp_path / f"{name}.png")
