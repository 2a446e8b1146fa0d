"""Names and notes from elsewhere are shown as they are: no mark-up, no picture, no formula, no command of a terminal."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from workdirs import card, describe, tiny_config

from diffrl import program
from diffrl.data.scores import Reference
from diffrl.evaluation import results
from diffrl.evaluation.results import Result, Settings
from diffrl.reports import plots, tables
from diffrl.training.runs import make_runs

WORDS = (
    *(
        "[link=http://x]y[/link]",
        "[/bold]",
        "a\x1b[31m\x07b",
        "$\\frac",
        "$x^{",
        "two\nlines",
        "a|b",
        "<script>alert(1)</script>",
    ),
    *(
        "![x](http://x/y.png)",
        "[x](http://x)",
        "=cmd()",
        "+1+cmd",
        "@x",
        "-x",
        "`code`",
        "\u202eabc",
        ":smile:",
        "--- |\n# Head",
        "x" * 5000,
    ),
)


@pytest.mark.parametrize("words", WORDS, ids=ascii)
def test_words_have_no_meaning(words: str, tmp_path: Path) -> None:
    """In tables, on the terminal and in pictures."""
    config = tiny_config(num_seeds=1, sweep="")
    describe(tmp_path / "run", config, card(id=words, ref_provenance=words))
    returns, runs = np.ones((1, 2)), make_runs(config)
    values = returns, np.full((1, 2), 15), returns > 0
    settings = Settings("jax", words, 2, 0)
    saved = Result(20, settings, Reference(0.0, 100.0, words), words, runs.seeds, runs.points, *values, (words,))
    results.save(tmp_path / "run", saved, np.zeros((0, 0, 0, 0), np.float32))
    series = tables.read([tmp_path / "run"])

    page = tables.to_markdown(series)
    for live in (r"(?<!\\)<script", r"\]\(http", "\x1b", "\n# Head", "\u202e"):
        assert not re.search(live, page)
    assert sum(line.startswith("#") for line in page.splitlines()) == 2

    (row,) = csv.DictReader(io.StringIO(tables.to_csv(tables.rows(series))))
    assert row["dataset"].removeprefix("'") == words
    assert not row["dataset"].startswith(("=", "+", "-", "@"))

    shown = io.StringIO()
    console = program.console(file=shown)
    console.print(words)
    assert "\x1b" not in shown.getvalue()
    assert shown.getvalue().isprintable() or set(shown.getvalue()) - {"\n"} == {c for c in shown.getvalue() if c.isprintable()}

    chart = plots.curves(series, plots.colours(series))
    assert plots.learning_curves(chart, tmp_path / "curves.png").stat().st_size > 1000
