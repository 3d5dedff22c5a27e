"""The main function of an engine process, however it was started.

``python -m ipkernel.engine.worker`` is the portable way: the standard input says where to
connect, in one line, and then stays open as the engine's lifeline. Engines that the zygote
forks come in through :func:`run_engine`.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from ipkernel.engine.current import state
from ipkernel.engine.interrupts import Interrupts, reset_when_forked
from ipkernel.engine.loop import Loop
from ipkernel.engine.namespace import UserNamespace
from ipkernel.engine.streams import Streams
from ipkernel.engine.work import Work
from ipkernel.wire.messages import EngineHello

__all__ = ["cut_off", "main", "run_engine"]

#: Seconds by which the ends of link and lifeline of a daemon that dies may differ.
LIFELINE_TIME: Final = 0.02


def run_engine(
    sock: socket.socket,
    *,
    token: bytes = b"",
    synchronised: bool = False,
    progress: int | None = None,
    lifeline: int | None = None,
    farewell: Callable[[int], None] = lambda number: None,
) -> None:
    """Be an engine until the other end of ``sock`` closes it, then leave the process.

    Args:
        sock: A connected stream socket, the engine's link.
        token: Tells the daemon which engine this is, where the socket itself does not.
        synchronised: See :class:`~ipkernel.engine.streams.Streams`.
        lifeline: Descriptor whose end of file means that the daemon is gone.
        progress: Descriptor of shared memory in which to count the tasks that were started, and
            where the daemon says which of them an interrupt is for.
        farewell: Is called last before the process ends in order, or because of a SIGTERM, with
            the number of that signal, otherwise 0.
    """
    state.pid = os.getpid()
    streams = Streams(synchronised=synchronised)
    streams.install()
    interrupts = Interrupts()
    interrupts.install()
    namespace = UserNamespace()
    namespace.install()
    counter = [0, 0] if progress is None else _map(progress)
    loop = Loop(sock, Work(namespace), streams, interrupts, progress=counter)
    _leave_on_sigterm(streams, farewell)
    reset_when_forked(lambda: _become_child(sock))
    # A segmentation fault then says where it was, in the engine's last lines of output.
    faulthandler.enable(file=2, all_threads=False)
    loop.send(EngineHello(os.getpid(), token))
    loop.run()
    if lifeline is not None and _has_ended(lifeline):
        cut_off()  # the daemon is not only done with this engine: it is gone
    leave(streams, 0, farewell)


def _map(descriptor: int) -> memoryview:
    import mmap

    shared = mmap.mmap(descriptor, 16)
    os.close(descriptor)
    return memoryview(shared).cast("Q")


def leave(
    streams: Streams, status: int, farewell: Callable[[int], None] = lambda number: None
) -> None:
    """Run what is registered to run at exit, then end the process at once."""
    atexit._run_exitfuncs()
    streams.flush()
    farewell(0)
    os._exit(status)


def _leave_on_sigterm(streams: Streams, farewell: Callable[[int], None]) -> None:
    """End on SIGTERM as the signal has it, but let functions registered with atexit run."""

    def terminated(signum: int, frame: FrameType | None) -> None:
        atexit._run_exitfuncs()
        streams.flush()
        farewell(signum)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)


def _become_child(sock: socket.socket) -> None:
    """What a process that user code forks off an engine must not share with it."""
    state.forked = True
    try:
        os.close(sock.fileno())
    except OSError:
        pass


def _watch(descriptor: int) -> None:
    """End the process, whatever it does, when its lifeline does."""
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass
    cut_off()


def _has_ended(lifeline: int) -> bool:
    """Tell whether a lifeline ends about now; on Windows, where pipes cannot be asked, it does not."""
    if os.name != "posix":
        return False
    return bool(select.select([lifeline], [], [], LIFELINE_TIME)[0])


def cut_off() -> NoReturn:
    """End at once, and with this process all that it has started."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> int:
    """Connect to the daemon as the standard input says, and be an engine.

    The line is ``<port> <token in hex>``; the token is not on the command line, where
    everybody could read it.

    Returns:
        1 when there is no such line; otherwise the function does not return.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.stderr.write("ipkernel.engine.worker is started by ipdaemon, not by hand\n")
            return 1
        line += byte
    port, token = line.decode().split()
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sock = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()
    run_engine(sock, token=bytes.fromhex(token), synchronised=True, lifeline=lifeline)
    return 0


if __name__ == "__main__":
    from ipkernel.engine.worker import main as importable

    sys.exit(importable())
