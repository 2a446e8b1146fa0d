"""What is in a dataset, what is odd about it, which methods can train on it, and the command to begin with.

    python launch/check.py door-human.hdf5
    python launch/check.py door-human.hdf5 --config.dataset.env_id=AdroitHandDoor-v1 --out=report
    python launch/check.py diffrl/pointmaze/medium-fixedgoal-v0

Takes what `--config.dataset.id` takes: the id or folder of a Minari dataset, a D4RL, OGBench or plain file, a directory of them;
`--config.dataset.name=value` as in launch/train.py. With --out also writes check.md, which has every column, and check.png.
Exit code 2 where the data cannot be trained on; then the report says why, and what to do.
"""

import sys

from absl import flags
from rich.progress import BarColumn, Progress, TextColumn

from diffrl import cli, files, program
from diffrl import config as configs
from diffrl.config import DatasetConfig
from diffrl.training import devices

OUT = flags.DEFINE_string("out", None, "Directory for the report as check.md with a picture; by default it is only printed.")


def main(argv: list[str], overrides: list[str]) -> int:
    """Returns 0, or 2 where the data cannot be trained on."""
    if len(argv) != 2:
        program.fail("name one dataset: diffrl-check PATH, or the id of a Minari dataset")
    asked = DatasetConfig(id=argv[1])
    for text in overrides:
        configs.override(asked, text.removeprefix("dataset."))
    devices.configure()
    from diffrl.reports import check_pages
    from diffrl.reports.check import check

    console = program.console()
    columns = TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        found = check(asked, lambda text, share: progress.update(task, description=text, completed=share))
    check_pages.show(found, console)
    if OUT.value is not None:
        written = check_pages.write(found, files.directory(OUT.value))
        console.print("wrote " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)
    return 0 if found.commands else 2


def run() -> None:
    """Entry point of `diffrl-check`."""
    overrides, sys.argv[1:] = cli.take_overrides(sys.argv[1:])
    program.run(lambda argv: main(argv, overrides))


if __name__ == "__main__":
    run()
