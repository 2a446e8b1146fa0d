"""Train and evaluate every method of a suite on every dataset of it, one cell after another, in one process.

    python launch/collect.py --suite=small
    python launch/suite.py --out=runs/suite                                   # goes on where it stopped
    python launch/suite.py --methods=iql,srpo --datasets='hopper/*' --out=runs/hopper
    python launch/suite.py --budget=10 --methods=bc,iql,srpo --datasets='*/medium-replay' --out=runs/long
    python launch/report.py --suite 'runs/suite/*/*' --out=runs/suite/report

A cell is a workdir of launch/train.py, OUT/<dataset>/<method>; its last checkpoint is evaluated. The config of each cell comes
from an experiment file that takes METHOD,DATASET and lists its METHODS.
"""

import dataclasses
import fnmatch
import time

from absl import flags

from diffrl import cli, files, program
from diffrl.collection.recipes import RECIPES, SUITES
from diffrl.config import Config
from diffrl.training import devices

EXPERIMENT = flags.DEFINE_string("experiment", "small_suite", "Experiment file with METHODS and get_config('METHOD,DATASET').")
SUITE = flags.DEFINE_enum("suite", "small", list(SUITES), "Whose datasets.")
METHODS = flags.DEFINE_list("methods", [], "Only these methods; all of the experiment's by default.")
DATASETS = flags.DEFINE_list("datasets", [], "Only datasets that match one of these patterns, as in 'hopper/*'.")
OUT = flags.DEFINE_string("out", "runs/suite", "Directory of the cells.")
BUDGET = flags.DEFINE_integer("budget", 1, "Multiply every number of updates by this.", lower_bound=1)
EPISODES = flags.DEFINE_integer("episodes", 32, "Evaluation episodes per run.", lower_bound=1)
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "As in launch/train.py.", lower_bound=0)


def cells() -> list[tuple[str, str]]:
    """(dataset, method), dataset by dataset. Exits with 2 where a method or pattern names nothing."""
    known = cli.load_methods(EXPERIMENT.value)
    for method in METHODS.value:
        if method not in known:
            program.fail(f"method {method!r} is not in {EXPERIMENT.value}; it has {', '.join(known)}")
    names = [name.removesuffix("-v0") for name in SUITES[SUITE.value]]
    for pattern in DATASETS.value:
        if not fnmatch.filter(names, pattern.removesuffix("-v0")):
            program.fail(f"no dataset of the suite {SUITE.value} matches {pattern!r}; there are {', '.join(names)}")
    patterns = [pattern.removesuffix("-v0") for pattern in DATASETS.value] or ["*"]
    chosen = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    return [(name, method) for name in chosen for method in METHODS.value or known]


def with_budget(config: Config, factor: int) -> Config:
    """The same cell with `factor` times the updates, and learning rates that fall over as many."""
    lengths = [field.name for field in dataclasses.fields(config.algorithm) if field.name.endswith(("updates", "horizon"))]
    longer = {name: factor * getattr(config.algorithm, name) for name in lengths}
    return dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, **longer))


def main(argv: list[str]) -> None:
    """Exit code 2 where something is wrong with the command or the data, 1 where a preemption stopped it."""
    program.no_more_arguments(argv)
    todo = cells()
    # Every config and every dataset is looked at before the first cell costs time.
    configs = {
        (name, method): with_budget(cli.load_experiment(f"{EXPERIMENT.value}:{method},{name}"), BUDGET.value)
        for name, method in todo
    }
    devices.configure(CPU_DEVICES.value)
    import jax

    from diffrl.data.minari import dataset_path, how_to_get
    from diffrl.evaluation.evaluate import Options, evaluate_workdir
    from diffrl.training.train import train

    names = dict.fromkeys(name for name, _ in todo)
    missing = [name for name in names if not dataset_path(RECIPES[f"{name}-v0"].dataset_id).exists()]
    if missing:
        suite = f" (or all of them: diffrl-collect --suite={SUITE.value})"
        program.fail(f"not on this machine: {', '.join(missing)}. {how_to_get(f'diffrl/{missing[0]}-v0')}{suite}")
    console = program.console()
    started = time.monotonic()
    for number, cell in enumerate(todo):
        name, method = cell
        began = time.monotonic()
        console.rule(f"{number + 1}/{len(todo)}  {method} on {name}, {began - started:,.0f} s so far", align="left")
        workdir = files.directory(OUT.value) / name.replace("/", "-") / method
        if not train(configs[cell], workdir).complete:
            raise SystemExit(1)
        evaluate_workdir(workdir, Options(episodes=EPISODES.value, step="last"), console)
        jax.clear_caches()  # a hundred programs would fill the memory
        console.print(f"{method} on {name}: {time.monotonic() - began:.0f} s", highlight=False)
    console.print(f"{len(todo)} cells in {(time.monotonic() - started) / 60:.1f} min", highlight=False)


def run() -> None:
    """Entry point of `diffrl-suite`."""
    program.run(main)


if __name__ == "__main__":
    run()
