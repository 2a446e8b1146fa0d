"""What all pictures look like, and their writing."""

from pathlib import Path
from typing import Any

from matplotlib.text import Text

from diffrl import escape, files

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "text.parse_math": False,  # names of data and simulators are shown as they are
}
LONGEST = 200  # characters of a line of text
WALL, DATA, GOAL = "#3b4252", "#8a93a3", "#d1495b"


def save(figure: Any, path: Path) -> None:
    """Write a picture, of the kind that the path's ending says; see `files.write`."""
    for text in figure.findobj(Text):
        text.set_text("\n".join(escape.printable(line)[:LONGEST] for line in text.get_text().split("\n")))
    files.write(path, lambda file: figure.savefig(file, format=path.suffix.removeprefix(".")))
