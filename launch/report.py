"""Tables and pictures of evaluated workdirs.

    python launch/report.py runs/a runs/b                 # or runs/*, or --workdirs=runs/a,runs/b
    python launch/report.py 'runs/*' --out=report --best --improvement
    python launch/report.py --suite 'runs/suite/*/*' --out=report          # many datasets: one table of methods

Writes report.html, results.md, results.csv and pictures to --out and prints the table. The headline is the last evaluated
checkpoint of each workdir. Runs from different simulators or datasets are never put into one table or picture. report.html is one
file with everything in it: tables to sort, curves to hover, and the films of launch/evaluate.py --render; it is written wherever
one of the modes below writes a page of a report.

With --suite, writes suite.md, suite.csv and pictures instead: a row per dataset, a column per method, mean and IQM over the
datasets that all methods share, probability of improvement, score distributions and evaluation budgets.

    python launch/report.py --sweep=runs/beta             # what launch/sweep.py writes at its end, to runs/beta/report

With --sweep, needs no workdir: a table of points per group, a picture per swept number, and where the time went.

    python launch/report.py --figures=sgp --out=report    # figures of a method's paper, about a minute on two cores

With --figures, needs no workdir: trains what the figures need, writes them with figures.md, and prints what it wrote.

    python launch/report.py --keep=iql-maze2d-umaze runs/a runs/b          # what came out, to docs/results/
    python launch/report.py --reproduction --out=docs                      # published numbers and ours: docs/reproduction.md

    python launch/report.py --offline runs/a runs/b       # which policy, where nothing can be tried

With --offline, policies are ordered by fitted-Q evaluation on held-out episodes of the data, beside their true returns where they
were evaluated: offline.md, offline.csv, offline.png. Minutes for each workdir; what was fitted once is kept in it.

With --keep, the scores of evaluated workdirs become the results of a row of --results/targets.json. With --reproduction, needs no
workdir: puts all rows into one table and picture.
"""

import glob
import importlib
import re
from pathlib import Path

from absl import flags, logging
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Column, Table
from rich.text import Text

from diffrl import files, program
from diffrl.evaluation.offline import Options
from diffrl.reports import films, markdown, page, plots, reproduction, suite_plots, suite_tables, tables
from diffrl.reports.charts import Chart
from diffrl.reports.films import Film
from diffrl.reports.suite import gather
from diffrl.reports.tables import ReportError, Series
from diffrl.sweeps import report as sweep_report

WORKDIRS = flags.DEFINE_list("workdirs", [], "Workdirs or glob patterns, separated by commas; positional arguments count too.")
OUT = flags.DEFINE_string("out", "report", "Directory for the tables and pictures.")
BEST = flags.DEFINE_bool("best", False, "Add the best mean over training, which chooses by the test's own scores: optimistic.")
IMPROVEMENT = flags.DEFINE_bool("improvement", False, "Add the probability that a run of one series scores above one of another.")
SUITE = flags.DEFINE_bool("suite", False, "One table of methods and datasets, with what they say together.")
SWEEP = flags.DEFINE_string("sweep", None, "Directory of a launch/sweep.py: the report of that sweep.")
FIGURES = flags.DEFINE_string("figures", None, "Name of a method: the figures of its paper that need no training run.")
REPRODUCTION = flags.DEFINE_bool("reproduction", False, "Published numbers and ours, from the files of --results.")
KEEP = flags.DEFINE_string("keep", None, "Name of a row of --results/targets.json, whose results the workdirs hold.")
OFFLINE = flags.DEFINE_bool("offline", False, "Order the policies by what data say they are worth: fitted-Q evaluation.")
OFFLINE_DATA = flags.DEFINE_string("offline_data", "", "Of --offline: data in place of those trained on.")
OFFLINE_UPDATES = flags.DEFINE_integer("offline_updates", 20_000, "Of --offline: updates of Q.", lower_bound=1)
DISCOUNT = flags.DEFINE_float("discount", 0.99, "Of --offline: of all policies alike.", lower_bound=0.0, upper_bound=0.9999)
RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the rows and their results.")
DATA = flags.DEFINE_bool("data", True, "In maze pictures, show trajectories of the data (loads the dataset).")


def workdirs_of(patterns: list[str]) -> list[Path]:
    """Existing directories that match (** crosses folders); those without config.json are passed over where a pattern was given.

    Raises:
        ReportError: nothing was named, or a pattern matches nothing.
    """
    if not patterns:
        raise ReportError("name at least one workdir: report.py runs/a runs/b, or --workdirs='runs/*'")
    found: dict[Path, None] = {}
    for pattern in patterns:
        named = Path(pattern).expanduser()
        matches = [named] if named.exists() else [Path(match) for match in sorted(glob.glob(str(named), recursive=True))]  # noqa: PTH207
        if not named.exists() and pattern != glob.escape(pattern):
            matches = [match for match in matches if (match / "config.json").exists()]
        if not matches:
            raise ReportError(f"no workdir matches {pattern}")
        found.update(dict.fromkeys(matches))
    return list(found)


def report(workdirs: list[Path], out: Path, console: Console, best: bool, improvement: bool, data: bool) -> None:
    """Write all files to `out` and print the tables.

    Raises:
        ReportError: a directory is no workdir, or nothing was evaluated.
    """
    series = tables.read(workdirs)
    text = tables.to_markdown(series, best)
    colour = plots.colours(series)
    curves: dict[str, list[Chart]] = {}
    written = [out / "results.csv"]
    files.write(written[0], tables.to_csv(tables.rows(series, best)).encode())
    for number, (setting, group) in enumerate(tables.by_setting(series).items()):
        _print(group, console, best)
        if improvement and len(group) > 1:
            lines = [f"P({one} above {other}) = {p:.2f}" for one, other, p in tables.improvements(group)]
            for line in lines:
                console.print(f"- {line}")
            text += f"\n{markdown.heading(f'Probability of improvement: {setting[0]}', 2)}\n{markdown.bullets(lines)}"
        stem = f"{number + 1}-{files.slug(f'{setting[0]}-{group[0].last.settings.backend}')}"
        picture = f"{stem}-curves.png"
        curves[picture] = [plots.curves(group, colour)]
        written.append(plots.learning_curves(curves[picture][0], out / picture))
        maze = _maze(group, colour, out / f"{stem}-maze.png", console, data)
        written += [maze] if maze else []
    for picture in written[1:]:
        text += f"\n![{picture.stem}]({picture.name})\n"
    written += page.write(out / "results.md", text, curves, _films(series))
    console.print("wrote " + ", ".join(str(path) for path in written), highlight=False, markup=False, soft_wrap=True)


def report_suite(workdirs: list[Path], out: Path, console: Console) -> None:
    """Write suite.md, suite.csv and pictures to `out` and print the table.

    Raises:
        ReportError: a directory is no workdir, nothing was evaluated, or results that cannot stand in one table.
    """
    series = tables.read(workdirs)
    suite = gather(series)
    colour = plots.colours(series)
    curves = suite_plots.charts(suite, colour)
    pictures = suite_plots.draw(suite, colour, curves, out)
    text = suite_tables.to_markdown(suite, [path.name for path in pictures])
    written = [out / "suite.csv", *pictures]
    files.write(written[0], suite_tables.to_long_csv(suite).encode())
    written += page.write(out / "suite.md", text, {name: [chart] for name, chart in curves.items()}, _films(series))
    header, rows = suite_tables.formatted(suite)
    table = Table(*(Column(name, justify="right" if i else "left", no_wrap=not i) for i, name in enumerate(header)))
    for row in rows:
        table.add_row(*(Text(cell.replace("*", ""), style="bold" if cell.startswith("**") else "") for cell in row))
    console.print(table)
    for line in suite_tables.explanation(suite):
        console.print(f"- {line}", highlight=False, markup=False)
    console.print("wrote " + ", ".join(str(path) for path in written), highlight=False, markup=False, soft_wrap=True)


def report_figures(method: str, out: Path, console: Console) -> None:
    """Write the figures of a method's paper to `out`.

    Raises:
        ReportError: it has none.
    """
    from diffrl import registry
    from diffrl.training import devices

    modules = {name: one.figures for name, one in registry.REGISTRY.items() if one.figures is not None}
    if method not in modules:
        raise ReportError(f"--figures={method}: no such figures; there are those of {', '.join(modules)}")
    # JAX tells of accelerators that it did not find; --verbosity brings that back.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
    devices.configure(cpu_devices=1)
    for path in importlib.import_module(modules[method]).draw(out):
        console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
        if path.suffix == ".md":
            console.print(Markdown(re.sub(r"!\[.*\n", "", path.read_text())))


def report_offline(workdirs: list[Path], out: Path, console: Console, options: Options) -> None:
    """Order the policies by the data, write the files of that to `out` and print the table."""
    from diffrl.reports import offline
    from diffrl.training import devices

    devices.configure()
    judged = []
    for workdir in workdirs:
        with program.status(console, str(workdir)) as say:
            judged.append(offline.judge(workdir, options, lambda text, workdir=workdir, say=say: say(f"{workdir}: {text}")))
    written = offline.write(judged, options, out)
    console.print(Markdown(re.sub(r"!\[.*\n", "", written[0].read_text())))
    console.print("wrote " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def _films(series: list[Series]) -> list[Film]:
    return [film for one in series for film in films.of(one.method, one.workdir, one.last)]


def _maze(group: list[Series], colour: dict[str, str], path: Path, console: Console, data: bool) -> Path | None:
    if plots.maze_picture(group, colour, path) is None or not data:
        return path if path.exists() else None
    pieces = plots.data_pieces(group[0].card)
    if isinstance(pieces, str):
        console.print(pieces, highlight=False, markup=False)
        return path
    return plots.maze_picture(group, colour, path, pieces)


def _print(group: list[Series], console: Console, best: bool) -> None:
    header, cells = tables.formatted(group, best)
    table = Table(title=group[0].card.id, title_justify="left")
    for name in header:
        table.add_column(
            name,
            justify="left" if name in ("method", "hyper-parameters", "acting", "workdir") else "right",
            no_wrap="best" not in name,
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)
    for line in tables.explanation(group):
        console.print(f"- {line}", highlight=False, markup=False)


def main(argv: list[str]) -> None:
    """Exit code 2 and one line for what the user can mend."""
    console = program.console()
    out, named = files.directory(OUT.value), WORKDIRS.value + argv[1:]
    for name, value in (("figures", FIGURES.value), ("sweep", SWEEP.value), ("reproduction", REPRODUCTION.value or None)):
        if value is not None and named:
            raise ReportError(f"--{name} needs no workdir: drop one or the other")
    if SUITE.value and BEST.value:
        raise ReportError("--suite reports the last checkpoint only: drop --best, or drop --suite for one report per dataset")
    if FIGURES.value is not None:
        report_figures(FIGURES.value, out, console)
    elif SWEEP.value is not None:
        sweep = files.directory(SWEEP.value)
        sweep_report.write(sweep, out if flags.FLAGS["out"].present else sweep / "report", console)
    elif REPRODUCTION.value:
        written = reproduction.write(files.directory(RESULTS.value), out)
        console.print("wrote " + ", ".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)
    elif KEEP.value is not None:
        kept = reproduction.keep(KEEP.value, workdirs_of(named), files.directory(RESULTS.value))
        console.print(f"wrote {kept}", highlight=False, markup=False, soft_wrap=True)
    elif OFFLINE.value:
        options = Options(OFFLINE_DATA.value, DISCOUNT.value, OFFLINE_UPDATES.value)
        report_offline(workdirs_of(named), out, console, options)
    elif SUITE.value:
        report_suite(workdirs_of(named), out, console)
    else:
        report(workdirs_of(named), out, console, BEST.value, IMPROVEMENT.value, DATA.value)


def run() -> None:
    """Entry point of `diffrl-report`."""
    program.run(main)


if __name__ == "__main__":
    run()
