"""How programs begin and end: displays that go away, terminals of any kind, one line for a mistake, machines that lack things."""

import ast
import errno
import io
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from absl import flags
from programs import ROOT, environment, run
from support import chosen

from diffrl import machine, program
from diffrl.errors import UserError

PROGRAMS = sorted(path.stem for path in (ROOT / "launch").glob("[a-z]*.py"))


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("display", [closed_pipe, full_disk])
def test_a_display_that_goes_away_never_ends_the_work(display: Callable[[], int]) -> None:
    descriptor = display()
    with open(descriptor, "w", closefd=False) as file:
        stream = program._Enduring(file, descriptor)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
    os.close(descriptor)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_few_letters(encoding: str, tmp_path: Path) -> None:
    with (tmp_path / "shown").open("w", encoding=encoding) as file:
        program._Enduring(file, file.fileno()).write("a 名前 \ud800 b\n")
    assert (tmp_path / "shown").read_text() == "a ?? ? b\n"


def test_no_stream_at_all() -> None:
    """As under pythonw, or where descriptor 1 was closed before the start."""
    stream = program._Enduring(None, 1)
    stream.write("x")
    stream.flush()
    stream.close()


def ends(main: Callable[[list[str]], int | None], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code, and what was said."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with pytest.raises(SystemExit) as ended:
        program.guarded(main)([])
    return ended.value.code, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def main(argv: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("this: do that"), 2, "error: this: do that\n"),
        (UserError("a\x1b[31m\rb"), 2, "error: a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b\n"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2, "error: No space left on device: f. Make room, and the same"),
        (OSError(errno.EROFS, "Read-only file system", "f"), 2, "error: Read-only file system: f\n"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "error: Permission denied: f\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "f"), 2, "error: File name too long: f\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = ends(raising(error), capsys)
    assert found == code
    assert err.startswith(said)
    assert err.count("\n") == (1 if said else 0)


def test_devices_that_are_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    error = RuntimeError("Unable to initialize backend 'cuda': no such thing\nmore")
    code, err = ends(raising(error), capsys)
    assert code == 2
    assert "JAX_PLATFORMS=cuda asks for it: unset JAX_PLATFORMS" in err
    assert err.count("\n") == 1
    with pytest.raises(RuntimeError, match="of ours"):
        program.guarded(raising(RuntimeError("of ours")))([])


def test_text_from_data_is_no_markup_and_moves_no_cursor() -> None:
    shown = io.StringIO()
    console = program.console(file=shown)
    console.print("[bold]a[/bold] [/x] [link=http://x]y[/link] \x1b[2J\x07 b\nc :smile:")
    assert shown.getvalue() == "[bold]a[/bold] [/x] [link=http://x]y[/link] �[2J� b\nc :smile:\n"


def test_a_log_is_told_what_is_under_way() -> None:
    """Where no terminal is, lines: the first at once, later ones not too often."""
    written = io.StringIO()
    console = program.Console(file=written)
    with program.status(console, "begins") as say:
        say("too soon")
    with program.status(console, "again", every=0.0) as say:
        say("soon enough")
    assert written.getvalue().split("\n") == ["begins", "again", "soon enough", ""]


@pytest.mark.parametrize("name", chosen(PROGRAMS, PROGRAMS.index("report")))
def test_help_exits_with_0(name: str, tmp_path: Path) -> None:
    about = ast.get_docstring(ast.parse((ROOT / f"launch/{name}.py").read_text())) or ""
    assert run(tmp_path, f"launch/{name}.py", "--help").stdout.startswith(about.split("\n")[0])


@pytest.mark.parametrize("name", chosen(PROGRAMS, PROGRAMS.index("check")))
def test_help_of_an_installed_program_is_that_of_its_file(name: str, tmp_path: Path) -> None:
    """Installed, the main module is a stub that imports the program."""
    stub = tmp_path / f"diffrl-{name}.py"
    stub.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'launch')!r})\nfrom {name} import run\nrun()\n")
    installed, file = run(tmp_path, str(stub), "--help").stdout, run(tmp_path, f"launch/{name}.py", "--help").stdout
    assert installed.replace(str(stub), f"launch/{name}.py") == file


@pytest.mark.parametrize("words", [["check", "--help"], []], ids=str)
def test_one_program_leads_to_all_others(words: list[str], tmp_path: Path) -> None:
    said = run(tmp_path, "launch/menu.py", *words).stdout
    named = [f"diffrl-{name}" in said for name in PROGRAMS if name != "menu"]
    assert "flags:" in said if words else all(named)


def test_a_word_that_is_no_program(tmp_path: Path) -> None:
    assert "did you mean train?" in run(tmp_path, "launch/menu.py", "trian", code=2).stderr


@pytest.mark.parametrize("name", chosen(PROGRAMS, PROGRAMS.index("collect")))
def test_a_wrong_flag_exits_with_2_and_one_line(name: str, tmp_path: Path) -> None:
    (line,) = run(tmp_path, f"launch/{name}.py", "--no_such_flag", code=2).stderr.splitlines()
    assert line.startswith("error: Unknown command line flag 'no_such_flag'")


def in_own_process(*command: str, cwd: Path = ROOT, stdout: int = subprocess.PIPE, **changes: str) -> tuple[int, str]:
    env = {**environment(cwd), "PYTHONPATH": str(ROOT), **changes}
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=200
    )
    return result.returncode, result.stderr


@pytest.mark.slow
def test_a_notebooks_choice_of_pictures(tmp_path: Path) -> None:
    """Which a process started from it inherits; matplotlib_inline is not there."""
    code, err = in_own_process("-m", "launch.report", "--help", MPLBACKEND="module://no_such.backend")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_help_where_nobody_listens(tmp_path: Path) -> None:
    for descriptor in (closed_pipe(), full_disk()):
        code, err = in_own_process("-m", "launch.report", "--help", stdout=descriptor)
        os.close(descriptor)
        assert (code, err) == (0, "")


TRAIN = ("-m", "launch.train", "--config=bc", "--config.dataset.id=toy/8gaussians", "--config.algorithm.num_updates=20")
TRAIN += ("--config.algorithm.hidden_dims=(8,)", "--config.updates_per_chunk=10", "--config.num_seeds=1")


@pytest.mark.slow
def test_training_where_nobody_listens(tmp_path: Path) -> None:
    """What cannot be said is lost, what was trained is not."""
    for name, descriptor in (("pipe", closed_pipe()), ("disk", full_disk())):
        code, err = in_own_process(*TRAIN, f"--workdir={tmp_path / name}", stdout=descriptor, PYTHONIOENCODING="ascii")
        os.close(descriptor)
        assert (code, err) == (0, "")
        assert (tmp_path / name / "DONE").exists()


@pytest.mark.slow
def test_a_platform_that_is_not_there(tmp_path: Path) -> None:
    code, err = in_own_process(*TRAIN, f"--workdir={tmp_path / 'w'}", JAX_PLATFORMS="nosuch")
    assert code == 2
    (line,) = err.splitlines()
    assert "unset JAX_PLATFORMS" in line
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, *TRAIN, "--workdir=w"]
    script = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); os.execv({sys.executable!r}, {command!r})"
    code, err = in_own_process("-c", script)
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the list of users, as in many containers."""
    for name in ("HOME", "XDG_CACHE_HOME", "MINARI_DATASETS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))


@pytest.mark.usefixtures("homeless")
def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(os.getuid()) in machine.cache_folder().name
    with pytest.raises(UserError, match="set MINARI_DATASETS_PATH to a directory") as error:
        machine.datasets_folder()
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))  # the remedy
    assert machine.datasets_folder() == tmp_path


def test_places_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert machine.datasets_folder() == tmp_path / "data"
    assert machine.cache_folder() == tmp_path / "cache" / "diffrl"


def test_cores_where_the_system_does_not_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cores() == os.cpu_count()


def test_memory_is_the_least_of_all_limits(tmp_path: Path) -> None:
    """Nested control groups of either version, under the names that this process's own file gives."""
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n4:memory:/old\n3:cpu,cpuacct:/x\n")
    found = machine._groups(tmp_path, own)
    assert (tmp_path / "job/step", "memory.max", "memory.current") in found
    assert (tmp_path / "job", "memory.max", "memory.current") in found
    assert (tmp_path / "memory/old", "memory.limit_in_bytes", "memory.usage_in_bytes") in found
    assert not any("x" in folder.parts for folder, *_ in found)
    assert 0 < machine.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:4242", "another host died or was cut off"),
        ("UNAVAILABLE: the other task reported an error", "another host died or was cut off"),
        ("INVALID_ARGUMENT: Disallowed host-to-device transfer", "JaxRuntimeError: INVALID_ARGUMENT: Disallowed"),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes", "JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_only_the_way_between_hosts_is_blamed_on_another(
    status: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several hosts each leaves at once, with 1; a fault of its own shows where it was."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        program._leave_other_hosts(jax.errors.JaxRuntimeError(status))
    assert end.value.code == 1
    assert said in capsys.readouterr().err
