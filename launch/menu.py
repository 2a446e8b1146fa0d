"""The list of all programs, and the way to each of them.

    diffrl                       # what there is
    diffrl train --help          # the same as diffrl-train --help
    source <(diffrl completion bash)     # or zsh: TAB completes programs, flags, experiments and settings

From a checkout: python launch/menu.py.
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from diffrl import completion


def programs() -> dict[str, str]:
    """What each is for, by name: the first sentence of its file, which is not imported for that."""
    found = {}
    for name in completion.program_names():
        about = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
        found[name] = " ".join(about.split("\n\n")[0].split())
    return found


def main(argv: list[str]) -> None:
    """Print the list. Exit code 2 where a word is no program."""
    from rich.table import Table

    from diffrl import program

    if argv[1:2] == ["completion"]:
        program.fail(f"diffrl completion takes the name of a shell: {' or '.join(completion.SHELLS)}")
    known = programs()
    if len(argv) > 1:
        near = difflib.get_close_matches(argv[1], known, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        program.fail(f"there is no program {argv[1]!r}: {meant}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, about in known.items():
        table.add_row(f"diffrl-{name}", about)
    console = program.console(120)
    console.print(table)
    console.print("\nEach explains itself: diffrl-train --help, or diffrl train --help.")
    console.print("TAB completes their flags and settings after: source <(diffrl completion bash), or zsh.")


def run() -> None:
    """Entry point of `diffrl`: another program where the first word names one."""
    if sys.argv[1:2] == ["completion"] and sys.argv[2:3] and sys.argv[2] in completion.SHELLS:
        # Every shell that starts waits for this: nothing else is imported.
        print(completion.script(sys.argv[2], completion.program_names()), end="")
    elif len(sys.argv) > 1 and sys.argv[1] in completion.program_names():
        name = sys.argv.pop(1)
        sys.argv[0] = f"diffrl-{name}"
        importlib.import_module(f".{name}" if __package__ else name, __package__).run()
    else:
        from diffrl import program

        program.run(main)


if __name__ == "__main__":
    run()
