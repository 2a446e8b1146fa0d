"""Tables in Markdown."""

import re
from pathlib import Path

from diffrl.reports import markdown

ROOT = Path(__file__).parents[2]


def test_a_table() -> None:
    assert markdown.table(["name", "a"], [["x", "1"], ["y|z\n", "2"]]) == (
        "| name | a |\n| --- | ---: |\n| x | 1 |\n| y\\|z  | 2 |\n"
    )
    assert markdown.table(["a", "b"], [], left=2) == "| a | b |\n| --- | --- |\n"


def test_nobody_else_writes_one() -> None:
    """Bars between cells, or the line below a head, in a string of the source."""
    bars = re.compile(r"""["'](\| | \| | \|)["']|[|] ---|---:""")
    files = [*(ROOT / "diffrl").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    found = {file.relative_to(ROOT).as_posix() for file in files if bars.search(file.read_text())}
    assert found == {"diffrl/reports/markdown.py"}
