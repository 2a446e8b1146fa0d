"""The documents and the code in them."""

import re

from programs import ROOT

PAGES = ["README.md", "BUILD.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of every block of a page; of shell is one without a language."""
    return [(language, text) for _, language, text in BLOCK.findall((ROOT / page).read_text())]


def python(page: str) -> list[str]:
    """The blocks of Python."""
    return [text for language, text in blocks(page) if language == "python"]
