"""The house: data flow down one list of rooms, and nothing imports upwards."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Rooms of one line may know each other.
ROOMS = [
    {"launch"},
    {"api"},
    {"cli", "completion"},
    {"benchmarks"},
    {"studies"},
    {"sweeps"},
    {"reports", "export"},
    {"acting"},
    {"evaluation"},
    {"training"},
    {"config", "registry"},
    {"algorithms"},
    {"algorithm", "action_chunks"},
    {"collection"},
    {"data"},
    {"models"},
    {"objectives", "networks", "envs", "diffusion", "planning"},
    {"logging", "learner", "settings", "types"},
    {"program"},
    {"records", "machine"},
    {"files"},
    {"errors", "escape"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def imports_of(source: str) -> set[str]:
    """Modules of diffrl that a source imports, anywhere in it, and those it names in a string to import later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {name for name in found if name.startswith("diffrl.")}


def room_of(module: str) -> str:
    return module.split(".")[1]


def climbing(path: Path, source: str) -> list[str]:
    """The imports of a file of the package that lead to a room above its own."""
    own = room_of(".".join(path.with_suffix("").parts))
    return sorted(name for name in imports_of(source) if LEVEL.get(room_of(name), LEVEL[own]) < LEVEL[own])


def test_nothing_imports_upwards() -> None:
    files = sorted((ROOT / "diffrl").rglob("*.py"))
    assert len(files) > 100
    found = {str(file): climbing(file.relative_to(ROOT), file.read_text()) for file in files if file.parent.name != "diffrl"}
    found |= {str(file): climbing(file.relative_to(ROOT), file.read_text()) for file in (ROOT / "diffrl").glob("[a-z]*.py")}
    assert not {file: names for file, names in found.items() if names}


def test_every_room_has_a_place() -> None:
    rooms = {path.stem for path in (ROOT / "diffrl").iterdir() if path.suffix in ("", ".py") and path.stem[0] != "_"}
    assert rooms <= LEVEL.keys(), "a new room: say in ROOMS (and BUILD.md) what it may know"


def test_an_import_upwards_is_seen_in_every_form() -> None:
    here = Path("diffrl/data/x.py")
    for source in (
        "from diffrl.training.chunk import make_chunk",
        "def f():\n    from diffrl import registry",
        "import diffrl.evaluation.rollout as r",
        "m = importlib.import_module('diffrl.collection.collect')",
    ):
        assert climbing(here, source), source
    assert not climbing(here, "from diffrl.envs import make\nfrom diffrl import types\nimport diffrl")


def test_packages_are_all_in_the_wheel() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for init in (ROOT / "diffrl").rglob("__init__.py"):
        assert f'"{".".join(init.parent.relative_to(ROOT).parts)}"' in listed, init
