"""Plans of a trained method that plans, against what comes of them: costs promised and true, and the gap between them.

    python launch/plan.py --workdir=runs/cartpole --variant='beta=0' --variant='beta=1,3 weighting=dist'
    python launch/plan.py --workdir=runs/hopper --closed_loop --variant='beta=0,0.2,1' --starts=10

On a control task (launch/collect.py --recipe=control/...) it plans once from every start with the task's own cost, in one
compiled program for all runs and starts, and does what was planned. With --closed_loop it acts in the environment of any
dataset and compares every plan's promised return over its horizon with the one that came.

Writes plans.md, plans.json and pictures. Exit code 2, with one line, for what the user can mend.
"""

from pathlib import Path

from absl import flags
from rich.markdown import Markdown

from diffrl import program
from diffrl.reports import markdown
from diffrl.training import devices

WORKDIR = flags.DEFINE_string("workdir", None, "Directory that launch/train.py wrote.")
OUT = flags.DEFINE_string("out", None, "Directory for table and pictures; by default plans/ in the workdir.")
VARIANT = flags.DEFINE_multi_string(
    "variant", [], "Choices when acting: 'name=v1,v2 other=v1' means every combination. Repeatable; default: as trained."
)
STARTS = flags.DEFINE_integer("starts", 8, "Starts per run.", lower_bound=1)
TO_GOAL = flags.DEFINE_bool("to_goal", False, "Plans end exactly in the task's goal: planner transcription or collocation.")
CLOSED = flags.DEFINE_bool("closed_loop", False, "Plan anew at every step, in the environment of the dataset.")
STEPS = flags.DEFINE_integer("steps", 50, "Of a closed loop, that promises are compared at.", lower_bound=1)
BACKEND = flags.DEFINE_string("backend", "auto", "Simulator of a closed loop, as in launch/evaluate.py.")
SEED = flags.DEFINE_integer("seed", 0, "Of starts and of planning.")


def main(argv: list[str]) -> None:
    """Exit code 2 and one line for what the user can mend."""
    program.no_more_arguments(argv)
    from diffrl import files, records
    from diffrl.evaluation.evaluate import EvaluationError, parse_act
    from diffrl.studies import planning, planning_plots
    from diffrl.training.trained import Trained

    if WORKDIR.value is None:
        raise EvaluationError("--workdir is required: the directory that launch/train.py wrote")
    if CLOSED.value and TO_GOAL.value:
        raise EvaluationError("--to_goal is of plans that are made once; leave out --closed_loop")
    devices.configure(cpu_devices=1)
    console = program.console(160)
    trained = Trained.open(files.directory(WORKDIR.value))
    out = Path(OUT.value or files.directory(WORKDIR.value) / "plans")
    acts = [act for text in VARIANT.value or [""] for act in parse_act(tuple(text.split()))]
    for act in acts:
        planning.models_of(trained, act)  # refuse what is impossible before anything is computed
    outcomes = []
    for number, act in enumerate(acts):
        with program.status(console, f"{number + 1}/{len(acts)} {planning.words(act)}"):
            if CLOSED.value:
                options = {"steps": STEPS.value, "backend": BACKEND.value}
                outcomes.append(planning.closed_loop(trained, act, starts=STARTS.value, seed=SEED.value, **options))
            else:
                options = {"starts": STARTS.value, "seed": SEED.value, "to_goal": TO_GOAL.value}
                outcomes.append(planning.open_loop(trained, act, **options))
        if not console.is_terminal:
            console.print(planning.to_markdown(outcomes[-1:]).splitlines()[-1], highlight=False, soft_wrap=True)
    written = [planning_plots.promises(outcomes, out / "promises.png")]
    task = planning.task_of(trained)
    if task is not None and not CLOSED.value:
        written.append(planning_plots.paths(outcomes, task, out / "paths.png"))
        written += planning_plots.of_task(outcomes, task, out)
        if task.observation_dim == 2:
            written.append(planning_plots.fields(trained, task, out / "scores.png"))
    table = planning.to_markdown(outcomes)
    text = f"{markdown.heading(trained.card.id)}\n{table}\n" + "".join(f"![{path.stem}]({path.name})\n" for path in written)
    files.write(out / "plans.md", text.encode())
    records.write(out / "plans.json", [one.to_json() for one in outcomes])
    console.print(Markdown(table))
    for path in [out / "plans.md", *written]:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def run() -> None:
    """Entry point of `diffrl-plan`."""
    program.run(main)


if __name__ == "__main__":
    run()
