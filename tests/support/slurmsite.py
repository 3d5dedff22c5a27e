"""A Slurm of our own on this machine: real daemons, some nodes, nothing of it installed or left.

Everything lies in one directory: configuration, key, sockets, state and logs. Needs the programs
of Slurm and MUNGE (Debian: slurmctld, slurmd, slurm-client, munge), which need not be running.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.support.components import free_ports, skip_if
from tests.support.leaks import COOKIE
from tests.support.netns import Network

__all__ = ["SlurmSite", "needs_slurm", "needs_torque_commands"]

#: Seconds within which the daemons must be up, or gone.
_PATIENCE: Final = 30.0
_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

_CONFIGURATION: Final = """\
ClusterName=site
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
ReturnToService=2
CompleteWait=0
KillWait=2
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=ALL State=DOWN
"""


def missing(*programs: str) -> str:
    """Return what keeps this machine from running a Slurm, or nothing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [name for name in programs if shutil.which(name, path=path) is None]
    if not lacking:
        return ""
    return (
        f"{', '.join(lacking)} not found (Debian: apt install slurmctld slurmd slurm-client "
        f"slurm-wlm-torque munge)"
    )


needs_slurm: Final = skip_if(missing(*_PROGRAMS))
needs_torque_commands: Final = skip_if(missing(*_PROGRAMS, "qsub", "qstat", "qdel"))


class SlurmSite:
    """A Slurm with nodes that are all this machine, or each a machine of a network.

    Args:
        nodes: How many; they are called ``n1`` and so on.
        cpus: How many cores each of them claims to have.
        net: A network with machines of these names.
        head: The machine of the network from which jobs are submitted; Slurm's controller runs there.

    Use it as a context manager. Meanwhile ``SLURM_CONF`` in the environment names its
    configuration, so that Slurm's commands find it. The partition ``batch`` is the default one;
    jobs in ``closed`` wait for ever.
    """

    def __init__(
        self, nodes: int = 2, cpus: int = 4, net: Network | None = None, head: str = ""
    ) -> None:
        # Not in the tests' temporary directory: the path of a socket is a short one.
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self._nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._cpus = cpus
        self._net = net
        self._head = head
        self._running: list[subprocess.Popen[bytes]] = []
        self._before = os.environ.get("SLURM_CONF")

    def __enter__(self) -> SlurmSite:
        try:
            self._configure()
            self._begin("munged", *self._munge(), "--foreground")
            self._until(lambda: (self.directory / "munge.socket").exists(), "MUNGE has no socket")
            self._begin("slurmctld", "-D", "-i", machine=self._head)
            for name in self._nodes:
                self._begin("slurmd", "-D", "-N", name, machine=name)
            self._until(self._ready, "not all nodes are idle")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands; return what it prints."""
        done = subprocess.run(
            self._on(self._head, *command), capture_output=True, text=True, check=False, timeout=30
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def end_jobs(self) -> None:
        """Cancel all jobs and wait until they are gone."""
        while jobs := self.jobs():
            self.run("scancel", "--signal=KILL", "--full", *jobs, check=False)
            self.run("scancel", *jobs, check=False)
            time.sleep(0.1)

    def close(self) -> None:
        """End all jobs and daemons; remove the directory.

        Raises:
            RuntimeError: A process is left.
        """
        try:
            if len(self._running) > len(self._nodes) and all(
                p.poll() is None for p in self._running
            ):
                self.end_jobs()
        finally:
            self._end_daemons()
            if self._before is None:
                os.environ.pop("SLURM_CONF", None)
            else:
                os.environ["SLURM_CONF"] = self._before
            shutil.rmtree(self.directory, ignore_errors=True)

    def _end_daemons(self) -> None:
        for process in reversed(self._running):  # MUNGE last: the others talk through it
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE / 3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _configure(self) -> None:
        for name in ("state", *(f"spool-{name}" for name in self._nodes)):
            (self.directory / name).mkdir()
        (self.directory / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.directory / "munge.key").chmod(0o600)
        controller_port, *ports = free_ports(len(self._nodes) + 1)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={name if self._net else 'localhost'} "
            f"NodeAddr={self._address(name)} Port={port} CPUs={self._cpus} State=UNKNOWN"
            for name, port in zip(self._nodes, ports, strict=True)
        )
        file = self.directory / "slurm.conf"
        file.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                address=self._address(self._head),
                user=getpass.getuser(),
                controller_port=controller_port,
                directory=self.directory,
                nodes=nodes,
            )
        )
        os.environ["SLURM_CONF"] = str(file)

    def _munge(self) -> list[str]:
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        places["seed-file"] = "seed"
        return [f"--{name}={self.directory}/munge.{end}" for name, end in places.items()] + ["-f"]

    def _address(self, machine: str) -> str:
        return self._net.address(machine) if self._net else "127.0.0.1"

    def _on(self, machine: str, *words: str) -> list[str]:
        """Return the command line that runs ``words`` on a machine."""
        return self._net.command_with_sys(machine, *words) if self._net and machine else [*words]

    def _begin(self, program: str, *arguments: str, machine: str = "") -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        found = shutil.which(program, path=path)
        if found is None:
            raise RuntimeError(missing(program))
        words = [found, *arguments]
        if self._net and machine in self._nodes:  # its name is that of its machine, too
            script = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
            words = ["unshare", "--uts", "sh", "-c", script, machine, *words]
        environment = {name: value for name, value in os.environ.items() if name != COOKIE}
        with (self.directory / "daemons.log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    self._on(machine, *words),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )

    def _ready(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%T", check=False)
        return states.split() == ["idle"] * len(self._nodes)

    def _until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            ended = [p.args for p in self._running if p.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(
                    f"\n--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                    for path in sorted(self.directory.glob("*.log"))
                )
                raise RuntimeError(f"{what}; ended: {ended}{logs}")
            time.sleep(0.05)
