r"""Measure what a method costs here: updates per second of every stage against this machine's own matrix-product rate,
the time of choosing an action, and the steps per second of every simulator.

    python launch/benchmark.py --out=runs/benchmark                       # the default method at its published size
    python launch/benchmark.py --config=experiments/iql_mujoco.py --runs=1,4,16,64
    python launch/benchmark.py --acting=experiments/srpo_mujoco.py,experiments/diffusion_bc_mujoco.py
    python launch/benchmark.py --stages=none --tasks= --acting=experiments/swg_mujoco.py \
        --variants='hidden_dim=64,128,256,512 act.guidance_scale=0,1' --variants='act.num_denoising_steps=5,10,15'
    python launch/benchmark.py --stages=none --acting= --envs=1,8,64,512 --mjx    # simulators only
    python launch/benchmark.py --stages=none --acting= --tasks= --online=experiments/qsm_dmc.py    # training by interaction

Prints and writes results.json and results.md, and with --variants acting.png. MJX is measured on accelerators, and with --mjx on
a CPU too, where each line compiles for 10 to 40 s. The data are random numbers of the given sizes: cost depends on shapes only.
"""

import importlib
import json
import platform
import sys
from pathlib import Path

from absl import app, flags
from rich.console import Console
from rich.table import Table

from diffrl import cli
from diffrl import config as configs
from diffrl.training import devices

CONFIG = flags.DEFINE_string("config", "srpo_mujoco", "Experiment whose stages are measured; sizes are the experiment's own.")
ACTING = flags.DEFINE_list("acting", ["srpo_mujoco", "diffusion_bc_mujoco"], "Experiments whose action time is compared.")
VARIANTS = flags.DEFINE_multi_string(
    "variants",
    [],
    "Time the acting experiments with these settings of the algorithm: 'name=v1,v2 other=v1' means every combination; the "
    "first name is the picture's axis. Repeatable.",
)
BATCHES = flags.DEFINE_list("batches", ["1", "1024"], "Observations per call when acting.")
RUNS = flags.DEFINE_list("runs", ["1", "4", "16"], "Numbers of runs in one program.")
STAGES = flags.DEFINE_list("stages", [], "Stages to measure; all by default.")
STRATEGIES = flags.DEFINE_bool("strategies", True, "Also run the same updates by a host loop and by a scan of one run.")
OBSERVATION = flags.DEFINE_integer("observation_dim", 17, "Length of the observation (17 is HalfCheetah's).")
ACTION = flags.DEFINE_integer("action_dim", 6, "Length of the action (6 is HalfCheetah's).")
ROWS = flags.DEFINE_integer("rows", 100_000, "Transitions on the device.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Aimed duration of one timed chunk.")
CHUNKS = flags.DEFINE_integer("chunks", 5, "Timed chunks per line; their median counts.")
TASKS = flags.DEFINE_list(
    "tasks",
    ["PointMaze_UMaze-v3", "Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"],
    "Registered environments whose simulators are measured; empty for none.",
)
ONLINE = flags.DEFINE_string("online", "", "Experiment whose training by interaction is measured against a plain host loop.")
ENVS = flags.DEFINE_list("envs", ["1", "8", "64", "512"], "Numbers of environments stepped together.")
MJX = flags.DEFINE_bool("mjx", None, "Whether to measure MJX; by default on accelerators only.")
ENV_SECONDS = flags.DEFINE_float("env_seconds", 0.5, "Timed seconds of one simulator with one number of environments.")
OUT = flags.DEFINE_string("out", "runs/benchmark", "Directory for results.json and results.md.")
CPU_DEVICES = flags.DEFINE_integer("cpu_devices", 0, "As in launch/train.py.")


def _counts(flag: flags.FlagHolder) -> list[int]:
    if not all(text.isdigit() and int(text) for text in flag.value):
        raise configs.ConfigError(f"--{flag.name}={','.join(flag.value)} must be whole numbers of at least 1")
    return [int(text) for text in flag.value]


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    cli.no_more_arguments(argv)
    devices.configure(CPU_DEVICES.value)
    env_timing = importlib.import_module("diffrl.evaluation.env_timing")
    run_counts, env_counts, batches = _counts(RUNS), _counts(ENVS), _counts(BATCHES)
    try:
        specs = {task: env_timing.lasting_spec(task) for task in TASKS.value}
    except env_timing.BackendError as error:
        raise configs.ConfigError(str(error)) from error
    timing = importlib.import_module("diffrl.evaluation.timing")
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of the cost
    console = Console(width=None if sys.stdout.isatty() else 140)
    problem = timing.Problem(OBSERVATION.value, ACTION.value, ROWS.value)
    config = cli.load_experiment(CONFIG.value)
    # All are built before the first is timed: a mistake must not cost what was measured.
    policies = [
        (name, variant, timing.acting_config(cli.load_experiment(name), variant, problem))
        for name in ACTING.value
        for variant in timing.variants(VARIANTS.value)
    ]
    machine = timing.machine()
    console.print(
        f"{machine['device']} x {machine['devices']}, jax {machine['jax']}, Python {platform.python_version()}", highlight=False
    )
    floor = importlib.import_module("diffrl.evaluation.floor")
    ceiling, bandwidth = floor.matmul_rate(), floor.copy_rate()
    console.print(
        f"float32 matrix products: {ceiling / 1e9:,.0f} GFLOP/s measured (2048 x 2048); passes over memory: "
        f"{bandwidth / 1e9:,.1f} GB/s; all devices at once",
        highlight=False,
    )

    columns = ("stage", "runs", "updates/s", "aggregate/s", "compile s", "memory MB", "GFLOP/update", "GFLOP/s", "of ceiling")
    columns += ("MB/update", "of bandwidth", "kernels/update")
    training = Table(*columns, title=f"{CONFIG.value}: training")
    rows = []
    for row in timing.stages(config, problem, run_counts, STAGES.value, SECONDS.value, CHUNKS.value, ceiling, bandwidth):
        rows.append(row)
        training.add_row(*row.cells())
        console.print("  ".join(row.cells()), highlight=False)
    console.print(training)

    ways = []
    if STRATEGIES.value:
        strategies = importlib.import_module("diffrl.evaluation.strategies")
        table = Table(
            "stage", "way", "runs", "updates/s of all", "against H", title="host loop, scan, run axis: the same updates"
        )
        sizes = (problem.spec(), problem.dataset(), run_counts)
        for row in strategies.compare(config, *sizes, STAGES.value, SECONDS.value, CHUNKS.value):
            ways.append(row)
            table.add_row(*row.cells())
            console.print("  ".join(row.cells()), highlight=False)
        console.print(table)

    acting = Table("method", "settings", "batch", "microseconds/call", "actions/s", title="acting, one process")
    actions = []
    for name, variant, acting_config in policies:
        for row in timing.acting(name, variant, acting_config, problem, batches, CHUNKS.value):
            actions.append(row)
            acting.add_row(*row.cells())
    console.print(acting)

    simulators = Table("task", "simulator", "environments", "steps/s", title="environments, with a policy of two hidden layers")
    steps = []
    mjx = jax.default_backend() != "cpu" if MJX.value is None else MJX.value
    for row in env_timing.environments(specs, env_counts, ENV_SECONDS.value, mjx):
        steps.append(row)
        simulators.add_row(*row.cells())
    console.print(simulators)

    online = []
    if ONLINE.value:
        online_timing = importlib.import_module("diffrl.evaluation.online_timing")
        interaction = Table("loop", "runs", "steps/s", "updates/s", "of the host loop's", title=f"{ONLINE.value}: by interaction")
        for row in online_timing.online(cli.load_experiment(ONLINE.value), run_counts, SECONDS.value):
            online.append(row)
            interaction.add_row(*row.cells())
            console.print("  ".join(row.cells()), highlight=False)
        console.print(interaction)

    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": machine,
        "matmul_ceiling_flops": ceiling,
        "copy_bytes_per_second": bandwidth,
        "config": CONFIG.value,
        "training": [row._asdict() for row in rows],
        "strategies": [row._asdict() for row in ways],
        "acting": [row._asdict() for row in actions],
        "environments": [row._asdict() for row in steps],
        "online": [row._asdict() for row in online],
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / "results.md").write_text(timing.markdown(results, columns))
    if VARIANTS.value:
        plots = importlib.import_module("diffrl.evaluation.acting_plot")
        console.print(f"wrote {plots.draw(actions, VARIANTS.value, out / 'acting.png')}", highlight=False)
    console.print(f"wrote {out / 'results.json'} and {out / 'results.md'}", highlight=False)


def run() -> None:
    """Entry point of `diffrl-benchmark`."""
    app.run(cli.guarded(main), flags_parser=cli.parse_flags)


if __name__ == "__main__":
    run()
