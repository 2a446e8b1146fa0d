"""What all pictures look like."""

from typing import Any

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}
WALL, DATA, GOAL = "#3b4252", "#8a93a3", "#d1495b"
