"""Make a dataset on this machine, without a network: simulate, store as a Minari dataset, print its card.

    python launch/collect.py                                  # the default, 200,000 transitions in seconds
    python launch/collect.py --list
    python launch/collect.py --download=D4RL/pointmaze/umaze-v2
    python launch/collect.py --recipe=pointmaze/large-fixedgoal-v0 --seed=1 --rows=1000000
    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=d4rl   # as a file for D4RL's own users
    python launch/collect.py --recipe=d4rl/maze2d-umaze-v1 --format=minari,d4rl   # both forms of one simulation
    python launch/collect.py --recipe=ogbench/cube-single-play-v0 --format=ogbench   # training and validation, 1.1 M rows
    python launch/collect.py --suite=small                    # every dataset that methods are judged on

Interrupted, the same command goes on where it stopped. The data depend on recipe, seed and rows alone.
"""

import difflib
import sys
import time

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffrl import machine, program
from diffrl.collection.collect import MINARI, CollectionError, Outcome, collect, prepare
from diffrl.collection.listing import listing
from diffrl.collection.recipe import Recipe
from diffrl.collection.recipes import RECIPES, SUITES

DEFAULT = "pointmaze/medium-fixedgoal-v0"

RECIPE = flags.DEFINE_string("recipe", DEFAULT, f"What to make: one of {len(RECIPES)} recipes, which --list shows.")
SUITE = flags.DEFINE_enum("suite", None, list(SUITES), "Make all datasets of a suite instead of one recipe.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the whole dataset.")
ROWS = flags.DEFINE_integer("rows", None, "Number of transitions; by default the recipe's own.")
WORKERS = flags.DEFINE_integer("workers", None, "Processes; by default one per core.")
ID = flags.DEFINE_string("id", None, "Name to store it under; by default diffrl/<recipe>.")
FORMAT = flags.DEFINE_list(
    "format",
    [MINARI],
    "How to store it: minari; d4rl for one HDF5 file where the recipe is D4RL's; ogbench for two .npz files, training and "
    "validation, where it is OGBench's. Several, with commas between them, are stored of one simulation.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a dataset of the same name.")
DOWNLOAD = flags.DEFINE_string(
    "download", None, "Instead of simulating, fetch this dataset from Minari's server (any public id)."
)
LIST = flags.DEFINE_bool("list", False, "Show the recipes with rows, size on disk and time, and exit.")

_LINE_SECONDS = 5.0  # between two plain lines where there is no terminal


def main(argv: list[str]) -> int:
    """Returns the exit code: 0, or 130 where it was interrupted."""
    program.no_more_arguments(argv)
    console = program.console(80)
    try:
        if LIST.value:
            print(listing(list(RECIPES.values()), console.width))
        elif DOWNLOAD.value:
            _download(console, DOWNLOAD.value)
        elif SUITE.value:
            _suite(console, SUITE.value)
        else:
            _make(console, _find(RECIPE.value), ROWS.value, ID.value)
    except KeyboardInterrupt:
        print("interrupted; finished parts are kept, and the same command goes on", file=sys.stderr)
        return 130
    return 0


def _make(console: Console, recipe: Recipe, rows: int | None, dataset_id: str | None) -> None:
    rows, dataset_id = recipe.rows if rows is None else rows, dataset_id or recipe.dataset_id
    with _progress(console, f"simulating {recipe.name}") as progress:
        outcomes = collect(
            recipe,
            seed=SEED.value,
            rows=rows,
            workers=_workers(),
            dataset_id=dataset_id,
            formats=FORMAT.value,
            overwrite=OVERWRITE.value,
            report=progress.report,
            note=progress.note,
        )
    for outcome in outcomes.values():
        _show_card(console, dataset_id, outcome)


def _suite(console: Console, name: str) -> None:
    if ROWS.value is not None or ID.value is not None:
        raise CollectionError("--suite makes each dataset at its own size and under its own name; drop --rows and --id")
    recipes = [RECIPES[member] for member in SUITES[name]]
    started = time.monotonic()
    with _progress(console, "shared trainings") as progress:
        prepare([(recipe, recipe.rows) for recipe in recipes], seed=SEED.value, workers=_workers(), note=progress.note)
    for number, recipe in enumerate(recipes):
        console.print(f"[{number + 1}/{len(recipes)}] {recipe.name}", highlight=False, markup=False)
        _make(console, recipe, None, None)
    minutes = (time.monotonic() - started) / 60
    console.print(f"suite {name}: {len(recipes)} datasets in {minutes:.1f} min, {_workers()} workers", highlight=False)


def _workers() -> int:
    return machine.cores() if WORKERS.value is None else WORKERS.value


def _download(console: Console, dataset_id: str) -> None:
    # Here and not above: the loader brings JAX, which the worker processes of a simulation must not import.
    from diffrl.data import minari

    source = minari.load(dataset_id, download=True)
    console.print(f"dataset {dataset_id}: {len(source.transitions.reward):,} rows", highlight=False, soft_wrap=True)


def _find(name: str) -> Recipe:
    short = name.removeprefix("diffrl/")
    if short in RECIPES:
        return RECIPES[short]
    near = difflib.get_close_matches(short, RECIPES, n=1, cutoff=0.0)
    known = "\n  ".join(RECIPES)
    raise CollectionError(f"recipe {name!r} is unknown; did you mean {near[0]}? There are\n  {known}")


class _progress:  # noqa: N801 - reads as a function
    """A bar on a terminal, a plain line now and then elsewhere; for the time of a context."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(*columns, *times, console=console) if console.is_terminal else None
        self.task, self.done, self.last = None, 0, 0.0
        self.first: tuple[int, float] | None = None  # rows that were there, and since when others are made

    def __enter__(self) -> "_progress":
        if self.bar:
            self.bar.start()
        return self

    def note(self, text: str) -> None:
        """Say what is worked on while no rows come."""
        self.console.print(f"{text} …", highlight=False, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def report(self, done: int, total: int) -> None:
        self.first = self.first or (done, time.monotonic())
        speed = f"{(done - self.first[0]) / max(time.monotonic() - self.first[1], 1e-9):,.0f} rows/s"
        if self.bar:
            self.task = self.bar.add_task(self.title, total=total) if self.task is None else self.task
            self.bar.update(self.task, completed=done, description=f"{self.title}, {speed}")
        elif done > self.done and (time.monotonic() - self.last > _LINE_SECONDS or done == total):
            self.done, self.last = done, time.monotonic()
            self.console.print(f"{self.title}: {done:,}/{total:,} rows, {speed}", highlight=False, soft_wrap=True)


def _show_card(console: Console, dataset_id: str, outcome: Outcome) -> None:
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)  # noqa: E731
    metadata = outcome.metadata
    if outcome.existed:
        say(f"dataset {dataset_id} is there already, of the same recipe, seed and rows: nothing to do")
    else:
        fresh = outcome.made_rows
        speed = f"{fresh / max(outcome.seconds, 1e-9):,.0f} rows/s" if fresh else "no row was missing"
        kept = f", {outcome.reused_rows:,} rows kept from an earlier attempt" if outcome.reused_rows else ""
        say(f"simulated {fresh:,} rows in {outcome.seconds:.1f} s ({speed}{kept}), stored in {outcome.written:.1f} s")
    mine = metadata["diffrl"]
    say(f"  id          {dataset_id}")
    if "files" in mine:  # of a form without Minari's metadata
        say(f"  rows        {metadata['total_steps']:,}")
    else:
        say(f"  rows        {metadata['total_steps']:,} in {metadata['total_episodes']:,} episodes")
        say(f"  returns     {mine['min_return']:.4g} … {mine['mean_return']:.4g} … {mine['max_return']:.4g} (min, mean, max)")
        if "ref_min_score" in metadata:
            say(f"  references  0 is {metadata['ref_min_score']:.2f}, 100 is {metadata['ref_max_score']:.2f}")
        say(f"              {metadata['ref_provenance']}")
    if "versions" in mine:  # not on cards of older releases
        say(f"  made with   {mine['versions']}; {mine['license']}")
    say(f"  path        {outcome.path}")


def run() -> None:
    """Entry point of `diffrl-collect`."""
    program.run(main)


if __name__ == "__main__":
    run()
