"""Shell completion: what may stand next on a program's command line, read from the programs' source.

Nothing of the package is imported, for that takes seconds and a key is pressed: flags are the `DEFINE_…` calls of a program's
file, settings the annotated fields of the dataclasses from `config.Config` down to the method's own. The scripts of `script` call
this file by its path, whose imports are the standard library's alone.
"""

import ast
import functools
import itertools
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent
SHELLS = ("bash", "zsh")


class Place(NamedTuple):
    """A piece of source, and the module whose names it uses."""

    module: str
    node: ast.AST


def script(shell: str, programs: Iterable[str]) -> str:
    """What a shell reads to complete `diffrl` and `diffrl-NAME` of these names.

    Args:
        shell: one of `SHELLS`.
        programs: their names.
    """
    commands = " ".join(["diffrl", *(f"diffrl-{name}" for name in programs)])
    called = shlex.join([sys.executable, "-IS", str(Path(__file__).resolve())])
    return {"bash": _BASH, "zsh": _ZSH}[shell].replace("CALLED", called).replace("COMMANDS", commands)


_BASH = """_diffrl() {
    local IFS=$'\\n'
    COMPREPLY=($(CALLED "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _diffrl COMMANDS
"""
_ZSH = """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_diffrl() {
    local -a found=("${(@f)$(CALLED "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    if [[ -z $found ]]; then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
compdef _diffrl COMMANDS
"""


def candidates(line: str, breaks: str = "") -> list[str]:
    """What the last word of a command line may become; nothing where the shell's own file names are as good.

    Args:
        line: up to the cursor.
        breaks: characters at which the shell begins a new word, after the last of which the candidates begin.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is open
        words = line.split()
    last = words.pop() if words and not line[-1:].isspace() else ""
    while words and not Path(words[0]).name.startswith("diffrl"):
        words.pop(0)
    if not words:
        return []
    name, flags = Path(words[0]).name.removeprefix("diffrl").removeprefix("-"), words[1:]
    if not name and not flags:
        return _beginning(last, [*program_names(), "completion"])
    found = _beginning(last, SHELLS if flags[:1] == ["completion"] else _after(name or flags[0], flags, last))
    cut = max((last.rfind(letter) + 1 for letter in breaks if letter in "=:"), default=0)
    return [each[cut:] for each in found]


def program_names() -> list[str]:
    """What stands behind `diffrl-`."""
    return sorted(path.stem for path in _folder("launch").glob("[a-z]*.py") if path.stem != "menu")


def methods() -> list[str]:
    """Names of the registered methods, each of which has a file."""
    return sorted(path.stem for path in (PACKAGE / "algorithms").glob("[a-z]*.py"))


def experiments() -> list[str]:
    """Names of the experiment files that come with the package."""
    folder = _folder("experiments")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("[!_]*.py"))


def experiment_path(name: str) -> Path | None:
    """The file of an experiment: the user's own, or the package's of this name; None where there is neither."""
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in ("", ".py"):
        for known in (path.stem, f"{path.parent.name}/{path.stem}"):
            if known in experiments():
                return _folder("experiments") / f"{known}.py"
    return None


def _beginning(last: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(last)})


def _folder(name: str) -> Path:
    """Of programs or experiments: inside the package when installed, at the top of a checkout."""
    return PACKAGE / name if (PACKAGE / name).is_dir() else PACKAGE.parent / name


def _after(program: str, words: list[str], last: str) -> list[str]:
    """What the last word of a program's command line may be, wherever it begins alike."""
    if program not in program_names():
        return []
    if not last.startswith("-"):
        if not words or not words[-1].startswith("--") or "=" in words[-1]:
            return []
        # --flag value
        return [each.partition("=")[2] for each in _after(program, words[:-1], f"{words[-1]}={last}")]
    module = f"diffrl.launch.{program}"
    tree = ast.parse(_path(module).read_text())
    flag, given, _ = last.partition("=")
    configured = any(isinstance(node, ast.Attribute) and node.attr == "take_overrides" for node in ast.walk(tree))
    if configured and last.startswith("--config."):
        settings = _settings(flag.removeprefix("--config.").split(".")[:-1], words)
        if not given:
            return [f"{flag[: flag.rfind('.') + 1]}{name}{'.' if _is_nested(at) else '='}" for name, at in settings.items()]
        at = settings.get(flag.rpartition(".")[2])
        return [] if at is None else [f"{flag}={value}" for value in _values(at)]
    found = ["--help", *(["--config."] if configured else [])]
    for kind, name, arguments in _flags(tree):
        if not given:
            found += [f"--{name}", f"--no{name}"] if kind in ("bool", "boolean") else [f"--{name}="]
        elif flag == f"--{name}":
            of_enum = [Place(module, argument) for argument in arguments[:1]] if kind == "enum" else []
            values = [value for choices in of_enum for value in _choices(choices)]
            values += _experiments(last[len(flag) + 1 :]) if name in ("config", "experiment") else []
            found += [f"{flag}={value}" for value in values]
    return found


def _flags(tree: ast.Module) -> list[tuple[str, str, list[ast.expr]]]:
    """Of each flag that a program defines its kind, name, and what stands behind its default."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    defined = [(call.func.attr, call.args) for call in calls if isinstance(call.func, ast.Attribute)]
    return [
        (kind.removeprefix("DEFINE_"), arguments[0].value, arguments[2:])
        for kind, arguments in defined
        if kind.startswith("DEFINE_") and isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str)
    ]


def _choices(place: Place) -> list[str]:
    """The strings of a list or tuple, here or where a name leads to; nothing of what is computed."""
    found = _resolved(place)
    written = found.node.elts if found and isinstance(found.node, ast.List | ast.Tuple) else []
    return [each.value for each in written if isinstance(each, ast.Constant) and isinstance(each.value, str)]


# ------------------------------------------------------------ experiments
def _experiments(last: str) -> list[str]:
    """Experiment files that come with the package, methods, and what lies in this folder."""
    near = [*Path(last).parent.glob("*")] if Path(last).parent.is_dir() else []
    here = [f"{path}/" for path in near if path.is_dir()] + [str(path) for path in near if path.suffix == ".py"]
    return [*experiments(), *methods(), *here]


def _methods_of(words: list[str]) -> list[str]:
    """The methods that a command line's --config may configure."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    given += [after for before, after in itertools.pairwise(words) if before == "--config"]
    name = given[-1].partition(":")[0] if given else ""
    if name in methods():
        return [name]
    path = experiment_path(name)
    if path is None:
        return []
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    named = [alias.name for node in imported if node.module == "diffrl.algorithms" for alias in node.names]
    return named + [str(node.module).rpartition(".")[2] for node in imported if "diffrl.algorithms." in str(node.module)]


# ------------------------------------------------------------ settings
def _settings(path: list[str], words: list[str]) -> dict[str, Place]:
    """The settings in a part of the config, by name: the part's fields with their types."""
    config = _resolved(Place("diffrl.config", ast.Name("Config")))
    found = _fields(config) if config else {}
    for depth, part in enumerate(path):
        if depth == 0 and part == "algorithm":
            places = [Place(f"diffrl.algorithms.{name}", ast.Name("Config")) for name in _methods_of(words)]
        else:
            places = [found[part]] if part in found else []
        found = {name: at for place in places if (holder := _resolved(place)) for name, at in _fields(holder).items()}
    return found


def _fields(holder: Place) -> dict[str, Place]:
    """Names and types of a dataclass's fields, with those that it inherits."""
    found: dict[str, Place] = {}
    if not isinstance(holder.node, ast.ClassDef):
        return found
    for base in holder.node.bases:
        inherited = _resolved(Place(holder.module, base))
        found |= _fields(inherited) if inherited else {}
    own = [node for node in holder.node.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return found | {node.target.id: Place(holder.module, node.annotation) for node in own if isinstance(node.target, ast.Name)}


def _is_nested(place: Place) -> bool:
    """Whether a setting has settings of its own. The method's, `Any` in the source, has."""
    found = _resolved(place)
    return ast.unparse(place.node) == "Any" or (found is not None and isinstance(found.node, ast.ClassDef))


def _values(place: Place) -> list[str]:
    """What a setting may be, where that is a choice among names."""
    if ast.unparse(place.node) == "bool":
        return ["true", "false"]
    found = _resolved(place)
    if found is None or not isinstance(found.node, ast.Subscript) or ast.unparse(found.node.value) != "Literal":
        return []
    choices = found.node.slice
    return [str(ast.literal_eval(each)) for each in (choices.elts if isinstance(choices, ast.Tuple) else [choices])]


def _resolved(place: Place) -> Place | None:
    """The class or the type that an expression names, wherever in the package that stands; None outside of it."""
    module, node = place
    if isinstance(node, ast.BinOp):  # X | None
        return _resolved(Place(module, node.left))
    if isinstance(node, ast.Name):
        found = _names(module).get(node.id)
        return found if found is None or isinstance(found.node, ast.ClassDef) else _resolved(found)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        of = _names(module).get(node.value.id)
        if of is None or not isinstance(of.node, ast.Name):
            return None
        return _resolved(Place(f"{of.module}.{of.node.id}", ast.Name(node.attr)))
    return place


@functools.cache
def _names(module: str) -> dict[str, Place]:
    """What the names of a module of the package stand for: its classes, its types, and names of other modules."""
    found: dict[str, Place] = {}
    if not module.startswith("diffrl.") or not _path(module).is_file():
        return found
    for node in ast.parse(_path(module).read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = Place(module, node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = Place(module, node.value)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: Place(node.module, ast.Name(alias.name)) for alias in node.names}
    return found


def _path(module: str) -> Path:
    """The file of a module of the package."""
    _, room, *rest = module.split(".")
    path = (_folder(room) if room == "launch" else PACKAGE / room).joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")


if __name__ == "__main__":
    print("\n".join(candidates(*sys.argv[1:])))
