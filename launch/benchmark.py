r"""Measure what methods cost here: every stage's updates per second against this machine's own limits and against the loops
people write, the time of choosing an action, of starting, and the steps per second of every simulator.

    python launch/benchmark.py --out=runs/benchmark                       # every method at its published size: about an hour
    python launch/benchmark.py --config=srpo_mujoco --sections=stages --runs=1,8
    python launch/benchmark.py --config=srpo_mujoco,diffusion_bc_mujoco --sections=acting
    python launch/benchmark.py --config=swg_mujoco --sections=acting \
        --variants='hidden_dim=64,128,256,512 act.guidance_scale=0,1' --variants='act.num_denoising_steps=5,10,15'
    python launch/benchmark.py --config= --sections=environments --envs=1,8,64,512 --mjx
    python launch/benchmark.py --config=srpo_mujoco,iql_mujoco,dac --sections=stages,acting,host --runs=1,64,8 --minutes=10
    python launch/benchmark.py --config= --sections=online --online=qsm_dmc    # training by interaction
    python launch/benchmark.py --sections=aot --topology=v5e:2x4,v6e:2x4 --runs=64        # compiled for TPUs that are not there

Prints every section when it is done and writes results.json and results.md after each line, with pictures of stages, scaling and
variants, and what the stages say of the framework's promises. Stages and acting need no simulator and no data. MJX is measured on
accelerators, and with --mjx on a CPU too, where each line compiles for 10 to 40 s. The data are random numbers of the given
sizes: cost depends on shapes only.
"""

import functools
import importlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from diffrl import cli, files, program, records
from diffrl import config as configs
from diffrl.registry import REGISTRY
from diffrl.training import devices

SECTION_NAMES = ("stages", "acting", "starts", "host", "scaling", "slabs", "environments", "online", "aot")
CONFIG = flags.DEFINE_list(
    "config",
    sorted(REGISTRY),
    "What is measured: names of methods, at their default sizes, and experiments, at the experiments' own.",
)
SECTIONS = flags.DEFINE_list(
    "sections",
    ["stages", "acting", "starts", "host", "scaling", "slabs", "environments"],
    f"What is measured, of {', '.join(SECTION_NAMES)}: stages of training, choosing actions, starting a process, the host's work "
    "per chunk, growth with sizes, data in slabs, simulators, --online, and stages compiled ahead of time for --topology.",
)
VARIANTS = flags.DEFINE_multi_string(
    "variants",
    ["act.num_denoising_steps=1,5,15", "act.num_candidates=1,32,128", "act.decode=own,svdd", "act.sampler=ddpm,ddim,heun"],
    "Time acting with these settings of those methods that have them: 'name=v1,v2 other=v1' means every combination; the "
    "first name is the picture's axis. Repeatable.",
)
BATCHES = flags.DEFINE_list("batches", ["1", "1024"], "Observations per call when acting.")
RUNS = flags.DEFINE_list("runs", ["1", "4", "16", "64"], "Numbers of runs in one program.")
LONGEST = flags.DEFINE_float("longest", 1.0, "Seconds of an update: numbers of runs whose update would take longer are left out.")
STAGES = flags.DEFINE_list("stages", [], "Stages to measure; all by default.")
STRATEGIES = flags.DEFINE_bool("strategies", True, "Also run every stage by a host loop and by a scan of one run.")
OBSERVATION = flags.DEFINE_integer("observation_dim", 17, "Length of the observation (17 is HalfCheetah's).")
ACTION = flags.DEFINE_integer("action_dim", 6, "Length of the action (6 is HalfCheetah's).")
ROWS = flags.DEFINE_integer("rows", 100_000, "Transitions on the device.")
SECONDS = flags.DEFINE_float("seconds", 0.3, "Aimed duration of one timed chunk.")
CHUNKS = flags.DEFINE_integer("chunks", 5, "Timed chunks per line; their median counts.")
SCALING = flags.DEFINE_string("scaling", "iql_mujoco", "Method or experiment whose first stage is measured against sizes.")
SLABS = flags.DEFINE_string("slabs", "srpo_mujoco", "Method or experiment whose first stage is fed from slabs.")
SLAB_ROWS = flags.DEFINE_integer("slab_rows", 100_000, "Rows of a slab; the data have twenty times as many.")
TASKS = flags.DEFINE_list(
    "tasks",
    ["PointMaze_UMaze-v3", "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"],
    "Registered environments whose simulators are measured.",
)
ONLINE = flags.DEFINE_string(
    "online", "qsm_dmc", "Experiment whose training by interaction is measured against a plain host loop."
)
ENVS = flags.DEFINE_list("envs", ["1", "8", "64", "512"], "Numbers of environments stepped together.")
MJX = flags.DEFINE_bool("mjx", None, "Whether to measure MJX; by default on accelerators only.")
ENV_SECONDS = flags.DEFINE_float("env_seconds", 0.5, "Timed seconds of one simulator with one number of environments.")
TOPOLOGY = flags.DEFINE_list("topology", ["v5e:2x4"], "TPU slices of the section aot: v5e, v5p or v6e and the slice's shape.")
BATCH_DEVICES = flags.DEFINE_list("batch_devices", ["1"], "Chips that share a run's batch, in the section aot.")
MINUTES = flags.DEFINE_float(
    "minutes",
    0.0,
    "Stop after the line that is under way by then; 0 for no limit. Lines come in the order of --sections, --config and --runs.",
    lower_bound=0.0,
)
OUT = flags.DEFINE_string("out", "runs/benchmark", "Directory for results.json, results.md and pictures.")
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "As in launch/train.py.")


def _counts(flag: flags.FlagHolder) -> list[int]:
    if not all(text.isdigit() and int(text) for text in flag.value):
        raise configs.ConfigError(f"--{flag.name}={','.join(flag.value)} must be whole numbers of at least 1")
    return [int(text) for text in flag.value]


def _config(name: str) -> configs.Config:
    """A method at its default size, or an experiment."""
    if name in REGISTRY:
        return configs.Config(algorithm=REGISTRY[name].config())
    return cli.load_experiment(name)


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    program.no_more_arguments(argv)
    unknown = [name for name in SECTIONS.value if name not in SECTION_NAMES]
    if unknown:
        raise configs.ConfigError(f"--sections={unknown[0]} is unknown; there are {', '.join(SECTION_NAMES)}")
    with tempfile.TemporaryDirectory() as cache:
        # A cache of its own: compile times without and with it are part of the cost.
        devices.configure(CPU_DEVICES.value, Path(cache))
        _measure(program.console(180))


def _measure(console: Console) -> None:
    timing = importlib.import_module("diffrl.benchmarks.stages")
    limits = importlib.import_module("diffrl.benchmarks.limits")
    page = importlib.import_module("diffrl.benchmarks.page")
    claims = importlib.import_module("diffrl.benchmarks.claims")
    # Everything is known to exist before anything is timed: a mistake must not cost what was measured.
    out, problem = files.directory(OUT.value), timing.Problem(OBSERVATION.value, ACTION.value, ROWS.value)
    wanted = {name: _config(name) for name in CONFIG.value}
    measurements = _measurements(problem, wanted)

    machine = timing.machine()
    timed = SECTIONS.value != ["aot"]  # what is only compiled takes nothing of this machine's rates
    ceiling, bandwidth = limits.rates() if timed else (float("nan"), float("nan"))
    head = [
        f"`python launch/benchmark.py {' '.join(sys.argv[1:])}`",
        f"{machine['device']} x {machine['devices']}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {machine[name]}" for name in ("jax", "jaxlib", "flax", "optax")),
    ]
    if timed:
        rates = f"float32 matrix products: {ceiling / 1e9:,.0f} GFLOP/s; passes over memory: {bandwidth / 1e9:,.1f} GB/s"
        head.append(f"{rates}; on all devices")
    for line in head[1:]:
        console.print(line, highlight=False)
    limits = {"matmul_ceiling_flops": ceiling, "copy_bytes_per_second": bandwidth} if timed else {}
    results: dict[str, Any] = {"command": sys.argv, "machine": machine | {"python": platform.python_version()}, **limits}
    begun, left = [], []
    until = time.monotonic() + 60.0 * (MINUTES.value or float("inf"))

    def write() -> None:
        said = claims.sentences([row for each in begun if each.name == "stages" for row in each.rows], wanted, problem)
        rows = {each.name: [row._asdict() for row in each.rows] for each in begun}
        records.write(out / "results.json", results | rows | {"claims": said})
        files.write(out / "results.md", page.markdown(head, begun, said).encode())

    for section, measure in measurements:
        if time.monotonic() > until:
            left.append(section.name)
            continue
        began = time.monotonic()
        begun.append(section)
        for row in measure():
            section.rows.append(row)
            console.print("  ".join(filter(None, row.cells())), highlight=False)
            write()
            if time.monotonic() > until:
                left.append(f"the rest of {section.name}")
                break
        table = Table(*section.columns, title=f"{section.title} ({time.monotonic() - began:.0f} s)")
        for row in section.rows:
            table.add_row(*row.cells())
        console.print(table)
        write()
        _draw(section, out)
    if left:
        console.print(f"{MINUTES.value:g} minutes are over; not measured: {', '.join(left)}", highlight=False)
    console.print(f"wrote {out / 'results.json'}, {out / 'results.md'} and pictures", highlight=False)


def _measurements(problem: Any, wanted: dict[str, configs.Config]) -> list[tuple[Any, Callable[..., Iterable[Any]]]]:
    """The sections that were asked for, still without rows, and the function that measures each."""
    timing = importlib.import_module("diffrl.benchmarks.stages")
    page = importlib.import_module("diffrl.benchmarks.page")
    scaling = importlib.import_module("diffrl.benchmarks.scaling")
    trainer = importlib.import_module("diffrl.benchmarks.trainer")
    sized, fed = _config(SCALING.value), _config(SLABS.value)
    counts, batches, env_counts = _counts(RUNS), _counts(BATCHES), _counts(ENVS)
    duration = {"seconds": SECONDS.value, "chunks": CHUNKS.value}
    found = []

    def add(name: str, title: str, columns: tuple[str, ...], note: str, measure: Callable[..., Iterable[Any]]) -> None:
        if name in SECTIONS.value:
            found.append((page.Section(name, title, columns, [], note), measure))

    def stages() -> Iterable[Any]:
        for name, config in wanted.items():
            chosen = {"host": STRATEGIES.value, "longest": LONGEST.value}
            yield from timing.stages(name, config, problem, counts, STAGES.value, **duration, **chosen)

    ways = "H: host loop, numpy batches, one call per update. S: one run, data on the device, scanned. R: the run axis. "
    ways += "The ceiling and the bandwidth are measured anew before every stage."
    add("stages", "Training", timing.COLUMNS, ways, stages)
    policies = timing.acting_configs(wanted, VARIANTS.value, problem, VARIANTS.present > 0) if "acting" in SECTIONS.value else []
    add(
        "acting",
        "Acting",
        ("method", "settings", "batch", "microseconds/call", "actions/s"),
        "One call from observations on the host to actions on the host; median.",
        lambda: (row for one in policies for row in timing.acting(*one, problem, batches, **duration)),
    )
    add(
        "starts",
        "Starting",
        ("method", "programs", "s to the first chunk", "s in all"),
        "A new process that trains two updates of every stage: compiled for the first time, and found in the persistent cache.",
        lambda: (row for name, config in wanted.items() for row in trainer.starts(name, config, problem)),
    )
    add(
        "host",
        "The host's work",
        ("runs", "ms per chunk"),
        "Training networks of one unit, a chunk per update, with all reporting.",
        lambda: trainer.host_overhead(sized, counts),
    )
    add(
        "scaling",
        f"Scaling of {SCALING.value}",
        ("axis", "value", "updates/s of all", "memory MB"),
        f"{scaling.RUNS} runs where the axis is another.",
        lambda: scaling.curves(sized, problem, **duration),
    )
    add(
        "slabs",
        f"Data in slabs: {SLABS.value}",
        ("stage", "rows", "slab", "updates per slab", "resident updates/s", "slabs updates/s", "ratio"),
        "",
        lambda: [scaling.slabs(fed, problem._replace(rows=20 * SLAB_ROWS.value), SLAB_ROWS.value, SECONDS.value, CHUNKS.value)],
    )
    if "aot" in SECTIONS.value:
        aot = importlib.import_module("diffrl.benchmarks.aot")
        for topology in TOPOLOGY.value:
            aot.chips(topology)
        slices = [
            (topology, count, shared) for topology in TOPOLOGY.value for count in counts for shared in _counts(BATCH_DEVICES)
        ]

        def ahead() -> Iterable[Any]:
            for topology, count, shared in slices:
                for name, config in wanted.items():
                    yield from aot.ahead_of_time(topology, name, config, problem, count, shared, tuple(STAGES.value))

        note = "Of one chip, by the compiled program; the floor is that of the maker's rates, and no measurement."
        add("aot", "Compiled ahead of time", aot.COLUMNS, note, ahead)
    if "environments" in SECTIONS.value:
        environments = importlib.import_module("diffrl.benchmarks.environments")
        try:
            specs = {task: environments.lasting_spec(task) for task in TASKS.value}
        except environments.BackendError as error:
            raise configs.ConfigError(str(error)) from error
        mjx = importlib.import_module("jax").default_backend() != "cpu" if MJX.value is None else MJX.value
        measure = functools.partial(environments.environments, specs, env_counts, ENV_SECONDS.value, mjx)
        note = "With a policy of two hidden layers."
        add("environments", "Environments", ("task", "simulator", "environments", "steps/s"), note, measure)
    if "online" in SECTIONS.value:
        online = importlib.import_module("diffrl.benchmarks.online")
        columns = ("loop", "runs", "steps/s", "updates/s", "of the host loop's")
        measure = functools.partial(online.online, _config(ONLINE.value), counts, SECONDS.value)
        add("online", f"Training by interaction: {ONLINE.value}", columns, "", measure)
    return found


def _draw(section: Any, out: Path) -> None:
    page = importlib.import_module("diffrl.benchmarks.page")
    if section.name == "stages" and any(row.flops_per_update for row in section.rows):  # more than a host loop
        page.draw_throughput(section.rows, out / "throughput.png")
    if section.name == "scaling":
        page.draw_scaling(section.rows, f"{SCALING.value}, first stage", out / "scaling.png")
    if section.name == "acting" and any(VARIANTS.value):
        importlib.import_module("diffrl.benchmarks.acting_plot").draw(section.rows, VARIANTS.value, out / "acting.png")


def run() -> None:
    """Entry point of `diffrl-benchmark`."""
    program.run(main)


if __name__ == "__main__":
    run()
