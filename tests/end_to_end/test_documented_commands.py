"""Every command that the documents and the experiments give is one that its program takes, of a config that can be made."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from documents import PAGES, blocks
from programs import ROOT, run

SOURCES = [*PAGES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.ipynb"))]
SOURCES += [str(path.relative_to(ROOT)) for folder in ("experiments", "launch") for path in (ROOT / folder).rglob("*.py")]
WORDS = r"""(?:'[^']*'|"[^"]*"|[^`#|;&'"])*"""
COMMAND = re.compile(rf"(?:(?:python )?(?P<path>launch/\w+\.py)|(?<![\w-])diffrl-(?P<name>\w+)) (?P<rest>{WORDS})")


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


@pytest.mark.parametrize("page", [*filter(blocks, PAGES)])
def test_blocks_of_shell_hold_commands_that_there_are(page: str) -> None:
    """A block is of shell, unless it says that it is "python" or "text"."""
    wrong = []
    for language, text in blocks(page):
        if language in ("python", "text"):
            continue
        assert not language, f"{page}: a block of {language!r}; of shell is one without a name, others are python or text"
        checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert not checked.stderr, f"{page}: {checked.stderr}"
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            for command in " ".join(shlex.split(line, comments=True)).split(" && "):
                wrong += [f"{page}: {command}"] if command and not known(command.split()) else []
    assert not wrong


def known(words: list[str]) -> bool:
    """Whether a command is one of ours, or asks for what there is. What programs take is tested above."""
    match words:
        case ["python", script, *_] if script.endswith(".py"):
            return (ROOT / script).is_file()
        case ["make", target]:
            return target in re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", *rest]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[([\w,]+)\]", " ".join(rest))
            return bool(named) and {extra for names in named for extra in names.split(",")} <= extras.keys()
        case [program, *_]:
            return program.startswith("diffrl-") and (ROOT / "launch" / f"{program[7:]}.py").is_file()
    return False
