"""What pages say of the code, read from the code: settings with their types, ranges and words, and the flags of programs."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import re
import runpy
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from diffrl.settings import LARGEST_FLOAT, range_of

ROOT = Path(__file__).parents[2]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that may hold mark-up."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in line) + " |\n" for line in lines)


def prose(text: str, signs: str = "_*[") -> str:
    """Text whose signs are no mark-up, but for `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = re.compile(f"([{re.escape(signs)}])")
    return "".join(part if part[:1] == "`" else escaped.sub(r"\\\1", part.replace("<", "&lt;")) for part in parts)


def words(text: str) -> str:
    """A docstring's sentences as mark-up; flags are code."""
    return re.sub(r"(?<![`\w-])--[a-z]\w*(?:\.\w+)*(?:=[\w.{}/:…-]*\w)?", r"`\g<0>`", prose(text, "*["))


def docstring(tree: ast.Module) -> str:
    """That of a file as mark-up: its indented lines, and those that are commands, are code."""
    blocks = []
    for block in re.split(r"\n\n+", ast.get_docstring(tree) or ""):
        if block.startswith(("    ", "python ")):
            blocks.append(f"```\n{inspect.cleandoc(block)}\n```")
        else:
            blocks.append(words(block))
    return "\n\n".join(blocks)


class Setting(NamedTuple):
    """A field of the configuration, as a reader sets it."""

    name: str
    kind: str
    span: str
    default: str
    about: str


def settings_of(holder: Any, prefix: str = "") -> Iterator[Setting]:
    """Of a dataclass of settings with its defaults, and of those inside it, in order."""
    about = attributes_of(type(holder))
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        else:
            name = prefix + field.name
            yield Setting(name, kind_of(field.type), span_of(field, value), shown(value), words(about.get(field.name, "")))


def settings_table(settings: Sequence[Setting]) -> str:
    """A row for each."""
    rows = [[f"`{s.name}`", s.kind, s.span, s.default, s.about] for s in settings]
    return table(["setting", "type", "range", "default", "is"], rows)


def attributes_of(cls: type) -> dict[str, str]:
    """What the docstrings of a class and those it inherits from say of their attributes, by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        for entry in re.split(r"\n(?=\S)", inspect.cleandoc(section[1])) if section else ():
            names, _, about = entry.partition(":")
            found |= dict.fromkeys(re.findall(r"\w+", names), " ".join(about.split()))
    return found


def kind_of(hint: Any) -> str:
    """A declared type, in short."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{option!r}`" for option in typing.get_args(hint))
    if isinstance(hint, types.UnionType):
        return " or ".join(kind_of(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {kind_of(typing.get_args(hint)[0])}"
    return {type(None): "`None`"}.get(hint, getattr(hint, "__name__", str(hint)))


def span_of(field: dataclasses.Field, value: Any) -> str:
    """The numbers that a field takes; empty where it takes none."""
    number = re.search(r"\b(float|int)\b", str(field.type))
    if not number:
        return ""
    low, high = range_of(field, {"float": 0.0, "int": 1}[number[1]])
    if high >= LARGEST_FLOAT:
        return "any" if low < -LARGEST_FLOAT else f"≥ {low:g}"
    return f"{low:,} … {high:,}" if number[1] == "int" else f"{low:g} … {high:g}"


def shown(value: Any) -> str:
    """A default."""
    if type(value) is float and len(repr(value)) > 10:
        return f"`{value:.4g}`"
    return f"{value:,}" if type(value) is int else f"`{value!r}`"


class Flag(NamedTuple):
    """Of a program."""

    name: str
    default: str
    about: str


def flags_of(program: Path) -> list[Flag]:
    """Those that a file under launch/ declares, in its order: the file is run as a module, and its flags taken off again."""
    declared = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', program.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(str(program), run_name=f"documented_{program.stem}")
    found = [flags.FLAGS[name] for name in declared]
    for name in declared:
        delattr(flags.FLAGS, name)  # the next program may have one of this name
    return [Flag(flag.name, _default(flag), words(_help(flag))) for flag in found]


def _default(flag: flags.Flag) -> str:
    if isinstance(flag.default, list):
        return ", ".join(f"`{value}`" for value in flag.default) if len(flag.default) < 20 else "all"
    return "" if flag.default in (None, "") else f"`{str(flag.default_as_str).strip(chr(39))}`"


def _help(flag: flags.Flag) -> str:
    options = getattr(flag, "enum_values", None) or getattr(flag.parser, "enum_values", None)
    about = flag.help.partition(";\n")[0]  # absl adds that a repeatable one is repeatable
    return f"One of {', '.join(options)}. {about}" if options else about


@functools.cache
def names_in(module: str) -> frozenset[str]:
    """Functions and classes anywhere in a module of diffrl, and the names it assigns, without importing it."""
    path = ROOT / "diffrl" / (module.replace(".", "/") + ".py")
    if not path.is_file():
        return frozenset()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)
