"""The laboratory: methods where the answer is known, on toy distributions and as imitators of experts; tables and pictures.

    python launch/train.py --config=experiments/toy_swg.py:8gaussians --workdir=runs/toy/8gaussians/swg
    python launch/lab.py runs/toy/8gaussians/swg --out=runs/toy/8gaussians/report
    python launch/lab.py 'runs/toy/*/*' --candidates=64 --act=guidance_scale=0,1 --out=runs/toy/report
    python launch/lab.py --decoding --out=runs/decoding        # no workdir: ways of decoding, where the model is exact
    python launch/lab.py --imitation edm_classic bc_classic --task=cartpole --task=acrobot --out=runs/imitation

Writes lab.md (sliced Wasserstein distance and MMD to the truth per β, beside those of two true samples), a picture per toy with
the methods' samples above the truth, and for workdirs of targets a picture of the modes they find. With --decoding a table and a
picture of distances over calls of the model. With --imitation experiments are trained on 1 to 15 sub-sampled demonstrations of
each task and judged by their return and their agreement with the expert; a task whose result lies in --out is not run again.
Exit code 2, with one line, for what the user can mend.
"""

import glob
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.markdown import Markdown

from diffrl import program
from diffrl.training import devices

OUT = flags.DEFINE_string("out", "report", "Directory for the table and pictures.")
POINTS = flags.DEFINE_integer("points", 2_000, "Points per sample.", lower_bound=10)
CANDIDATES = flags.DEFINE_integer("candidates", 0, "Softmax-of-N for methods without β: among so many candidates.", lower_bound=0)
ACT = flags.DEFINE_multi_string("act", [], "As in launch/evaluate.py: name=value, or name=v1,v2 for each. Repeatable.")
DECODING = flags.DEFINE_boolean("decoding", False, "Compare guidance, soft decoding and candidates on exact models instead.")
IMITATION = flags.DEFINE_boolean("imitation", False, "Train these experiments on few demonstrations, and compare them.")
TASK = flags.DEFINE_multi_string("task", ["cartpole"], "Of --imitation: the argument of the experiments. Repeatable.")
REPETITIONS = flags.DEFINE_integer("repetitions", 10, "Of --imitation, for each number of demonstrations.", lower_bound=1)
EPISODES = flags.DEFINE_integer("episodes", 20, "Of --imitation, of each repetition's evaluation.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")


def main(argv: list[str]) -> None:
    """Exit code 2 and one line for what the user can mend."""
    from diffrl import files
    from diffrl.evaluation.evaluate import EvaluationError

    if DECODING.value and argv[1:]:
        raise EvaluationError("--decoding takes no workdirs: its models are exact")
    console = program.console()
    if IMITATION.value:
        name, (markdown, written) = "imitation", _imitators(argv[1:], console)
    else:
        name, markdown, written = ("decoding", *_decoders(console)) if DECODING.value else ("lab", *_policies(argv[1:], console))
    path = files.directory(OUT.value) / f"{name}.md"
    pictures = "\n".join(f"![{each.stem}]({each.name})\n" for each in written)
    files.write(path, f"{markdown}\n{pictures}".encode())
    console.print(Markdown(markdown))
    for each in (path, *written):
        console.print(f"wrote {each}", highlight=False, soft_wrap=True)


def _decoders(console: Console) -> tuple[str, list[Path]]:
    """The table of ways of decoding, and its picture."""
    from diffrl import files
    from diffrl.studies import decoding

    devices.configure(cpu_devices=1)
    out = files.directory(OUT.value)
    with program.status(console, "sampling and measuring") as say:
        found = decoding.compare(n=POINTS.value, seed=SEED.value, say=say)
        return decoding.to_markdown(found), [decoding.picture(found, out / "decoding.png")]


def _imitators(experiments: list[str], console: Console) -> tuple[str, list[Path]]:
    """The tables of methods over numbers of demonstrations, and a picture per task.

    Raises:
        EvaluationError: no experiment is named.
    """
    from diffrl import cli, files
    from diffrl.evaluation.evaluate import EvaluationError
    from diffrl.studies import imitation

    if not experiments:
        raise EvaluationError("name the experiments to compare: lab.py --imitation edm_classic bc_classic")
    devices.configure()
    out, studies, written = files.directory(OUT.value), [], []
    for task in TASK.value:
        path = out / f"imitation-{files.slug(task)}.json"
        if not path.exists():
            with program.status(console, task) as say:
                found = imitation.compare(
                    lambda name, task=task: cli.load_experiment(f"{name}:{task}"),
                    tuple(experiments),
                    repetitions=REPETITIONS.value,
                    episodes=EPISODES.value,
                    say=lambda text, task=task, say=say: say(f"{task}: {text}"),
                )
            imitation.write(found, path)
        studies.append(imitation.read(path))
        written.append(imitation.picture(studies[-1], path.with_suffix(".png")))
    return imitation.to_markdown(studies), written


def _policies(patterns: list[str], console: Console) -> tuple[str, list[Path]]:
    """The tables of trained policies, and their pictures.

    Raises:
        EvaluationError: no pattern names a training directory, or one is not of a toy.
    """
    from diffrl import files
    from diffrl.evaluation.evaluate import EvaluationError, parse_act
    from diffrl.studies import toys

    workdirs = [Path(match) for pattern in patterns for match in sorted(glob.glob(pattern))]  # noqa: PTH207
    workdirs = [workdir for workdir in workdirs if (workdir / "config.json").exists()]
    if not workdirs:
        raise EvaluationError("name at least one workdir of a toy: lab.py runs/toy/8gaussians/swg")
    devices.configure(cpu_devices=1)
    out = files.directory(OUT.value)
    with program.status(console, "sampling and measuring"):
        cells = toys.judge(workdirs, parse_act(tuple(ACT.value)), n=POINTS.value, candidates=CANDIDATES.value, seed=SEED.value)
        written = [toys.picture(toy, rows, out / f"{toy}.png") for toy, rows in cells.items()]
        for workdir in workdirs:
            found = toys.modes(workdir, out / f"modes-{workdir.parent.name}-{workdir.name}.png")
            written += [found] if found else []
    return toys.to_markdown(cells), written


def run() -> None:
    """Entry point of `diffrl-lab`."""
    program.run(main)


if __name__ == "__main__":
    run()
