"""Several processes as one machine: two with two CPU devices each, on the loopback."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT, TINY_SRPO, assert_same_checkpoints, collect, environment, run

FLAGS = (*TINY_SRPO, "--config.num_seeds=4")
TIMEOUT = 20  # seconds of silence after which a host counts as dead


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hosts")
    collect(root)
    return root


@pytest.fixture(scope="module")
def one_process(root: Path) -> Path:
    """The workdir of the same training in one process with four devices."""
    run(root, "launch/train.py", *FLAGS, f"--workdir={root / 'one'}", "--cpu_devices=4")
    return root / "one"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_pair(root: Path, workdir: Path, second: tuple[str, ...] = ("launch/train.py",)) -> list[subprocess.Popen[str]]:
    """Host 0 runs the program, host 1 the program or what stands for it."""
    common = (*FLAGS, f"--workdir={workdir}", "--cpu_devices=2", f"--coordinator=127.0.0.1:{free_port()}", "--num_hosts=2")
    return [
        subprocess.Popen(
            [sys.executable, *program, *common, f"--host={host}", f"--host_timeout={TIMEOUT}"],
            cwd=ROOT,
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host, program in enumerate((("launch/train.py",), second))
    ]


def finish(pair: list[subprocess.Popen[str]], timeout: float = 240.0) -> list[str]:
    try:
        return [process.communicate(timeout=timeout)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_hosts_equal_one(root: Path, one_process: Path) -> None:
    """Each host feeds its own two runs; one writes the metrics, both the checkpoints; the second says nothing."""
    pair = start_pair(root, root / "two")
    first, second = finish(pair)
    assert [process.returncode for process in pair] == [0, 0], first + second
    assert "updates of 4 runs" in first
    assert "updates" not in second
    assert_same_checkpoints(root / "two", one_process)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dead_host_stops_the_other_and_both_go_on(root: Path, one_process: Path) -> None:
    workdir = root / "killed"
    pair = start_pair(root, workdir, ("tests/resume/killed_trainer.py", "after", "3"))
    pair[1].wait(timeout=240)
    died = time.monotonic()
    first, _ = finish(pair)
    assert pair[1].returncode == -signal.SIGKILL
    assert time.monotonic() - died < 3 * TIMEOUT
    assert pair[0].returncode != 0
    assert "another host died" in first or "another task died" in first
    assert not (workdir / "DONE").exists()

    pair = start_pair(root, workdir)
    first, second = finish(pair)
    assert [process.returncode for process in pair] == [0, 0], first + second
    assert "resuming at update" in first
    assert_same_checkpoints(workdir, one_process)


def test_part_of_the_addresses_is_refused(root: Path) -> None:
    result = run(root, "launch/train.py", *FLAGS, f"--workdir={root / 'part'}", "--num_hosts=2", code=2)
    assert "--coordinator, --num_hosts and --host go together" in result.stderr
