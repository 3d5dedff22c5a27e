"""The command lines with which the various MPI implementations start a job."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ipkernel.errors import ConfigurationError

__all__ = ["ANY", "flavour_of", "hosts_of", "job_command"]

#: What is tried, in this order, when no command is configured.
ANY: Final = ("mpiexec", "mpirun", "srun")
#: Seconds that a launcher may take to tell its version.
_TIME: Final = 15.0
_FLAVOURS: Final = (
    ("openmpi", re.compile(r"open ?mpi|open-?rte|openrte|prrte|prterun", re.IGNORECASE)),
    ("intel", re.compile(r"intel\(r\) mpi", re.IGNORECASE)),
    ("hydra", re.compile(r"hydra|mpich|mvapich", re.IGNORECASE)),
    ("srun", re.compile(r"^slurm(-wlm)? ", re.IGNORECASE)),
)
_HOST: Final = re.compile(r"([A-Za-z0-9_.][A-Za-z0-9_.-]*)(?::(\d{1,5}))?\Z")


def hosts_of(options: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the hosts of the option ``hosts``, each with its number of ranks, by default 1.

    Raises:
        ConfigurationError: An entry is none.
    """
    found = []
    for entry in options.get("hosts") or ():
        match = _HOST.match(str(entry).strip())
        if match is None or match[2] == "0":
            raise ConfigurationError(
                f"[mpi] hosts: {entry!r} is no host: write 'name', or 'name:4' for 4 engines on it"
            )
        found.append((match[1], int(match[2] or 1)))
    return found


def ask_version(command: str) -> str:
    """Return what an MPI launcher says of its version.

    Raises:
        ConfigurationError: It does not run.
    """
    try:
        done = subprocess.run(
            [command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIME,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"[mpi] command: {command} does not run: {error}") from None
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def find_command(options: Mapping[str, Any], which: Callable[[str], str | None]) -> list[str]:
    """Return the command that starts jobs, with options of its own if some were configured.

    Args:
        options: Of the section.
        which: Finds a program, as :func:`shutil.which`.

    Raises:
        ConfigurationError: It is not installed.
    """
    wanted = options.get("command") or "auto"
    if wanted == "auto":
        for name in ANY:
            if which(name):
                return [name]
        raise ConfigurationError(
            f"no MPI here: neither {', '.join(ANY[:-1])} nor {ANY[-1]} is on the PATH; install "
            "Open MPI or MPICH, load its module, or name it in the option 'command' of [mpi]"
        )
    command = [os.path.expanduser(wanted)]
    if not which(command[0]):
        raise ConfigurationError(
            f"[mpi] command: there is no program {wanted!r}: check its name and the PATH, or leave "
            f"the option out, which finds {', '.join(ANY)}"
        )
    return command


def flavour_of(command: str, version: str) -> str:
    """Return which launcher this is: ``openmpi``, ``hydra``, ``intel`` or ``srun``.

    Args:
        command: Its name or path.
        version: What it says of its version.

    Raises:
        ConfigurationError: It is none of these.
    """
    for name, pattern in _FLAVOURS:
        if pattern.search(version):
            return name
    said = version.strip().splitlines()[0][:200] if version.strip() else "nothing"
    raise ConfigurationError(
        f"[mpi] command: {command} is neither Open MPI, MPICH, Intel MPI nor Slurm's srun; asked "
        f"for its --version it says: {said}"
    )


def job_command(
    n: int,
    program: Sequence[str],
    options: Mapping[str, Any],
    names: Sequence[str],
    *,
    which: Callable[[str], str | None] = shutil.which,
    version: Callable[[str], str] = ask_version,
) -> list[str]:
    """Return the command line that runs a program as an MPI job.

    Args:
        n: How many ranks.
        program: The program's own command line.
        options: Of the section ``[mpi]``.
        names: Environment variables that every rank must have.
        which: Finds a program.
        version: Asks one for its version.

    Raises:
        ConfigurationError: There is no MPI, or the options do not fit it.
    """
    command = find_command(options, which)
    flavour = flavour_of(command[0], version(command[0]))
    hosts = hosts_of(options)
    hostfile = os.path.expanduser(options.get("hostfile") or "")
    crowded = bool(options.get("oversubscribe"))
    make = {"openmpi": _openmpi, "hydra": _hydra, "intel": _intel, "srun": _srun}[flavour]
    chosen = make(n, hosts, hostfile, crowded, names)
    return [*command, *chosen, *options.get("arguments", ()), *program]


def _openmpi(
    n: int, hosts: list[tuple[str, int]], hostfile: str, crowded: bool, names: Sequence[str]
) -> list[str]:
    made = ["-n", str(n)]
    if hosts:
        made += ["--host", ",".join(f"{name}:{count}" for name, count in hosts)]
    if hostfile:
        made += ["--hostfile", hostfile]
    if crowded:
        made.append("--oversubscribe")
    return made + [text for name in names for text in ("-x", name)]


def _hydra(
    n: int, hosts: list[tuple[str, int]], hostfile: str, crowded: bool, names: Sequence[str]
) -> list[str]:
    made = ["-n", str(n)]  # it never minds more ranks than cores
    if hosts:
        made += ["-hosts", ",".join(f"{name}:{count}" for name, count in hosts)]
    if hostfile:
        made += ["-f", hostfile]
    return [*made, "-genvall"]


def _intel(
    n: int, hosts: list[tuple[str, int]], hostfile: str, crowded: bool, names: Sequence[str]
) -> list[str]:
    made = ["-n", str(n)]
    if hosts:
        if len({count for _, count in hosts}) > 1:
            raise ConfigurationError(
                "[mpi] hosts: Intel MPI takes the same number of engines for each host here; for "
                "different numbers write a machine file, and name it in the option 'hostfile'"
            )
        made += ["-ppn", str(hosts[0][1]), "-hosts", ",".join(name for name, _ in hosts)]
    if hostfile:
        made += ["-machinefile", hostfile]
    return [*made, "-genvall"]


def _srun(
    n: int, hosts: list[tuple[str, int]], hostfile: str, crowded: bool, names: Sequence[str]
) -> list[str]:
    made = [f"--ntasks={n}", "--export=ALL", "--kill-on-bad-exit=1"]
    if hosts:
        if len({count for _, count in hosts}) > 1:
            raise ConfigurationError(
                "[mpi] hosts: srun takes the same number of engines for each host; write the "
                "options that you need into 'arguments' instead"
            )
        made += [f"--nodelist={','.join(name for name, _ in hosts)}"]
        made += [f"--ntasks-per-node={hosts[0][1]}"]
    if hostfile:
        made.append(f"--nodelist={os.path.join('.', hostfile)}")  # a name with a slash is a file
    if crowded:
        made.append("--overcommit")
    return made
