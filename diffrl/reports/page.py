"""A report as one HTML file, `report.html`: the Markdown's own text, with tables to sort, curves to hover and films to play.

The file asks for nothing from anywhere: style, script, pictures and films stand inside it, and its Content-Security-Policy lets a
browser load nothing else. Without JavaScript it is read like the Markdown.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from diffrl import escape, files
from diffrl.reports import charts
from diffrl.reports import films as filmed
from diffrl.reports.charts import Chart
from diffrl.reports.films import Film

NAME = "report.html"
STYLE, SCRIPT = ((Path(__file__).parent / name).read_text() for name in ("page.css", "page.js"))
NUMBER = r"[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"


def write(
    path: Path, text: str, curves: Mapping[str, Sequence[Chart]] | None = None, films: Iterable[Film] = ()
) -> tuple[Path, Path]:
    """Write a report to `path` in Markdown, and the same report to report.html beside it.

    Args:
        path: of the Markdown; its pictures stand beside it.
        text: the Markdown, in which text from data has passed `escape.markdown`.
        curves: what is drawn anew in place of a picture, by the picture's file name.
        films: shown behind the text.

    Returns:
        Both paths.
    """
    files.write(path, text.encode())
    page = path.with_name(NAME)
    files.write(page, to_html(text, path.parent, curves or {}, films).encode())
    return path, page


def to_html(text: str, folder: Path, curves: Mapping[str, Sequence[Chart]], films: Iterable[Film]) -> str:
    """The page; see `write`. Pictures are read from `folder`."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in _RULES.items():
        markdown.add_render_rule(name, rule)
    tokens = markdown.parse(text)
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if inline.type == "inline" and [child.type for child in inline.children or ()] == ["image"]:
            before.hidden = after.hidden = True  # a figure stands in no paragraph
    body = markdown.renderer.render(tokens, markdown.options, {"folder": folder, "curves": curves})
    title = next((inline.content for head, inline in itertools.pairwise(tokens) if head.type == "heading_open"), "")
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape.html(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}{filmed.to_html(films)}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def number_in(cell: str) -> float | None:
    """What a cell of a table is sorted by: its number, that before its interval, or the middle of an interval alone."""
    found = re.match(rf"\**({NUMBER})\**(?: … ({NUMBER}))?\**(?=[ %]|$)", cell)
    if found is None:
        return None
    numbers = [float(text.replace(",", "").replace("\N{MINUS SIGN}", "-")) for text in found.groups() if text]
    return sum(numbers) / len(numbers)


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _text(self: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    return escape.html(tokens[index].content)


def _code(self: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    return f"<code>{_text(self, tokens, index)}</code>"


def _block(self: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    return f"<pre>{_code(self, tokens, index)}</pre>\n"


def _cell(self: Any, tokens: Sequence[Any], index: int, *_: Any) -> str:
    """A cell with the number that it is sorted by."""
    token = tokens[index]
    side = ' class="number"' if "right" in str(token.attrGet("style")) else ""
    if token.tag == "th":
        return f'<th scope="col"{side}>'
    value = number_in(tokens[index + 1].content)
    return f"<td{side}>" if value is None else f'<td{side} data-value="{value}">'


def _image(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    """A picture of the report's folder, or the curves in its place."""
    name, alt = str(tokens[index].attrGet("src")), escape.html(tokens[index].content)
    path = env["folder"] / name
    if Path(name).name != name or path.suffix != ".png" or not path.is_file():
        return alt
    picture = f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
    if name not in env["curves"]:
        return f'<figure class="picture">{picture}</figure>\n'
    figures = [
        f'<figure class="chart" data-chart="{escape.html(charts.to_json(chart))}">'
        f"<figcaption>{'<br>'.join(escape.html(line) for line in chart.title.splitlines())}</figcaption></figure>\n"
        for chart in env["curves"][name]
    ]
    return f'{"".join(figures)}<noscript><figure class="picture">{picture}</figure></noscript>\n'


_RULES = {
    "text": _text,
    "code_inline": _code,
    "code_block": _block,
    "fence": _block,
    "th_open": _cell,
    "td_open": _cell,
    "table_open": lambda *_: '<div class="wide"><table>\n',
    "table_close": lambda *_: "</table></div>\n",
    "image": _image,
}
