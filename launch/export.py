"""Write a trained policy for where diffrl and JAX are not: an ONNX graph, a StableHLO program, or arrays that NumPy reads.

    python launch/export.py --workdir=runs/srpo                          # ONNX, run 0, last checkpoint, to runs/srpo/export
    python launch/export.py --workdir=runs/srpo --format=onnx,stablehlo,npz --run=best --out=robot
    python launch/export.py --workdir=runs/idql --act=num_candidates=16 --format=stablehlo

Observations go in raw and actions come out in the environment's units. Each file is compared with JAX before it is written.
Beside it stand policy.FORMAT.json, which names what goes in and comes out, and README.md, the model card. ONNX and StableHLO
need `pip install 'diffrl[export]'`. Exit code 2, with one line, for what the user can mend.
"""

import shlex
import sys

from absl import flags

from diffrl import files, program
from diffrl.training import devices

WORKDIR = flags.DEFINE_string("workdir", None, "Directory that launch/train.py wrote.")
FORMAT = flags.DEFINE_list("format", ["onnx"], "One or several of onnx, stablehlo, npz, with commas between them.")
OUT = flags.DEFINE_string("out", None, "Directory for the files. Default: export in the workdir.")
RUN = flags.DEFINE_string("run", "0", "Whose policy: a run's number, or 'best' by the evaluation of this checkpoint.")
STEP = flags.DEFINE_string("step", "last", "A checkpoint's number of updates, or 'last'.")
ACT = flags.DEFINE_multi_string("act", [], "Override a choice made when acting: name=value. Repeatable.")
TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-5, "Largest difference from JAX, in units of half the range of an action.", lower_bound=0.0
)


def main(argv: list[str]) -> None:
    """Exit code 2 and one line for what the user can mend."""
    program.no_more_arguments(argv)
    if WORKDIR.value is None:
        program.fail("--workdir is required: the directory that launch/train.py wrote")
    devices.configure(cpu_devices=1)
    from diffrl.acting import choose
    from diffrl.evaluation.evaluate import parse_act
    from diffrl.export.export import export

    acts = parse_act(tuple(ACT.value))
    if len(acts) > 1:
        program.fail("--act names several ways of acting, and one policy acts in one: give each name one value")
    run, step = (int(text) if text.isdigit() else text for text in (RUN.value, STEP.value))
    workdir = files.directory(WORKDIR.value)
    out = workdir / "export" if OUT.value is None else files.directory(OUT.value)
    command = shlex.join(["diffrl-export", *sys.argv[1:]])
    console = program.console()
    for name, found in export(choose(workdir, run, step, dict(acts[0])), FORMAT.value, out, command, TOLERANCE.value).items():
        said = f"{name}: {found.microseconds:,.0f} µs an action here, {found.description.difference:.1e} from JAX"
        console.print(f"{said}; wrote {', '.join(map(str, found.files))}", highlight=False, soft_wrap=True)
    console.print(f"wrote {out / 'README.md'}", highlight=False, soft_wrap=True)


def run() -> None:
    """Entry point of `diffrl-export`."""
    program.run(main)


if __name__ == "__main__":
    run()
