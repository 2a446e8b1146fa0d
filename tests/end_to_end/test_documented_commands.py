"""Every command that the documents and the experiments give is one that its program takes, of a config that can be made."""

import json
import re
import shlex
from pathlib import Path

import pytest
from programs import ROOT, run

SOURCES = ["README.md", "BUILD.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
SOURCES += [str(path.relative_to(ROOT)) for folder in ("experiments", "launch") for path in (ROOT / folder).rglob("*.py")]
WORDS = r"""(?:'[^']*'|"[^"]*"|[^`#|;&'"])*"""
COMMAND = re.compile(rf"(?:python (?P<path>launch/\w+\.py)|(?<![\w-])diffrl-(?P<name>\w+)) (?P<rest>{WORDS})")


def commands() -> dict[str, list[tuple[str, list[str]]]]:
    """Of every program its documented uses: where, and the words behind the program's name."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for source in SOURCES:
        text = re.sub(r"\\\n\s*", "", (ROOT / source).read_text())
        for line in text.splitlines():
            for match in COMMAND.finditer(line):
                script = match["path"] or f"launch/{match['name']}.py"
                words = shlex.split(match["rest"])
                # Sentences name flags without values, messages hold places for theirs.
                if (ROOT / script).is_file() and not re.search("[…{]|--help", match["rest"]) and "--config" not in words:
                    found.setdefault(script, []).append((source, words))
    return found


COMMANDS = commands()


def test_there_are_documented_commands() -> None:
    assert {f"launch/{name}.py" for name in ("train", "evaluate", "report", "collect", "sweep")} <= COMMANDS.keys()
    assert sum(map(len, COMMANDS.values())) > 100


@pytest.mark.parametrize("script", COMMANDS)
def test_commands_parse(script: str, tmp_path: Path) -> None:
    found = run(tmp_path, "tests/end_to_end/parse.py", script, json.dumps(COMMANDS[script]))
    assert found.stderr == ""
