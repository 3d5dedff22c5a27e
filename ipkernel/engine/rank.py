"""An engine that is a rank of an MPI job: ``python -m ipkernel.engine.rank <options of ipdaemon>``.

``mpiexec`` or its like has started this process, which becomes the engine itself: what has joined
the job is this process and no child of it. The first rank of each host starts the host daemon, in a
session of its own: MPI ends its ranks with all that belongs to them, and the daemon has to say
why. All ranks of the host come to the daemon's socket, whose place follows from a secret of the
job in the environment, and get what makes an engine of them: link, standard output and error, and
the counter of its tasks.

The connection to that socket stays open. Its end tells the daemon that the rank is gone, and a rank
that the daemon is. What a rank says on it before it leaves in order is how.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ipkernel.engine import native
from ipkernel.engine.place import PlaceUnknown, RankPlace, find_place
from ipkernel.host.options import SLOTS
from ipkernel.host.starters import RANKS
from ipkernel.wire.peers import peer_user

__all__ = ["JOB", "main", "socket_path"]

#: Environment variable of a job's processes: JSON with ``token`` and ``verdict``, see
#: :mod:`ipkernel.launchers.mpijob`.
JOB: Final = "IPKERNEL_MPI_JOB"

#: Seconds in which the host daemon must be there.
COME: Final = 60.0
#: Seconds between looks for it.
_LOOK: Final = 0.01
#: The longest path that every system takes for a socket.
_LONGEST: Final = 100
#: How often children are killed that appear while others are.
_ROUNDS: Final = 10


def socket_path(token: str, directory: str | None = None) -> Path:
    """Return where the daemon of this host has its socket, in a directory of its own.

    Args:
        token: The job's secret; nobody who does not know it can take the place first.
        directory: Where temporary files go; by default the system's choice.
    """
    name = f"ipkernel-{sha256(f'place {token}'.encode()).hexdigest()[:20]}"
    base = directory if directory is not None else tempfile.gettempdir()
    path = Path(base, name, "ranks")
    return path if len(os.fsencode(path)) <= _LONGEST else Path("/tmp", name, "ranks")  # noqa: S108


def main(arguments: list[str]) -> int:
    """Become an engine.

    Args:
        arguments: For the host daemon.

    Returns:
        1 when that does not work; otherwise the function does not return.
    """
    try:
        job = json.loads(os.environ.pop(JOB, "{}"))
        place = find_place(os.environ)
        path = socket_path(job["token"])
    except PlaceUnknown as error:
        return _fail(str(error))
    except (ValueError, KeyError, TypeError):
        return _fail("ipkernel.engine.rank is started by ipkernel's MPI launcher, not by hand")
    native.die_with_parent(os.getppid())
    daemon = _start_daemon(place, job, path, arguments) if place.local == 0 else None
    os.environ.pop(SLOTS, None)
    from ipkernel.engine.worker import run_engine  # while the daemon starts

    try:
        control = _connect(path, daemon)
        received = _introduce(control, place, job["token"])
    except OSError as error:
        return _fail(f"cannot reach the host daemon: {error}")
    if received is None:
        return _fail("the host daemon did not take this rank")
    message, (link, out, err, progress) = received
    os.environ.update(message["environment"])
    if message["cwd"]:
        os.chdir(message["cwd"])
    if message["cpus"]:
        os.sched_setaffinity(0, message["cpus"])
    _redirect(out, err)
    os.environ[native.COOKIE] = str(os.getpid())
    native.adopt_orphans()
    os.register_at_fork(after_in_child=control.close)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the engine takes it over
    threading.Thread(target=_watch, args=(control,), name="lifeline", daemon=True).start()
    kept = daemon.pid if daemon is not None else 0
    run_engine(
        socket.socket(fileno=link),
        progress=progress,
        farewell=lambda number: _say_farewell(control, number, kept),
    )
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(f"ipkernel: {text}\n")
    return 1


def _start_daemon(
    place: RankPlace, job: dict[str, Any], path: Path, arguments: list[str]
) -> subprocess.Popen[bytes]:
    """Start the host daemon; it has the launcher's ear, our standard output."""
    ranks = {
        "socket": str(path),
        "token": job["token"],
        "verdict": job.get("verdict", ""),
        "here": place.local_size,
        "size": place.size,
    }
    count = ["-n", str(place.local_size)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ipkernel.cli.ipdaemon", *arguments, *count],
        stdin=subprocess.DEVNULL,
        env={**os.environ, RANKS: json.dumps(ranks)},
        start_new_session=True,
    )


def _connect(path: Path, daemon: subprocess.Popen[bytes] | None) -> socket.socket:
    """Connect to the daemon, which may not be there yet.

    Raises:
        OSError: It has ended, or does not come, or it is somebody else's.
    """
    deadline = time.monotonic() + COME
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            if peer_user(sock) != os.geteuid():  # the place was given up, and is in sight of all
                raise PermissionError(errno.EPERM, "it belongs to another user")
            return sock
        except OSError as error:
            sock.close()
            if isinstance(error, PermissionError):
                raise OSError(f"{path}: {error.strerror}") from None
            if daemon is not None and daemon.poll() is not None:
                raise OSError(f"it has ended at its start, with code {daemon.returncode}") from None
            if time.monotonic() > deadline:
                raise OSError(f"{path}: {error.strerror}, for {COME:g} s") from None
        time.sleep(_LOOK)


def _introduce(
    control: socket.socket, place: RankPlace, token: str
) -> tuple[dict[str, Any], list[int]] | None:
    """Say who this is, and return the answer with the four descriptors, None for a refusal.

    Raises:
        OSError: The connection is broken.
    """
    from ipkernel.engine.zygote import receive_message, send_message

    send_message(control, {"rank": place.rank, "pid": os.getpid(), "token": token})
    received = receive_message(control)
    return received if received is not None and len(received[1]) == 4 else None


def _redirect(out: int, err: int) -> None:
    """Make an engine's descriptors ours, and keep those of MPI to ourselves.

    Its launcher may take the end of a rank's output for the end of the rank.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for ours, theirs in ((1, out), (2, err)):
        with suppress(OSError):
            os.dup(ours)  # not inherited by programs that user code starts
        os.dup2(theirs, ours)
        os.close(theirs)


def _watch(control: socket.socket) -> None:
    """End the process, whatever it does, when the daemon is gone."""
    from ipkernel.engine.worker import cut_off

    try:
        while control.recv(4096):
            pass
    except OSError:
        pass
    cut_off()


def _say_farewell(control: socket.socket, number: int, kept: int) -> None:
    """Leave the job: the last that this process does, in order or because of a signal.

    Args:
        control: To the daemon.
        number: The signal that ends this process, or 0.
        kept: The host daemon, if it is our child.
    """
    from ipkernel.engine.zygote import send_message

    with suppress(OSError):
        send_message(control, {"leaving": number})
    _kill_children(kept)
    if number:
        return  # the others would not finalize with it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mpi = getattr(sys.modules.get("mpi4py"), "MPI", None)
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # or MPI would take the end of this process for a failure of the job


def _kill_children(kept: int) -> None:
    """Kill what user code has started: nobody else knows of it."""
    for _ in range(_ROUNDS):
        pids = [pid for pid in native.children() if pid != kept]
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)  # its own children are ours from then on
        if not pids:
            return


if __name__ == "__main__":
    # The importable module, so that engines do not keep this one as their ``__main__``.
    from ipkernel.engine.rank import main as importable

    sys.exit(importable(sys.argv[1:]))
