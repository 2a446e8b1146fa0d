"""Several processes as one machine, with one or two CPU devices each, on the loopback."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
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


def start_hosts(
    root: Path, workdir: Path, hosts: int = 2, last: tuple[str, ...] = ("launch/train.py",), more: tuple[str, ...] = ()
) -> list[subprocess.Popen[str]]:
    """Every host runs the program, the last one the program or what stands for it. Four devices in all."""
    address = (f"--coordinator=127.0.0.1:{free_port()}", f"--num_hosts={hosts}", f"--host_timeout={TIMEOUT}")
    common = (*FLAGS, *more, f"--workdir={workdir}", f"--cpu_devices={4 // hosts}", *address)
    programs = [("launch/train.py",)] * (hosts - 1) + [last]
    return [
        subprocess.Popen(
            [sys.executable, *program, *common, f"--host={host}"],
            cwd=ROOT,
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host, program in enumerate(programs)
    ]


def finish(hosts: list[subprocess.Popen[str]], timeout: float = 400.0) -> list[str]:
    try:
        return [process.communicate(timeout=timeout)[0] for process in hosts]
    finally:
        for process in hosts:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_equal_one_process(hosts: int, root: Path, one_process: Path) -> None:
    """Each host feeds its own runs; one writes the metrics, all the checkpoints; the others say nothing."""
    workdir = root / f"hosts{hosts}"
    processes = start_hosts(root, workdir, hosts)
    first, *others = finish(processes)
    assert [process.returncode for process in processes] == [0] * hosts, "\n".join([first, *others])
    assert "updates of 4 runs" in first
    assert not any("updates" in said for said in others)
    assert_same_checkpoints(workdir, one_process)


def in_one_and_in_two(root: Path, name: str, *more: str) -> tuple[Path, Path]:
    """Workdirs of the same training in one process and on two hosts."""
    one, two = root / f"{name}-one", root / f"{name}-two"
    run(root, "launch/train.py", *FLAGS, *more, f"--workdir={one}", "--cpu_devices=4")
    processes = start_hosts(root, two, more=more)
    said = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return one, two


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_host_reads_slabs_by_itself(root: Path) -> None:
    one, two = in_one_and_in_two(root, "slabs", "--config.dataset.slab_rows=500")
    assert_same_checkpoints(two, one)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_is_split_over_hosts(root: Path) -> None:
    """Gradients are summed over them in another order, so that nothing is the same to the last bit."""
    one, two = in_one_and_in_two(root, "batch", "--config.num_seeds=1", "--config.batch_devices=4")
    found, expected = (
        [json.loads(line) for line in (workdir / "metrics/train.jsonl").read_text().splitlines()] for workdir in (two, one)
    )
    assert [(line["name"], line["step"]) for line in found] == [(line["name"], line["step"]) for line in expected]
    np.testing.assert_allclose([line["value"] for line in found], [line["value"] for line in expected], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["after", "inside"])
def test_a_dead_host_stops_the_other_and_both_go_on(moment: str, root: Path, one_process: Path) -> None:
    """Dead between saves or in the midst of one: the checkpoints that are there are whole, and the pair goes on from the last."""
    workdir = root / f"killed-{moment}"
    pair = start_hosts(root, workdir, last=("tests/resume/killed_trainer.py", moment, "3"))
    pair[-1].wait(timeout=400)
    died = time.monotonic()
    first, _ = finish(pair)
    assert pair[-1].returncode == -signal.SIGKILL
    assert time.monotonic() - died < 3 * TIMEOUT
    assert pair[0].returncode != 0
    assert "another host died" in first or "another task died" in first
    assert not (workdir / "DONE").exists()

    pair = start_hosts(root, workdir)
    first, second = finish(pair)
    assert [process.returncode for process in pair] == [0, 0], first + second
    assert "resuming at update" in first
    assert_same_checkpoints(workdir, one_process)


def test_part_of_the_addresses_is_refused(root: Path) -> None:
    result = run(root, "launch/train.py", *FLAGS, f"--workdir={root / 'part'}", "--num_hosts=2", code=2)
    assert "--coordinator, --num_hosts and --host go together" in result.stderr
