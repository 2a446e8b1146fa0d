"""A program: parses command lines as another does, makes the configs they ask for, and says what it would refuse.

python tests/end_to_end/parse.py launch/train.py '[["README.md", ["--config=iql", "--workdir=runs/iql"]]]'
"""

import json
import runpy
import sys

from absl import flags

from diffrl import cli, program


def main(script: str, commands: str) -> None:
    sys.path[0] = "launch"
    names = runpy.run_path(script, run_name="documented")
    takes_experiment = "load_config" in open(script).read() and "CONFIG" in names  # noqa: PTH123, SIM115
    for where, words in json.loads(commands):
        overrides, rest = cli.take_overrides(words)
        # Sentences leave the workdir out.
        workdir = ["--workdir=W"] if "WORKDIR" in names and not any(word.startswith("--workdir") for word in words) else []
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        try:
            program.parse_flags([script, *rest, *workdir])
            if takes_experiment and flags.FLAGS.config:
                cli.load_config(flags.FLAGS.config, overrides)
            if "options_of_flags" in names:
                names["options_of_flags"]()
        except (SystemExit, ValueError) as error:
            print(f"{where}: {script} {' '.join(words)}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
