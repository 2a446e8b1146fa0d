"""The documentation: it builds without a warning, every link leads somewhere, nothing is loaded from elsewhere."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from programs import ROOT, run

from diffrl.registry import REGISTRY

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
# What a browser fetches by itself, by tag: the attributes that name it.
LOADED = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src", "video": "src", "object": "data"}


class Page(HTMLParser):
    """Of a page what it loads, where its links lead, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in LOADED and LOADED[tag] in values and values.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of a strict build."""
    root = tmp_path_factory.mktemp("site")
    built = run(root, "tests/build_site.py", "build", "--strict", "--site-dir", str(root / "site"))
    assert "WARNING" not in built.stderr, built.stderr
    return {path: Page(path) for path in (root / "site").rglob("*.html")}


def test_every_link_and_anchor_is_there(site: dict[Path, Page]) -> None:
    assert len(site) > len(REGISTRY) + 25
    broken = []
    for path, page in site.items():
        if path.name == "404.html":  # served for any address, so that its own links are absolute
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = site[target].anchors if target in site and parts.fragment else {unquote(parts.fragment)}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    found = {link for page in site.values() for link in page.loaded if urlsplit(link).netloc}
    folder = next(path.parent for path in site if path.name == "404.html")
    for sheet in folder.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(), flags=re.DOTALL)
        found |= set(re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", text))
    assert not found


def test_the_reference_is_made_of_the_code(site: dict[Path, Page]) -> None:
    pages = {"/".join(path.parts[-2:]): path.read_text() for path in site}
    for words in ("standardize_observations", "updates_per_chunk", "warmup_steps"):
        assert words in pages["reference/config.html"]
    assert {f"diffrl-{path.stem}" for path in (ROOT / "launch").glob("[a-z]*.py")} - {"diffrl-menu"} <= set(
        re.findall(r'id="(diffrl-\w+)"', pages["reference/programs.html"])
    )
    for name in REGISTRY:
        for title in ("from-equations-to-settings", "all-settings"):
            assert f'id="{title}"' in pages[f"methods/{name}.html"], f"{name} has no part {title}"


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file that completes the pages of methods."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    import methods  # pyright: ignore[reportMissingImports]

    for name in ("methods", "source"):
        monkeypatch.delitem(sys.modules, name)
    return methods


def test_every_method_has_a_page(methods: ModuleType) -> None:
    missing = methods.without_page()
    assert not missing, f"write docs/methods/NAME.md (see docs/own-method.md) for {', '.join(missing)}"


def test_the_readme_names_every_method() -> None:
    named = set(re.findall(r"\[`(\w+)`\]\(docs/methods/\1\.md\)", (ROOT / "README.md").read_text()))
    assert named == set(REGISTRY)


def test_the_readme_quotes_the_reproduction() -> None:
    claimed = re.findall(r"[\d.]+ (?:\[[\d., ]+\]|± [\d.]*\d)", (ROOT / "README.md").read_text())
    assert len(claimed) == 3
    page = (ROOT / "docs/reproduction.md").read_text()
    assert [value for value in claimed if value not in page] == []


PAGE = """---
paper: A paper
acts: a guess
---
# bc

| equation | function | setting | published |
| --- | --- | --- | --- |
| (π − a)² | `policy_loss`, `objectives.value:expectile_loss` | `learning_rate`, `batch_size` | 1; 2 |
"""


def test_what_a_page_names_must_exist(methods: ModuleType) -> None:
    page, mistakes = methods.completed("bc", PAGE)
    assert not mistakes
    assert "| `0.0003`; 256 |" in page
    assert "`num_updates`" in page
    for wrong, message in (
        (PAGE.replace("`policy_loss`", "`policy_lost`"), "there is no function 'policy_lost'"),
        (PAGE.replace("value:", "values:"), "there is no function 'objectives.values:expectile_loss'"),
        (PAGE.replace("`batch_size`", "`batch`"), "there is no setting 'batch'"),
        (PAGE.replace("| setting |", "| knob |"), "there is no table of equation, function, setting, published"),
        (PAGE.replace(" | 1; 2 |", " |"), "a row of the table has 3 cells, not 4"),
    ):
        assert any(message in mistake for mistake in methods.completed("bc", wrong)[1]), message
    assert methods.completed("bd", PAGE)[1] == ["no method is called 'bd'"]


def test_lines_of_documents_are_short() -> None:
    long = []
    for path in (ROOT / "README.md", ROOT / "BUILD.md", *(ROOT / "docs").rglob("*.md")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if len(line.encode()) > 120 and not line.startswith("|"):
                long.append(f"{path.relative_to(ROOT)}:{number}")
    assert not long


@pytest.mark.parametrize("path", ["README.md", "docs/index.md"])
@pytest.mark.parametrize("word", ["run", "stage", "workdir", "card", "recipe"])
def test_words_of_ours_are_explained_where_they_first_appear(path: str, word: str) -> None:
    """Set in italics there, outside of code, links and pictures; "run" is a verb before it is a noun."""
    text = re.sub(r"```.*?```|`[^`]*`|!?\[[^\]]*\]\([^)]*\)", "", (ROOT / path).read_text(), flags=re.DOTALL)
    before, explained, _ = re.split(rf"(\*{word}s?\*)", text, maxsplit=1)
    assert explained
    assert word == "run" or not re.search(rf"\b{word}s?\b", before)
