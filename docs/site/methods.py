"""Pages of methods: what is written by hand is checked against the code, what the code knows is added."""

import ast
import re
import textwrap

import yaml
from source import ROOT, docstring, names_in, prose, settings_of, settings_table, table

from diffrl.registry import REGISTRY

PAGES = ROOT / "docs/methods"
HEAD = ["equation", "function", "setting", "published"]
TABLE = r"^\| equation \| function \| setting \| published \|\n\|[ |:-]+\|\n((?:\|.*\n?)+)"


def without_page() -> list[str]:
    """Registered methods that nobody wrote of."""
    return [name for name in sorted(REGISTRY) if not (PAGES / f"{name}.md").is_file()]


def about_of(name: str) -> dict[str, str]:
    """What stands above a method's page: its `paper`, and how it `acts`."""
    return yaml.safe_load((PAGES / f"{name}.md").read_text().split("---\n")[1])


def overview() -> str:
    """All methods in one table."""
    rows = []
    for name in sorted(REGISTRY):
        if (PAGES / f"{name}.md").is_file():
            about, method = about_of(name), REGISTRY[name]
            rows.append(
                [
                    f"[`{name}`]({name}.md)",
                    about["paper"],
                    about["acts"],
                    " and ".join(method.actions),
                    "no" if method.imitates else "yes",
                ]
            )
    return table(["method", "paper", "acts by", "actions", "needs rewards"], rows)


def completed(name: str, page: str) -> tuple[str, list[str]]:
    """A method's page with our values beside the published ones, all its settings and its experiments.

    Returns:
        The page, and what is wrong with it: functions and settings that do not exist, a table that is missing.
    """
    if name not in REGISTRY:
        return page, [f"no method is called {name!r}"]
    settings = {setting.name: setting for setting in settings_of(REGISTRY[name].config())}
    mistakes: list[str] = []

    def row(line: str) -> str:
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        if len(cells) != len(HEAD):
            mistakes.append(f"a row of the table has {len(cells)} cells, not {len(HEAD)}: {line}")
            return line
        for function in re.findall(r"`([\w.:]+)`", cells[1]):
            module, _, wanted = function.rpartition(":")
            if wanted not in names_in(module or f"algorithms.{name}"):
                mistakes.append(f"there is no function {function!r}")
        wanted = re.findall(r"`([\w.]+)`", cells[2])
        mistakes.extend(f"there is no setting {setting!r}" for setting in wanted if setting not in settings)
        ours = "; ".join(settings[setting].default for setting in wanted if setting in settings)
        equation, function, setting, published = (cell.strip() for cell in cells)
        function = re.sub(r"`([\w.]+):(\w+)`", r"<code>\1:<wbr>\2</code>", function)
        return f"| {prose(equation)} | {function} | {setting} | {prose(published)} | {ours or '–'} |"

    found = re.search(TABLE, page, re.MULTILINE)
    if not found:
        return page, [f"there is no table of {', '.join(HEAD)}"]
    lines = "\n".join(row(line) for line in found[1].splitlines())
    head = f"| {' | '.join([*HEAD, 'ours'])} |\n|{' --- |' * (len(HEAD) + 1)}\n"
    whole = f'<div class="equations" markdown>\n\n{head}{lines}\n\n</div>\n'
    page = page[: found.start()] + whole + page[found.end() :]
    about = "{paper}. Acts by {acts}.".format_map(about_of(name))
    page = re.sub(r"^# .*\n", lambda title: f"{title[0]}\n{about}\n", page, count=1, flags=re.MULTILINE)
    parts = [page.rstrip(), f"## All settings\n\n{SETTINGS}\n\n{settings_table(list(settings.values()))}", experiments(name)]
    return "\n\n".join(filter(None, parts)) + "\n", mistakes


SETTINGS = """\
Defaults, as `--config.algorithm.NAME=VALUE` sets them. Floats may be swept within one program, `act.…` chosen anew at
every evaluation (`diffrl-evaluate --act=NAME=VALUE`, without the `act.`). `≥ 0` stands for all finite floats."""


def experiments(name: str) -> str:
    """What the experiment files that import the method say of themselves: commands, published scores and ours."""
    found = []
    for path in sorted((ROOT / "experiments").rglob("[a-z]*.py")):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "diffrl.algorithms"]
        if name in {alias.name for node in imports for alias in node.names}:
            title = path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
            found.append(f'??? example "{title}"\n\n{textwrap.indent(docstring(tree), "    ")}')
    if not found:
        return ""
    return "\n\n".join(["## Experiments", "Files that set it up; `diffrl-train --config=NAME` takes their names.", *found])
