"""The one place where tables are written in Markdown."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table that ends its last line.

    Args:
        header: heads of the columns.
        rows: cells, as many in each row as there are columns.
        left: how many columns, from the first on, are words and stand to the left; numbers stand to the right.
    """
    ruler = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [_cells(header), ruler, *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(texts: Sequence[str]) -> list[str]:
    """A bar would end the cell, a line's end the row."""
    return [text.replace("|", "\\|").replace("\n", " ") for text in texts]
