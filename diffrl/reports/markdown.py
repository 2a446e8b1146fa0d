"""The one place where Markdown is written: what comes from data has no meaning in it."""

from collections.abc import Sequence

from diffrl import escape


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table that ends its last line.

    Args:
        header: heads of the columns.
        rows: cells, as many in each row as there are columns.
        left: how many columns, from the first on, are words and stand to the left; numbers stand to the right.
    """
    ruler = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [[*map(escape.markdown, header)], ruler, *([*map(escape.markdown, row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def heading(text: str, level: int = 1) -> str:
    """A heading and the empty line after it."""
    return f"{'#' * level} {escape.markdown(text)}\n"


def bullets(sentences: Sequence[str]) -> str:
    """A list that ends its last line."""
    return "".join(f"- {escape.markdown(text)}\n" for text in sentences)
