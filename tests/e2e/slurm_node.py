"""A SLURM of one node on this machine, whose daemons and files live no longer than a `with` block.

Nothing is read from or written to /etc/slurm, /etc/munge, /run or /var: every path lies in one temporary folder, and
SLURM's programs find it by `SLURM_CONF`. The daemons also end when the process that started them is killed.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from hippo_nnunet.processes import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
START_S = 120.0
STOP_S = 60.0

CONF = """\
ClusterName=onenode
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig={folder}/plugstack.conf
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MinJobAge=3600
GresTypes=gpu,shard
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:1,shard:{shards} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CGROUP = "CgroupPlugin=cgroup/v1\n"
GRES = "Name=gpu File=/dev/null\nName=shard Count={shards}\n"
"""A GPU in name only: what SLURM hands out, not what a job finds."""


class SlurmUnavailableError(Exception):
    """SLURM is not installed, or its daemons do not start here; says which, and why."""


@dataclass(frozen=True)
class Slurm:
    """A SLURM that runs.

    Attributes:
        folder: All its files.
        environ: What its programs, and Snakemake, need in their environment.
    """

    folder: Path
    environ: dict[str, str]

    def ask(self, *command: str) -> str:
        """Run one of SLURM's programs and return what it printed."""
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()


@contextmanager
def one_node(cpus: int = 16, memory_mb: int = 256_000, shards: int = 2) -> Iterator[Slurm]:
    """Start SLURM with one node that claims so many CPUs, so much memory and one GPU in so many shards.

    Raises:
        SlurmUnavailableError: It cannot be started here.
    """
    environ = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS])}
    missing = [program for program in PROGRAMS if shutil.which(program, path=environ["PATH"]) is None]
    if missing:
        raise SlurmUnavailableError(f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons: list[subprocess.Popen[bytes]] = []
    environ["PATH"] = os.pathsep.join([str(folder / "bin"), environ["PATH"]])
    slurm = Slurm(folder, {**environ, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        _write(folder, cpus, memory_mb, shards)
        _write_srun(slurm)
        socket_file = folder / "munge.socket"
        paths = {
            "key-file": "munge.key",
            "socket": socket_file.name,
            "pid-file": "munge.pid",
            "seed-file": "munge.seed",
        }
        munge = [f"--{option}={folder / name}" for option, name in paths.items()]
        daemons.append(_start(slurm, "munged", "--foreground", "--force", "--num-threads=1", *munge))
        _wait(socket_file.exists, daemons, folder)
        daemons.append(_start(slurm, "slurmctld", "-D", "-f", str(folder / "slurm.conf")))
        daemons.append(_start(slurm, "slurmd", "-D", "-f", str(folder / "slurm.conf")))
        _wait(lambda: _is_idle(slurm), daemons, folder)
        yield slurm
    finally:
        _stop(slurm, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that belong to the SLURM of a folder: its daemons, its jobs and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            theirs = process.environ().get("SLURM_CONF") == str(folder / "slurm.conf")
            if process.pid != os.getpid() and (theirs or any(str(folder) in word for word in process.cmdline())):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _write(folder: Path, cpus: int, memory_mb: int, shards: int) -> None:
    folder.chmod(0o755)  # munge's clients are to reach its socket
    for name in ("state", "spool"):
        (folder / name).mkdir()
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "cpus": cpus,
        "memory_mb": memory_mb,
        "shards": shards,
        **dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True)),
    }
    (folder / "slurm.conf").write_text(CONF.format(**values))
    (folder / "cgroup.conf").write_text(CGROUP)
    (folder / "gres.conf").write_text(GRES.format(**values))
    (folder / "plugstack.conf").touch()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def _write_srun(slurm: Slurm) -> None:
    """Put an srun first in PATH that knows its SLURM: Snakemake's plugin starts it without SLURM_CONF."""
    real = shutil.which("srun", path=slurm.environ["PATH"])
    script = slurm.folder / "bin" / "srun"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nSLURM_CONF={slurm.environ["SLURM_CONF"]} exec {real} "$@"\n')
    script.chmod(0o755)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _start(slurm: Slurm, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    path = shutil.which(program, path=slurm.environ["PATH"])
    with (slurm.folder / f"{program}.out").open("wb") as output:
        return subprocess.Popen(
            [str(path), *arguments],
            env=slurm.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=slurm.folder,
            preexec_fn=die_with_parent,
        )


def _is_idle(slurm: Slurm) -> bool:
    try:
        return slurm.ask("sinfo", "--noheader", "--format=%T") == "idle"
    except subprocess.SubprocessError:
        return False


def _wait(condition: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            said = [f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in _logs(folder)]
            raise SlurmUnavailableError("the daemons do not start here\n" + "\n".join(said))
        time.sleep(0.2)


def _logs(folder: Path) -> list[Path]:
    return [file for pattern in ("*.log", "*.out") for file in sorted(folder.glob(pattern)) if file.stat().st_size]


def _stop(slurm: Slurm, daemons: list[subprocess.Popen[bytes]]) -> None:
    """End the jobs, then the daemons in the opposite order of their start, then whatever is left of either."""
    try:
        if len(daemons) == 3:
            slurm.ask("scancel", "--user", getpass.getuser())
            end = time.monotonic() + STOP_S
            while time.monotonic() < end and slurm.ask("squeue", "--noheader"):
                time.sleep(0.2)
    except subprocess.SubprocessError:
        pass  # the controller is gone: its processes are ended below
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(STOP_S / 3)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    left = processes_of(slurm.folder)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, STOP_S / 3)
