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
    for where, words in json.loads(commands):
        overrides, rest = cli.take_overrides(words)
        # Sentences leave the workdir out.
        workdir = ["--workdir=W"] if "WORKDIR" in names and not any(word.startswith("--workdir") for word in words) else []
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        try:
            program.parse_flags([script, *rest, *workdir])
            config = names["CONFIG"].value if "CONFIG" in names else None
            if isinstance(config, str):
                cli.load_config(config, overrides)
            for name in config if isinstance(config, list) else ():  # of what is measured
                cli.load_experiment(name)
            if "options_of_flags" in names:
                names["options_of_flags"]()
        except (SystemExit, ValueError) as error:
            print(f"{where}: {script} {' '.join(words)}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
