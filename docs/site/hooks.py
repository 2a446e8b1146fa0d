"""What mkdocs calls while it builds the site: adds the pages that are made from code, and completes those of methods.

A warning here is an error of the build, which is strict.
"""

import json
import re
from pathlib import Path

import methods
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from source import ROOT

log = get_plugin_logger("diffrl")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A place in the navigation for the page of every method."""
    (listed,) = (entry["Methods"] for entry in config.nav or () if "Methods" in entry)
    listed.extend({path.stem: f"methods/{path.name}"} for path in sorted(methods.PAGES.glob("*.md")) if path.stem != "index")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that lie nowhere: the reference, BUILD.md, and the notebook."""
    pages = {
        "reference/config.md": reference.config_page(),
        "reference/programs.md": reference.programs_page(),
        "build.md": (ROOT / "BUILD.md").read_text().replace("](docs/", "]("),
        "first-policy.md": notebook(ROOT / "docs/first-policy.ipynb"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for name in methods.without_page():
        log.warning(f"the method {name!r} is registered and has no page: write docs/methods/{name}.md")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Sections of BUILD.md where a page asks for them, links out of the site as names, and what methods leave to the code."""
    del config, files
    path = page.file.src_uri
    whole = re.compile(r"^\[BUILD\.md: (.+)\]\(\.\./BUILD\.md#[\w-]+\)$", re.MULTILINE)  # alone on its line
    markdown = whole.sub(lambda found: section(found[1], path), markdown)
    markdown = re.sub(r"^<!-- fields: (.+) -->$", lambda found: reference.fields_table(found[1]), markdown, flags=re.MULTILINE)
    # The repository's own files are named and not linked: a site may lie anywhere.
    markdown = re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:experiments/[^)]*|results(?:/\w+)?)\)", r"`\1`", markdown)
    markdown = re.sub(r"\]\((?:\.\./)+BUILD\.md", f"]({'../' * path.count('/')}build.md", markdown)
    if path == "methods/index.md":
        return markdown.replace("<!-- methods -->", methods.overview())
    if path.startswith("methods/"):
        markdown, mistakes = methods.completed(Path(path).stem, markdown)
        for mistake in mistakes:
            log.warning(f"{path}: {mistake}")
    return markdown


def section(title: str, path: str) -> str:
    """A section of BUILD.md without its heading, its headings one level higher."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (ROOT / "BUILD.md").read_text(), re.MULTILINE | re.DOTALL)
    if not found:
        log.warning(f"{path}: BUILD.md has no section {title!r}")
        return ""
    return re.sub(r"^###", "##", found[1].replace("](docs/", f"]({'../' * path.count('/')}"), flags=re.MULTILINE)


def notebook(path: Path) -> str:
    """A notebook's cells as a page."""
    cells = json.loads(path.read_text())["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    page = "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts)
    return f"{page}\n\nThis page is [a notebook]({path.name}): download it and run it.\n"
