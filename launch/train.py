"""Train a method on a dataset, in an environment, or in both one after the other: all seeds and points of a sweep in one program.

    python launch/train.py --config=experiments/srpo_pointmaze.py --workdir=runs/srpo
    python launch/train.py --config=experiments/srpo_pointmaze.py:umaze --config.num_seeds=8 --workdir=runs/srpo_umaze
    python launch/train.py --config=experiments/srpo_pointmaze.py --config.sweep="beta=0.05,0.1,0.2" --workdir=runs/srpo_beta

Every field of the experiment's config can be set as --config.name=value. The same command goes on where it stopped.
Exit codes: 0 complete, or stopped by a signal with the state saved; 2 something to mend, named; 3 complete, but runs diverged.

On several hosts start the same command on each, under Slurm (srun) and on TPU slices without more, elsewhere with
--coordinator=FIRST_HOST:PORT --num_hosts=N --host=0 … N-1, and a --workdir that all of them see.
Installed, the program is `diffrl-train`, and an experiment of the package may be named without path or ending. --config=iql, the
name of a method, stands for its defaults on the data of --config.dataset.id.
"""

import sys

from absl import flags

from diffrl import cli, files, program
from diffrl.training import devices

CONFIG = flags.DEFINE_string(
    "config", None, "Experiment, optionally with :argument, or a method; --config.name=value sets a field"
)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and evaluations.", required=True)
EXPORT = flags.DEFINE_string(
    "export_dataset", "", "Of a training by interaction: save a run's transitions as this Minari dataset, e.g. mine/walker-v0."
)
EXPORT_RUN = flags.DEFINE_integer("export_run", 0, "Whose transitions.", lower_bound=0)
PROFILE = flags.DEFINE_string(
    "profile", "", "Directory for a trace of one dispatch of every stage, STAGE.json.gz, to be opened at ui.perfetto.dev."
)
CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    0,
    "Without accelerator: devices that the host's cores present themselves as; 0 for one per core.",
    lower_bound=0,
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "Several hosts: address:port of the first, as seen by all.")
NUM_HOSTS = flags.DEFINE_integer("num_hosts", 0, "Several hosts: how many processes, one on each.", lower_bound=0)
HOST = flags.DEFINE_integer("host", -1, "Several hosts: this process's number, from 0.")
HOST_TIMEOUT = flags.DEFINE_integer("host_timeout", 30, "Seconds of silence after which a host counts as dead.", lower_bound=1)


def main(argv: list[str], overrides: list[str]) -> int:
    """Returns 0 when training is complete or was preempted with its state saved, 3 when it is complete but runs diverged."""
    config = cli.load_config(CONFIG.value, overrides)
    program.no_more_arguments(argv)
    devices.configure(CPU_DEVICES.value)
    devices.join_hosts(COORDINATOR.value, NUM_HOSTS.value, HOST.value, HOST_TIMEOUT.value)
    from diffrl.evaluation.evaluate import mean_returns
    from diffrl.training.profiling import Profiler
    from diffrl.training.train import train

    profiler = Profiler(files.directory(PROFILE.value)) if PROFILE.value else None
    outcome = train(config, files.directory(WORKDIR.value), evaluate=mean_returns, profiler=profiler)
    if outcome.complete and EXPORT.value:
        from diffrl.collection import collect
        from diffrl.training.online import export

        recipe, rows = export.recipe(files.directory(WORKDIR.value), EXPORT_RUN.value)
        made = collect.collect(recipe, seed=0, rows=rows, workers=1, dataset_id=EXPORT.value)[collect.MINARI]
        print(f"{rows:,} transitions of run {EXPORT_RUN.value} are dataset {EXPORT.value} in {made.path}")
    return program.DIVERGED if outcome.complete and outcome.diverged else 0


def run() -> None:
    """Entry point of `diffrl-train`."""
    overrides, sys.argv[1:] = cli.take_overrides(sys.argv[1:])
    program.run(lambda argv: main(argv, overrides))


if __name__ == "__main__":
    run()
