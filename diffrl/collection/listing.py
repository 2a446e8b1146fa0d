"""The list of recipes as text: names whole at any width, by family, with what their data cost."""

import textwrap
from collections.abc import Sequence

from rich.filesize import decimal

from diffrl.collection.recipe import Recipe
from diffrl.logging.console import duration

_SUMMARY = 30  # characters beside which a summary is worth reading
_GAP = "  "
_LEGEND = (
    "Size is of the Minari dataset; time is of one core, and where datasets share a training, + its time, once for all of them. "
    "Computed from rates measured on an EPYC core of 2.4 GHz: others differ, and several share the work."
)


def listing(recipes: Sequence[Recipe], width: int) -> str:
    """Every recipe with its rows, size on disk, time and summary; what does not fit beside the name stands below it.

    Args:
        recipes: in the order in which families, and recipes within one, are shown.
        width: characters of a line. Only a name or another single word that is longer makes a longer line.
    """
    columns = [(recipe.name, *_figures(recipe)) for recipe in recipes]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    families: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        families.setdefault(recipe.family, []).append(recipe)
    lines = []
    for family, members in families.items():
        extras = ", ".join(sorted({f"diffrl[{recipe.extra}]" for recipe in members if recipe.extra != "envs"}))
        needs = f", needing {extras}" if extras else ""
        lines += _wrapped(f"{family} ({len(members)} dataset{'s' * (len(members) > 1)}{needs})", width, "")
        lines += [line for recipe in members for line in _entry(recipe, widths, width)] + [""]
    return "\n".join([*lines, *_wrapped(_LEGEND, width, "")])


def _entry(recipe: Recipe, widths: Sequence[int], width: int) -> list[str]:
    figures, below = _figures(recipe), 2 * _GAP
    aligned = [f"{figure:>{space}}" for figure, space in zip(figures, widths[1:], strict=True)]
    row = _GAP + _GAP.join([f"{recipe.name:<{widths[0]}}", *aligned])
    if len(row) > width:
        row = "\n".join([_GAP + recipe.name, *_wrapped(", ".join(filter(None, figures)), width, below)])
    elif len(row + _GAP) + _SUMMARY <= width:
        first, *rest = _wrapped(recipe.summary, width, " " * len(row + _GAP))
        return [row + first[len(row) :], *rest]
    return [row, *_wrapped(recipe.summary, width, below)]


def _figures(recipe: Recipe) -> tuple[str, str, str]:
    """Rows, size and time; empty where they are unknown."""
    rows, cost = f"{recipe.rows:,} rows", recipe.cost
    if cost is None:
        return rows, "", ""
    once = f" + {duration(float(cost.once_seconds))}" if cost.once_seconds else ""
    return rows, decimal(round(recipe.rows * cost.bytes_per_row)), f"{duration(recipe.rows / cost.rows_per_second)}{once}"


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """Lines of whole words, names with hyphens among them."""
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
