"""The zygote: a process that has imported what engines need and forks them, on request.

It is single-threaded and runs no user code. It talks to its host daemon over a UNIX socket, in
messages of ``u32le length | JSON``:

==================================================  =========================================
daemon to zygote
==================================================  =========================================
``{"fork": key, "env": {...}, "cwd": path,          fork an engine: link, stdout, stderr, progress
"cpus": [...]}`` and 4 descriptors
``{"kill": key, "signal": n, "group": bool}``       signal an engine, or its process group
==================================================  =========================================

==================================================  =========================================
zygote to daemon
==================================================  =========================================
``{"ready": pid}``                                  everything is imported
``{"forked": key, "pid": n}``                       the engine runs
``{"failed": key, "error": text}``                  it could not be forked
``{"exited": key, "status": n, "memory": bytes}``   it has ended, and its group was killed
==================================================  =========================================

An engine's group is killed while the engine is still a zombie: its number cannot have been given
to another process. The end of the socket means that the daemon is gone; so are then all engines.
"""

from __future__ import annotations

import array
import errno
import gc
import json
import math
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any, Final, NoReturn

from ipkernel.engine import native
from ipkernel.engine.strays import Strays

__all__ = ["command", "main", "receive_message", "send_message"]

_LENGTH = struct.Struct("<I")
_DESCRIPTORS = 4
#: Seconds that killed processes may take to be gone, when the zygote itself ends.
_LAST_WAIT: Final = 0.8


def command() -> list[str]:
    """Return the command line of a zygote, without its arguments.

    ``-P`` keeps the current directory off ``sys.path``: what lies there must not replace
    modules of engines by accident.
    """
    return [sys.executable, "-P", "-m", "ipkernel.engine.zygote"]


def send_message(
    sock: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()
) -> None:
    """Send one message, with descriptors if need be.

    Args:
        sock: A blocking UNIX stream socket.
        message: What JSON can carry.
        descriptors: To be duplicated into the receiving process.

    Raises:
        OSError: The other end is gone.
    """
    body = json.dumps(message).encode()
    data = _LENGTH.pack(len(body)) + body
    sent = socket.send_fds(sock, [data], list(descriptors)) if descriptors else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive_message(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one message and its descriptors.

    Returns:
        The message and the descriptors, or None at the end of the stream. Where the system could
        not pass all descriptors on, because too many files are open, there are fewer than were
        sent.

    Raises:
        OSError: The connection is broken.
    """
    size = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    head, ancillary, _, _ = sock.recvmsg(_LENGTH.size, size)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    head += _exactly(sock, _LENGTH.size - len(head)) if head else b""
    if len(head) < _LENGTH.size:
        return None
    length = _LENGTH.unpack(head)[0]
    body = _exactly(sock, length)
    if len(body) < length:
        return None
    return json.loads(body), descriptors.tolist()


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            break
        data += more
    return data


class Zygote:
    """Forks engines and watches them.

    Args:
        sock: To the daemon.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._engines: dict[int, str] = {}  # pid to key
        self._memory: dict[int, int] = {}  # pid to the number of its memory file
        self._strays = Strays()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> None:
        """Serve until the daemon is gone, then kill what there is."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        try:
            self._tell({"ready": os.getpid()})
            while True:
                delay = self._strays.delay()
                bound = None if delay is None else math.ceil(delay * 1000)
                ready = [descriptor for descriptor, _ in poll.poll(bound)]
                if self._wake_read in ready:
                    with suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                self._strays.look(self._engines)
                if self._socket.fileno() in ready and not self._serve():
                    return
        except OSError:
            pass  # the daemon is gone
        finally:
            self._kill_all()

    def _tell(self, message: dict[str, Any]) -> None:
        send_message(self._socket, message)

    def _serve(self) -> bool:
        received = receive_message(self._socket)
        if received is None:
            return False
        message, descriptors = received
        if "fork" in message:
            self._fork(message, descriptors)
        elif "kill" in message:
            self._signal(message["kill"], message["signal"], message["group"])
        return True

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            if len(descriptors) != _DESCRIPTORS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            memory = os.fstat(descriptors[-1]).st_ino
            pid = os.fork()
        except OSError as error:
            self._tell({"failed": message["fork"], "error": error.strerror})
        else:
            if pid == 0:
                self._become_engine(message, descriptors)
            self._engines[pid] = message["fork"]
            self._memory[pid] = memory
            self._strays.began(pid)
            self._tell({"forked": message["fork"], "pid": pid})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _become_engine(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        try:
            parent = os.getppid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGHUP):
                # What is ignored here would stay ignored in programs that user code starts.
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.setsid()
            native.die_with_parent(parent)
            link, out, err, progress = descriptors
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            for descriptor in (null, out, err, self._wake_read, self._wake_write):
                os.close(descriptor)
            self._socket.close()
            _make_own(message["env"], message.get("cwd", ""), message.get("cpus", []))
            from ipkernel.engine.worker import run_engine

            run_engine(socket.socket(fileno=link), progress=progress)
        except BaseException:  # noqa: BLE001 - told here, as the next line lets nothing pass
            import traceback

            traceback.print_exc()
        finally:
            # Not even an error of the printing above (user code can close descriptor 2) may return
            # into the zygote's own code: that would kill all other engines.
            os._exit(1)

    def _signal(self, key: str, number: int, group: bool) -> None:
        for pid, engine in self._engines.items():
            if engine == key:
                # It is not reaped, so these numbers are its own.
                try:
                    (os.killpg if group else os.kill)(pid, number)
                except OSError:  # it has not made its group yet
                    os.kill(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            key = self._engines.get(pid)
            if key is not None:
                with suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
                self._strays.end(pid, self._memory.pop(pid), self._engines)
            _, status, usage = os.wait4(pid, 0)
            if key is not None:
                del self._engines[pid]
                memory = usage.ru_maxrss * 1024
                self._tell({"exited": key, "status": status, "memory": memory})

    def _kill_all(self) -> None:
        """Kill the engines and all that they have started; wait until nobody is left."""
        for pid in self._engines:
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        deadline = time.monotonic() + _LAST_WAIT
        while time.monotonic() < deadline:
            # What an engine leaves becomes our child when the engine ends, which takes a moment.
            for pid in native.children():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.001)
            except ChildProcessError:
                return


def _make_own(environment: dict[str, str], cwd: str, cpus: list[int]) -> None:
    """Give a fresh engine what it must not share with its siblings."""
    os.environ.update(environment)
    if cwd:
        os.chdir(cwd)
    if cpus:
        os.sched_setaffinity(0, cpus)
    # Only programs that the engine starts see this in their initial environment.
    os.environ[native.COOKIE] = str(os.getpid())
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def preload() -> None:
    """Import what every engine needs, so that their pages are shared."""
    import msgspec  # noqa: F401
    from setproctitle import setproctitle  # noqa: F401

    import ipkernel.engine.worker
    import ipkernel.serialize.pickler  # noqa: F401


def main(arguments: list[str]) -> int:
    """Be a zygote.

    Args:
        arguments: The number of the descriptor that leads to the daemon, and the cluster's name.

    Returns:
        0, when the daemon has gone away.
    """
    sock = socket.socket(fileno=int(arguments[0]))
    sock.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A Ctrl-C in the terminal is the daemon's affair, and so is a stop.
        signal.signal(number, signal.SIG_IGN)
    native.adopt_orphans()
    preload()
    from setproctitle import setproctitle

    name = arguments[1] if len(arguments) > 1 else ""
    setproctitle(f"ipdaemon zygote [{name}]" if name else "ipdaemon zygote")
    gc.collect()
    gc.freeze()
    Zygote(sock).run()
    return 0


if __name__ == "__main__":
    # The importable module, so that engines do not keep this one as their ``__main__``.
    from ipkernel.engine.zygote import main as importable

    sys.exit(importable(sys.argv[1:]))
