"""Text from data made harmless for where it is shown: names, notes and simulators' words come from anywhere.

Pictures need none of these: `reports.style` draws text as it is, and `printable` of it.
"""

import csv
import html as entities
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any


def printable(text: str) -> str:
    """For a terminal or a picture: a line's end becomes a blank, and what else cannot be printed a replacement character."""
    return "".join(c if c.isprintable() else " " if c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def markdown(text: str) -> str:
    """For a sentence or a cell in Markdown, whose readers show HTML: no tag, code, link, picture or cell of the text's own."""
    return re.sub(r"([<`|]|(?<=\])[(:\[])", r"\\\1", printable(text))


def html(text: str) -> str:
    """For the text or a quoted attribute of an HTML page: no tag, no end of an attribute."""
    return entities.escape("\n".join(map(printable, text.split("\n"))))


def csv_lines(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of CSV under their heads. A text that a spreadsheet would run as a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(header), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _plain(value) if isinstance(value, str) else value for name, value in row.items()})
    return out.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
