"""Stands in for Open MPI's ``mpiexec`` on two hosts, which are directories for temporary files here.

``python fakempi.py <directory> -n N <options> <program>``: ranks go to the hosts by turns. When one
ends badly, all are killed, and it is said which one was the first, as Open MPI says it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    directory, *arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("mpiexec (Open MPI) 4.1.4")
        return 0
    size = int(arguments[1])
    program = arguments[2:]
    while program[0] == "-x":
        program = program[2:]
    ranks = [start(Path(directory), rank, size, program) for rank in range(size)]
    left = {process.pid: rank for rank, process in enumerate(ranks)}
    code = 0
    while left:
        pid, status = os.wait()
        rank = left.pop(pid, None)
        if rank is None or not status or code:
            continue
        code = 1
        for other in left:
            os.kill(other, 9)
        how = f"exited on signal {os.WTERMSIG(status)} (Killed)."
        sys.stderr.write(
            f"mpiexec noticed that process rank {rank} with PID 0 on node n{rank % 2} {how}\n"
        )
    return code


def start(directory: Path, rank: int, size: int, program: list[str]) -> subprocess.Popen[bytes]:
    host = directory / f"n{rank % 2}"
    host.mkdir(exist_ok=True)
    place = {
        "OMPI_COMM_WORLD_RANK": rank,
        "OMPI_COMM_WORLD_SIZE": size,
        "OMPI_COMM_WORLD_LOCAL_RANK": rank // 2,
        "OMPI_COMM_WORLD_LOCAL_SIZE": len(range(rank % 2, size, 2)),
        "TMPDIR": host,
    }
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
    return subprocess.Popen(program, env=environment, process_group=0)


if __name__ == "__main__":
    sys.exit(main())
