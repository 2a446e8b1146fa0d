"""report.html: the Markdown's words and numbers in one file, read by a parser and, where there is one, by a real browser."""

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, browser
from workdirs import card, describe, tiny_config

from diffrl.data.scores import Reference
from diffrl.evaluation import results, statistics
from diffrl.evaluation.results import Result, Settings
from diffrl.reports import films, markdown, page, plots, tables

SETTINGS = Settings("jax", "PointMaze_UMaze-v3 as rewritten in JAX", episodes=2, seed=0)
MP4 = b"\0\0\0\x18ftypisom" + b"\1" * 100


def evaluated(workdir: Path, name: str = "tests/pointmaze/umaze-v0") -> Path:
    """Two points of two seeds at two checkpoints: 5 and 14 at the last."""
    describe(workdir, tiny_config(), card(id=name))
    for step, returns in ((100, [[1, 1], [3, 3], [0, 0], [0, 0]]), (200, [[2, 4], [6, 8], [8, 12], [16, 20]])):
        array = np.array(returns, np.float64)
        result = Result(
            step=step,
            settings=SETTINGS,
            reference=Reference(0.0, 20.0, "made up"),
            reference_note="made up",
            seeds=[0, 1, 0, 1],
            hparams=[{"learning_rate": rate} for rate in (0.1, 0.1, 0.2, 0.2)],
            returns=array,
            lengths=np.full(array.shape, 15, np.int32),
            successes=array > 10,
        )
        results.save(workdir, result, np.zeros((0, 0, 0, 0), np.float32))
    (workdir / "DONE").write_text("{}")
    return workdir


def reported(workdir: Path, out: Path, shown: tuple[films.Film, ...] = ()) -> tuple[str, Path]:
    """The Markdown of a report, and its page."""
    series = tables.read([workdir])
    chart = plots.curves(series, plots.colours(series))
    plots.learning_curves(chart, out / "curves.png")
    text = tables.to_markdown(series) + "\n![curves](curves.png)\n"
    _, path = page.write(out / "results.md", text, {"curves.png": [chart]}, shown)
    return text, path


class Read(HTMLParser):
    """What a page holds: tags with their attributes, and the text of each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.tags[-1][2].append(data)

    def texts(self, *names: str) -> list[str]:
        return ["".join(text).strip() for tag, _, text in self.tags if tag in names]

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes, _ in self.tags if name in attributes]


def test_what_a_cell_is_sorted_by() -> None:
    for cell, number in (
        *(("12.50", 12.5), ("-3", -3.0), ("\N{MINUS SIGN}280", -280.0), ("1,234.5", 1234.5), ("1.5e-05", 1.5e-5), ("75 %", 75.0)),
        *(("40.0 [20.0, 60.0]", 40.0), ("**40.0** [20.0, 60.0]", 40.0), ("15.00 … 35.00", 25.0), ("**-2 … 4**", 1.0)),
        *(("2.5 ± 0.3 (3 seeds)", 2.5), ("-", None), ("", None), ("–", None), ("diverged", None), ("nan", None)),
        *(("learning_rate=0.1", None), ("2spirals", None), ("8gaussians-v0", None), ("1-run", None)),
    ):
        assert page.number_in(cell) == number, cell


def test_the_tables_are_those_of_the_markdown(tmp_path: Path) -> None:
    text, path = reported(evaluated(tmp_path / "run"), tmp_path)
    read = Read(path)
    series = tables.read([tmp_path / "run"])
    header, rows = tables.formatted(series)
    assert markdown.table(header, rows) in text
    assert read.texts("th") == header
    assert read.texts("td") == [cell for row in rows for cell in row]
    assert read.texts("li") == tables.explanation(series)
    assert read.texts("h1", "h2") == ["Results", "tests/pointmaze/umaze-v0"]
    assert [float(value) for value in read.attributes("data-value")][:7] == [200, 2, 2, 5, 25, 25, 25]


def test_the_curves_are_the_statistics(tmp_path: Path) -> None:
    _, path = reported(evaluated(tmp_path / "run"), tmp_path)
    (chart,) = map(json.loads, Read(path).attributes("data-chart"))
    first, second = chart["curves"]
    assert (first["name"], first["x"], first["mean"]) == ("diffusion_bc, learning_rate=0.1 (2 runs)", [100, 200], [10.0, 25.0])
    assert second["runs"] == [{"name": "seed 0", "values": [0.0, 50.0]}, {"name": "seed 1", "values": [0.0, 90.0]}]
    assert statistics.interval(np.array([50.0, 90.0])) == (second["low"][1], second["high"][1])
    assert chart["level"]["value"] == 25.0
    assert (chart["x"], chart["y"]) == ("updates", "normalised score")


def test_it_asks_for_nothing(tmp_path: Path) -> None:
    """Whatever could be loaded stands inside, and the policy forbids the rest."""
    (tmp_path / "film.mp4").write_bytes(MP4)
    _, path = reported(evaluated(tmp_path / "run"), tmp_path, (films.Film("best", tmp_path / "film.mp4"),))
    read = Read(path)
    sources = read.attributes("src")
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64", "data:video/mp4;base64"]
    assert base64.b64decode(sources[0].partition(",")[2]) == (tmp_path / "curves.png").read_bytes()
    assert not {tag for tag, _, _ in read.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML|https?://(?!www\.w3\.org/2000/svg)", path.read_text())
    (policy,) = [content for content in read.attributes("content") if "default-src" in content]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "words", ["</script><script>x()</script>", "\"' onload=x()", "<img src=x onerror=x()>", "&lt;b&gt;", "\x1b"]
)
def test_names_are_text(words: str, tmp_path: Path) -> None:
    _, path = reported(evaluated(tmp_path / "run", words), tmp_path)
    read = Read(path)
    scripts = read.texts("script")
    assert [script.strip() for script in scripts] == [page.SCRIPT.strip()]
    assert not [name for _, attributes, _ in read.tags for name in attributes if name.startswith("on")]
    assert len([tag for tag, _, _ in read.tags if tag == "img"]) == 1
    shown = words.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    # A picture shows a name as it is; Markdown reads an entity in it.
    assert read.texts("figcaption")[0].startswith(shown)
    assert read.texts("h2")[0] in (shown, html.unescape(shown))


def test_pictures_of_other_folders_stay_there(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    text = "![a](../secret.png)\n\n![b](secret.txt)\n\n![c](none.png)\n\n![d](http://x/y.png)\n"
    assert "<img" not in page.to_html(text, tmp_path / "out", {}, ())


def test_films_stand_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a film is, is seen by its first bytes; what is left out is said."""
    workdir = evaluated(tmp_path / "run")
    (series, _) = tables.read([workdir])
    path = results.path_of(workdir, 200, series.last.settings)

    def film(which: str, content: bytes, suffix: str = ".mp4") -> Path:
        place = path.with_name(f"{path.stem}-{which}{suffix}")
        place.write_bytes(content)
        return place

    assert films.of("bc", workdir, series.last) == []
    assert films.to_html([]) == ""
    best, worst = film("best", MP4), film("worst", b"GIF89a", ".gif")
    found = films.of("bc", workdir, series.last)
    assert found == [films.Film("bc: best episode", best), films.Film("bc: worst episode", worst)]
    shown = films.to_html([*found, *found])  # of two points of one workdir
    assert shown.count("<video") == shown.count("<img") == 1
    assert "left out" not in shown

    median = film("median", b"root:x:0:0")
    assert f"median episode is left out: its file is no mp4. It is {median}." in films.to_html(
        films.of("bc", workdir, series.last)
    )
    worst.unlink()
    worst.symlink_to(best)
    assert "its file is a link" in films.to_html(films.of("bc", workdir, series.last))
    monkeypatch.setattr(films, "LARGEST", 50)
    assert "best episode is left out: it takes 0.0 MB" in films.to_html(found)
    monkeypatch.setattr(films, "LARGEST", 200)
    monkeypatch.setattr(films, "ALTOGETHER", 150)
    median.write_bytes(MP4)
    shown = films.to_html(films.of("bc", workdir, series.last))
    assert shown.count("<video") == 1
    assert "would take more than" in shown


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium with chromedriver")
def test_in_a_browser(tmp_path: Path) -> None:
    """Sort a table with the mouse's click and with keys, hover a curve, switch it off; nobody complains, at any width."""
    _, path = reported(evaluated(tmp_path / "run", "</script><img src=x onerror=alert(1)>"), tmp_path)
    column = "return [...document.querySelectorAll('tbody tr')].map(row => row.cells[{}].textContent)"
    with browser(tmp_path) as window:
        window.open(path)
        header = window.run("return [...document.querySelectorAll('th')].map(head => head.textContent)")
        score = header.index("score")
        values = column.format(score)
        assert window.run(values) == ["25.00", "70.00", "25.00"]
        head = f"document.querySelectorAll('th')[{score}]"
        window.run(f"{head}.querySelector('button').click(); {head}.querySelector('button').focus()")
        assert window.run(values) == ["25.00", "25.00", "70.00"]
        window.press("\ue007")  # Enter
        assert window.run(f"return {head}.getAttribute('aria-sort')") == "descending"
        assert window.run(values) == ["70.00", "25.00", "25.00"]
        window.press("\ue00d")  # space: as it was written
        assert window.run(values) == ["25.00", "70.00", "25.00"]
        # An interval is sorted by its middle, and what has none stays below.
        interval = header.index("95 % interval")
        for _ in range(2):
            window.run(f"document.querySelectorAll('th')[{interval}].querySelector('button').click()")
        assert window.run(column.format(interval)) == ["50.00 … 90.00", "15.00 … 35.00", "-"]

        told = (
            "const tip = document.querySelector('.tip'); return tip.hidden ? null : [...tip.children].map(at => at.textContent)"
        )
        for width in (1100, 360):
            window.open(path, width)
            assert window.run("return document.documentElement.scrollWidth") <= width
            x, y = window.run("""
                document.querySelector('.chart svg').scrollIntoView({block: 'center'});
                const all = [...document.querySelectorAll('.chart svg circle[r="4"]')];
                const box = all[3].getBoundingClientRect();  // the last point of the second curve
                return [box.x + box.width / 2, box.y + box.height / 2]""")
            assert window.run(told) is None
            window.move(x, y)
            expected = ["diffusion_bc, learning_rate=0.2 (2 runs)", "updates: 200", "mean: 70", "95 % interval: 50 … 90"]
            assert window.run(told) == expected
        window.run("document.querySelector('.chart svg').focus()")
        window.press("\ue012")  # left
        assert window.run(told)[1:3] == ["updates: 100", "mean: 0"]
        paths = "return document.querySelectorAll('.chart svg path').length"
        before = window.run(paths)
        window.run("document.querySelectorAll('.legend button')[1].click()")
        assert window.run("return document.querySelectorAll('.legend button')[1].getAttribute('aria-pressed')") == "false"
        assert window.run(paths) == before - 4  # two runs, their mean and its band
        window.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert window.run("return performance.getEntriesByType('resource').map(one => one.name.slice(0, 5))") in ([], ["data:"])
        assert window.complaints() == []

        window.command("Emulation.setScriptExecutionDisabled", value=True)
        window.open(path)
        seen = window.command("DOM.getDocument")["root"]["nodeId"]
        pictures = window.command("DOM.querySelectorAll", nodeId=seen, selector="noscript img")["nodeIds"]
        assert len(pictures) == 1  # the curves, as a picture
        assert window.complaints() == []
