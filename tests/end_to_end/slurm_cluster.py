"""A Slurm cluster of one node, this machine, made of Debian's packages: munged, slurmctld, slurmd. No systemd, no cgroups."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
INSTALL = "DIFFRL_INSTALL_SLURM"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# Times are short so that tests are: a requeued job waits for old credentials to expire, and for the scheduler to look again.
CONFIGURATION = """\
ClusterName=diffrl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=10
"""


def installed() -> bool:
    """Whether every program of Slurm that a cluster needs is here."""
    return all(shutil.which(program, path=PATH) for program in PROGRAMS)


def wanted() -> bool:
    """Whether a cluster can be had: it is installed, or the environment permits to install it."""
    return installed() or os.environ.get(INSTALL) == "1"


@contextmanager
def cluster() -> Iterator["Cluster"]:
    """A running cluster; its daemons are stopped at the end."""
    if not installed():
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES], **quiet)
    # Not under pytest's folder: the socket's path must be short and open to Slurm.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        started = Cluster(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


class Cluster:
    """The daemons, and what a user asks of them. `environment` makes Slurm's commands talk to this cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}

    def start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {
            "key-file": key.name,
            "socket": "munge.sock",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "seed",
        }
        self.call("munged", *(f"--{option}={folder / name}" for option, name in files.items()))
        host, user = socket.gethostname().partition(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
        settings = CONFIGURATION.format(host=host, user=user, folder=folder, ports=_free_ports(2))
        (folder / "slurm.conf").write_text(settings)
        self.call("slurmctld")
        self.call("slurmd", "-N", host)
        self.until(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%t"), 30)

    def stop(self) -> None:
        """Ends jobs, then daemons; what does not end is killed."""
        if (self.folder / "slurmctld.pid").exists():
            self.call("scancel", "--state=PENDING")
            self.call("scancel", "--signal=KILL", "--full", "--state=RUNNING")
            self.until(lambda: not self.call("squeue", "--noheader"), 60)
        for name in ("slurmd", "slurmctld", "munged"):
            path = self.folder / f"{name}.pid"
            if path.exists():
                pid = int(path.read_text())
                os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + 15
                while Path(f"/proc/{pid}").exists():
                    if time.monotonic() > deadline:
                        os.kill(pid, signal.SIGKILL)
                    time.sleep(0.05)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints."""
        result = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}\n{logs}"
        return result.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, Restarts, ExitCode, …"""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job_id)))

    def wait(self, job_id: str, timeout: float) -> dict[str, str]:
        """The job when it has ended for good."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY")
        self.until(lambda: self.job(job_id)["JobState"] in ended, timeout, interval=0.5)
        return self.job(job_id)

    @staticmethod
    def until(condition: Callable[[], bool], timeout: float, interval: float = 0.1) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(interval)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
