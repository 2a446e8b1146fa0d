"""Methods are known by name in one place."""

import re
from pathlib import Path

import pytest

from diffrl.registry import REGISTRY, name_of

ROOT = Path(__file__).parents[1]


def test_no_method_is_named_outside_the_registry() -> None:
    """No room but that of the methods knows one: neither its name in quotes nor its module."""
    names = "|".join(REGISTRY)
    pattern = re.compile(rf"""["'](?:{names})["']|algorithms\.(?:{names})\b|algorithms import .*\b(?:{names})\b""")
    assert pattern.search('if name == "srpo":')
    files = [path for path in (ROOT / "diffrl").rglob("*.py") if path.parent.name != "algorithms" and path.name != "registry.py"]
    files += (ROOT / "launch").glob("*.py")
    assert len(files) > 100
    found = {str(path): match.group() for path in files if (match := pattern.search(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize("name", REGISTRY)
def test_registry_finds_a_method_by_its_config(name: str) -> None:
    assert name_of(REGISTRY[name].config()) == name
