"""Pages made of the code alone: the configuration and the programs."""

import ast
import dataclasses
import importlib

from source import ROOT, Setting, attributes_of, docstring, flags_of, settings_of, settings_table, table, words

from diffrl import config as configs
from diffrl.registry import REGISTRY

CONFIG = """# Configuration

What a training does is one value, a `diffrl.config.Config`. An experiment file makes it, `--config.NAME=VALUE` sets any
of its fields on the command line, and it is stored in the *workdir*, the directory of the training, as `config.json`.
This page is made from the classes. `--config.algorithm.NAME=VALUE` sets what is the method's own: see
[its page](../methods/index.md).

Tuples are written `'(256,256)'`, or `a,b` where they are of words. A name that does not exist is refused with the nearest
that does; a number out of its range with the range.
"""

PARTS = {
    "": ("The training", ""),
    "dataset": ("The data", "[Your data](../data.md) explains them."),
    "online": ("Interaction", "[Learning by interaction](../online.md) explains it."),
    "init_from": ("Starting from another training", ""),
    "halving": ("Dropping points on the way", "[Sweeps](../sweeps.md#dropping-points-on-the-way) explains it."),
}

PROGRAMS = """# Programs

Installed they are called `diffrl-NAME`, from a checkout `python launch/NAME.py`; `--help` says what stands here. This
page is made from the programs. A wrong flag or setting ends a program with one line and exit code 2.
"""


def config_page() -> str:
    """A table for each part of the configuration."""
    parts: dict[str, list[Setting]] = {name: [] for name in PARTS}
    for setting in settings_of(configs.Config(algorithm=None)):
        holder, _, name = setting.name.rpartition(".")
        if name != "algorithm":
            parts[holder].append(setting._replace(name=name))
    texts = []
    for holder, (title, more) in PARTS.items():
        prefix = ".".join(filter(None, ("--config", holder)))
        texts.append(f"## {title}\n\n`{prefix}.NAME=VALUE`. {more}\n\n{settings_table(parts[holder])}")
    methods = ", ".join(f"[`{name}`](../methods/{name}.md)" for name in sorted(REGISTRY))
    return f"{CONFIG}\n" + "\n".join(texts) + f"\n## The method\n\n`config.algorithm` is one of {methods}.\n"


def fields_table(name: str) -> str:
    """The fields of a file, from the dataclass that it is: "module:Class"."""
    module, _, cls = name.partition(":")
    holder = getattr(importlib.import_module(f"diffrl.{module}"), cls)
    about = attributes_of(holder)
    rows = [[f"`{field.name}`", words(about.get(field.name, ""))] for field in dataclasses.fields(holder)]
    return table(["field", "is"], rows)


def programs_page() -> str:
    """What each program is for, its examples, and its flags."""
    texts = [PROGRAMS]
    for path in sorted((ROOT / "launch").glob("[a-z]*.py"), key=lambda path: (path.stem != "menu", path.stem)):
        about = docstring(ast.parse(path.read_text()))
        rows = [[f"`--{flag.name}`", flag.default, flag.about] for flag in flags_of(path)]
        name = "diffrl" if path.stem == "menu" else f"diffrl-{path.stem}"
        texts.append(f"## {name}\n\n{about}\n")
        texts.append(table(["flag", "default", "is"], rows) if rows else "")
    return "\n".join(texts)
