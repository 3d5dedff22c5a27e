"""Engines as the ranks of one MPI job: ``mpiexec``, ``mpirun`` or ``srun`` start them.

Each engine is a rank, so that code which runs in engines has all of them in ``MPI_COMM_WORLD``.
The hosts of the job must share this host's cluster directory.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.cluster import processes
from ipkernel.engine.rank import JOB
from ipkernel.errors import ConfigurationError
from ipkernel.host.options import SLOTS
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass, Share
from ipkernel.launchers.local import LocalLauncher, child_environment
from ipkernel.launchers.mpicommand import hosts_of, job_command

__all__ = ["MPIControllerLauncher", "MPILauncher"]

#: Environment variables that MPI must pass on to ranks on other hosts, besides those of the cluster.
_PASSED: Final = (processes.COOKIE, JOB, "PYTHONPATH", "SPT_NOENV")


@implementer(ILauncher)
@provider(ILauncherClass)
class MPILauncher(LocalLauncher):
    """One MPI job, all of whose ranks are engines.

    Its arguments are those of :class:`~ipkernel.launchers.base.Launcher`.
    """

    name = "mpi"
    module = "ipkernel.launchers.mpijob"
    SPEC: ClassVar[str] = """\
# What starts MPI jobs: a name or a path, such as mpiexec.mpich; auto takes the first that there is
# of mpiexec, mpirun and srun.
command = string(default=auto)
# How many engines, if the cluster's option n does not say it.
n = integer(min=1, max=65536, default=None)
# Hosts, as name or name:number of engines on it; by default this host, or those of the batch job
# that this runs in.
hosts = string_list(default=list())
# A file with hosts, in the format of the MPI implementation.
hostfile = string(default="")
# Further arguments for the command, such as --bind-to, none.
arguments = string_list(default=list())
# Whether there may be more engines than cores.
oversubscribe = boolean(default=False)
# The Python on all hosts; by default the one that runs here.
python = string(default="")
"""

    @classmethod
    def plan(cls, n: int | None, options: Mapping[str, Any]) -> list[Share]:
        """Have all engines in one job.

        Raises:
            ConfigurationError: A host is none, or the number of engines is not known.
        """
        hosts = hosts_of(options)
        count = n if n is not None else options.get("n")
        if hosts and options.get("hostfile"):
            raise ConfigurationError("[mpi] hosts and hostfile: give one of them, not both")
        if count is None and options.get("hostfile"):
            raise ConfigurationError(
                "[mpi] n: say how many engines there are to be, as with the option 'hostfile' only "
                "MPI knows what is in it"
            )
        if count is None:
            count = sum(number for _, number in hosts) or processes.cpu_count()
        return [Share(count, "MPI job")]

    def job(self) -> list[str]:
        """Return the command line of the job's launcher.

        Raises:
            ConfigurationError: There is no MPI, or the options do not fit it.
        """
        if not processes.POSIX:
            raise ConfigurationError(
                "engines cannot be ranks of MPI jobs on Windows: use another launcher"
            )
        python = self.options.get("python") or sys.executable
        program = [python, "-P", "-m", "ipkernel.engine.rank", *self.arguments]
        known = {*child_environment(self.directory, self._environment), JOB}
        wanted = dict.fromkeys((*_PASSED, SLOTS, *self._environment))
        names = [name for name in wanted if name in known]  # Open MPI complains of others
        return job_command(self.share.n, program, self.options, names)

    def command(self) -> list[str]:
        """Return the command line of what keeps the job going."""
        directory = ["--cluster-dir", str(self.directory), "--cluster", self.directory.name]
        lifeline = ["--lifeline"] if self.lifeline else []
        ours = [*directory, "-n", str(self.share.n), *lifeline]
        return [sys.executable, "-P", "-m", self.module, *ours, "--", *self.job()]

    def preview(self) -> str:
        """Return the command line of the job's launcher."""
        return shlex.join(self.job())


class MPIControllerLauncher:
    """Says that a controller cannot be launched by MPI."""

    name = "mpi"

    def __init__(self, *args: Sequence[Any], **keywords: Any) -> None:
        raise ConfigurationError(
            "MPI can launch engines only, as a controller is no rank of a job: use "
            "controller='local', or the launcher of the batch system that the controller is to run in"
        )
