"""Completion knows what the programs know, and asks none of them."""

import dataclasses
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from programs import run
from support import chosen

from diffrl import completion
from diffrl.config import Config
from diffrl.registry import REGISTRY
from diffrl.settings import types_of

ROOT = Path(__file__).parents[1]
PROGRAMS = completion.program_names()
COMMAND = [sys.executable, "-IS", str(ROOT / "diffrl/completion.py")]  # without site-packages: neither JAX nor absl is there


@pytest.mark.parametrize("program", chosen(PROGRAMS, PROGRAMS.index("train"), PROGRAMS.index("evaluate")))
def test_flags_are_those_of_absl(program: str, tmp_path: Path) -> None:
    """What the program says of itself: its own flags are the keys."""
    said = ElementTree.fromstring(run(tmp_path, f"launch/{program}.py", "--helpxml").stdout)
    defined = [flag for flag in said.iter("flag") if flag.findtext("key") == "yes"]
    assert defined
    names = {"--help", *(["--config."] if program in ("check", "sweep", "train") else [])}
    for flag in defined:
        name, kind = flag.findtext("name"), flag.findtext("type")
        names |= {f"--{name}", f"--no{name}"} if kind == "bool" else {f"--{name}="}
        choices = [each.text for each in flag.iter("enum_value")]
        if choices and name != "suite":  # whose choices are computed
            line = f"diffrl-{program} --{name}="
            assert completion.candidates(line) == sorted(f"--{name}={choice}" for choice in choices)
    assert completion.candidates(f"diffrl {program} -") == sorted(names)


METHODS = sorted(REGISTRY)


@pytest.mark.parametrize("method", chosen(METHODS, METHODS.index("idql"), METHODS.index("iql")))
def test_settings_are_those_of_the_config(method: str) -> None:
    """On all levels, with the choices that a setting has."""
    assert completion.methods() == METHODS

    def compare(holder: Any, prefix: str) -> None:
        found = completion.candidates(f"diffrl-train --config={method} --config.{prefix}")
        nested = {field.name: dataclasses.is_dataclass(getattr(holder, field.name)) for field in dataclasses.fields(holder)}
        assert found == sorted(f"--config.{prefix}{name}{'.' if deep else '='}" for name, deep in nested.items())
        for name, deep in nested.items():
            hint = types_of(holder)[name]
            if deep:
                compare(getattr(holder, name), f"{prefix}{name}.")
            elif typing.get_origin(hint) is typing.Literal or hint is bool:
                values = ("true", "false") if hint is bool else typing.get_args(hint)
                line = f"diffrl-train --config {method} --config.{prefix}{name}="
                assert completion.candidates(line) == sorted(f"--config.{prefix}{name}={value}" for value in values), line

    compare(Config(algorithm=REGISTRY[method].config()), "")


def test_a_config_is_an_experiment_a_method_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {each.partition("=")[2] for each in completion.candidates("diffrl-train --config=")}
    files = (path.relative_to(ROOT / "experiments") for path in (ROOT / "experiments").rglob("*.py"))
    assert {*(path.with_suffix("").as_posix() for path in files if path.stem != "__init__"), *REGISTRY} <= known
    assert completion.candidates("diffrl-sweep --config iql_m") == ["iql_mujoco"]
    assert completion.candidates("diffrl-train --config=experi") == ["--config=experiments/"]
    assert "--config=experiments/iql_mujoco.py" in completion.candidates("diffrl-train --config=experiments/iql_m")
    for config in ("iql_mujoco", "iql_mujoco:hopper-medium", "experiments/iql_mujoco.py", "published/iql_maze2d", "iql"):
        expected = completion.candidates("diffrl-train --config=iql --config.algorithm.ex")
        assert expected == ["--config.algorithm.expectile="]
        assert completion.candidates(f"diffrl-train --config={config} --config.algorithm.ex") == expected
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from diffrl.algorithms.srpo import Config as Method\n")
    assert completion.candidates("diffrl-train --config=mi") == ["--config=mine.py"]
    assert completion.candidates("diffrl-train --config=mine.py --config.algorithm.policy_u") == [
        "--config.algorithm.policy_updates="
    ]


def test_nothing_is_offered_where_nothing_is_known() -> None:
    for line in ("", "ls dif", "diffrl-nothing --", "diffrl-train run", "diffrl-train --config iql sr", "diffrl-report --out=ru"):
        assert completion.candidates(line) == [], line
    for line in ("diffrl-train --config.nothing.", "diffrl-train --config.algorithm.", "diffrl-train --config='"):
        assert completion.candidates(line) == [], line
    assert completion.candidates("diffrl-report --config.") == []  # takes no settings


def _shell(*command: str, script: str) -> list[str]:
    """What a shell prints that has read the script of `diffrl completion`."""
    printed = [sys.executable, str(ROOT / "launch/menu.py"), "completion", command[0]]
    sourced = subprocess.run(printed, capture_output=True, text=True, check=True, timeout=60).stdout
    done = subprocess.run([*command, "-c", f"{sourced}\n{script}"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("diffrl-train --con", ["--config.", "--config="]),
        ("diffrl-train --config=bc_p", ["bc_pointmaze"]),  # bash begins a word at "="
        ("diffrl train --config=experi", ["experiments/"]),
        ("diffrl-train --config=iql_pointmaze --config.algorithm.ex", ["--config.algorithm.expectile="]),
        ("diffrl-train --config.dataset.standardize_observations=", ["false", "true"]),
        ("diffrl sw", ["sweep"]),
        ("diffrl completion ", ["bash", "zsh"]),
    ],
)
def test_bash_completes(line: str, expected: list[str]) -> None:
    script = """
        COMP_LINE=$1; COMP_POINT=${#1}
        _diffrl
        printf '%s\\n' "${COMPREPLY[@]}"
        complete -p diffrl-train >&3"""
    script = f"exec 3>/dev/null; set -- '{line}'\n{script}"
    assert _shell("bash", "--norc", script=script) == expected


def test_bash_knows_every_program() -> None:
    said = _shell("bash", "--norc", script="complete -p")
    assert {line.split()[-1] for line in said} == {"diffrl", *(f"diffrl-{name}" for name in PROGRAMS)}
    for program in PROGRAMS:
        assert f'diffrl-{program} = "diffrl.launch.{program}:run"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes() -> None:
    """Its builtins, which work within its editor alone, say what they are told."""
    script = """
        compadd() { print -l -- "$@" | grep '^--.' }
        words=(diffrl-train --config=iql_pointmaze --config.algorithm.ex); CURRENT=3; PREFIX=$words[3]
        _diffrl
        _files() { print files }; compset() { print compset "$@" }
        words=(diffrl-train --workdir=ru); CURRENT=2; PREFIX=$words[2]
        _diffrl"""
    assert _shell("zsh", "-f", script=script) == ["--config.algorithm.expectile=", "compset -P *=", "files"]


def test_nothing_is_imported_for_it() -> None:
    code = """if True:
        import sys
        sys.argv = ["diffrl", "completion", "bash"]
        from launch.menu import run
        run()
        print(sorted({"jax", "absl", "rich", "numpy"} & set(sys.modules)))"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, timeout=60).stdout
    assert said.splitlines()[-1] == "[]"
    line = "diffrl-train --config=swg --config.algorithm.act.sel"
    alone = subprocess.run([*COMMAND, line], capture_output=True, text=True, check=True, timeout=60)
    assert alone.stdout == "--config.algorithm.act.select=\n"
