"""Evaluate the checkpoints of a workdir: scores of every run, in one batch of episodes.

    python launch/evaluate.py --workdir=runs/a                       # all checkpoints of the last stage
    python launch/evaluate.py --workdir=runs/a --watch               # beside the trainer, until it has ended
    python launch/evaluate.py --workdir=runs/a --step=last --act=num_denoising_steps=5,10,15

Writes evaluations/<step>/<label>.json: every episode's return, length and success, per run. Repeating a command evaluates
only what has no result yet. Exit code 2, with one line, for what the user can mend.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from diffrl import files, program
from diffrl.envs.make import BACKENDS
from diffrl.evaluation import video
from diffrl.evaluation.evaluate import EvaluationError, Options, evaluate_workdir
from diffrl.evaluation.results import Result, path_of
from diffrl.reports import plots, tables
from diffrl.training import devices

WORKDIR = flags.DEFINE_string("workdir", None, "Directory that launch/train.py wrote.")
WATCH = flags.DEFINE_bool("watch", False, "Go on with new checkpoints until training has ended.")
EPISODES = flags.DEFINE_integer("episodes", 64, "Episodes per run and checkpoint.")
STEP = flags.DEFINE_string("step", "all", "A checkpoint's number of updates, 'last', or 'all' of the last stage.")
BACKEND = flags.DEFINE_enum(
    "backend",
    "auto",
    BACKENDS,
    "Simulator. auto: jax for PointMaze and the control tasks, mujoco for Hopper, HalfCheetah and Walker2d, gymnasium for "
    "everything else; mjx is for accelerators.",
)
SEED = flags.DEFINE_integer("seed", 0, "Evaluation seed: start states and action noise depend on it.")
ACT = flags.DEFINE_multi_string("act", [], "Override a choice made when acting: name=value, or name=v1,v2 for each. Repeatable.")
RENDER = flags.DEFINE_bool(
    "render", False, "Also a picture of the trajectories (mazes) and videos of the best, median and worst episode."
)
FORCE = flags.DEFINE_bool("force", False, "Evaluate again what has a result already.")


def options_of_flags() -> Options:
    """Flags as Options.

    Raises:
        EvaluationError: --step is neither a number nor one of those words.
    """
    step = None if STEP.value == "all" else STEP.value
    if step is not None and step != "last":
        if not step.isdigit():
            raise EvaluationError(f"--step={step} is neither a number of updates, 'last' nor 'all'")
        step = int(step)
    return Options(EPISODES.value, step, BACKEND.value, SEED.value, tuple(ACT.value), WATCH.value, FORCE.value)


def render(workdir: Path, found: list[Result], console: Console) -> None:
    """Pictures of the last evaluated checkpoint, one per way of acting."""
    for result in (each for each in found if each.step == found[-1].step):
        label = result.settings.label
        series = [one for one in tables.read([workdir], result.step) if one.last.settings.label == label]
        picture = plots.maze_picture(
            series, plots.colours(series), path_of(workdir, result.step, result.settings).with_suffix(".png")
        )
        if picture:
            console.print(f"wrote {picture}", highlight=False, soft_wrap=True)
        try:
            for path in video.record(workdir, result):
                console.print(f"wrote {path}", highlight=False, soft_wrap=True)
        except video.VideoError as error:
            console.print(str(error), highlight=False, markup=False)


def main(argv: list[str]) -> None:
    """Exit code 2 and one line for what the user can mend."""
    program.no_more_arguments(argv)
    if WORKDIR.value is None:
        raise EvaluationError("--workdir is required: the directory that launch/train.py wrote")
    devices.configure(cpu_devices=1)  # a rollout is one program on one device
    console = program.console()
    workdir = files.directory(WORKDIR.value)
    found = evaluate_workdir(workdir, options_of_flags(), console)
    if RENDER.value:
        render(workdir, found, console)


def run() -> None:
    """Entry point of `diffrl-evaluate`."""
    program.run(main)


if __name__ == "__main__":
    run()
