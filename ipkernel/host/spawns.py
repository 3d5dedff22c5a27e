"""Engines that are programs of their own: the portable way of starting them.

Each connects to a port on the loopback interface and names itself by a secret token, which it is
given through its standard input; that input stays open as the engine's lifeline.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from zope.interface import implementer

from ipkernel.host.interfaces import Begun, IEngineStarter, Place, StarterEvents
from ipkernel.host.processes import (
    Exit,
    await_end,
    bind_to_cpus,
    kill_children,
    kill_group,
    signal_process,
)

if TYPE_CHECKING:
    from ipkernel.host.enginelink import EngineLink
    from ipkernel.wire.link import Received

__all__ = ["SpawnStarter", "interpreter"]

logger = logging.getLogger(__name__)

#: Seconds in which a process that has connected must name itself.
HELLO_TIME: Final = 10.0
#: Seconds by which the system's idea of when a process began may differ from ours.
_CLOCK: Final = 1.0


@implementer(IEngineStarter)
class SpawnStarter:
    """Starts each engine with :mod:`subprocess`."""

    threaded = True
    job = None

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port: int = self._listening.getsockname()[1]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens: dict[bytes, str] = {}
        self._reactor: Any = None
        self._events: StarterEvents | None = None
        self._strangers: dict[EngineLink, Any] = {}
        self._made = time.time() - _CLOCK

    def start(self, key: str, place: Place) -> Begun:
        """Start a process; see :meth:`IEngineStarter.start`."""
        token = secrets.token_bytes(32)
        program, own = interpreter()
        options: dict[str, Any] = {}
        if os.name == "nt":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP  # type: ignore[attr-defined,unused-ignore]
        else:
            options["start_new_session"] = True
        began = time.time() - _CLOCK
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        try:
            process = subprocess.Popen(
                [program, "-P", "-m", "ipkernel.engine.worker"],
                stdin=subprocess.PIPE,
                stdout=out_end,
                stderr=err_end,
                env={**os.environ, **own, **place.environment},
                cwd=place.cwd or None,
                **options,
            )
        except OSError:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        self._tokens[token] = key
        self._processes[key] = process
        bind_to_cpus(process.pid, place.cpus)
        assert process.stdin is not None
        try:
            process.stdin.write(f"{self._port} {token.hex()}\n".encode())
            process.stdin.flush()
        except OSError:
            pass  # it has ended already, which is about to be noticed
        if self._reactor is not None:
            self._watch(key, process, began)
        return Begun(key, out, err, pid=process.pid)

    def attach(self, reactor: Any, events: StarterEvents) -> None:
        """Begin to report; see :meth:`IEngineStarter.attach`."""
        self._reactor = reactor
        self._events = events
        self._listening.setblocking(False)
        reactor.addReader(self)
        for key, process in self._processes.items():
            self._watch(key, process, self._made)

    def fileno(self) -> int:
        """The port's descriptor, for the reactor."""
        return self._listening.fileno()

    def logPrefix(self) -> str:
        """A name, for Twisted's log."""
        return "engines' port"

    def doRead(self) -> None:
        """A process has connected, says the reactor."""
        from ipkernel.host.enginelink import EngineLink

        try:
            sock, _ = self._listening.accept()
        except OSError:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = EngineLink(self._reactor, sock)
        link.on_messages = self._introduced
        link.on_lost = self._left
        self._strangers[link] = self._reactor.callLater(HELLO_TIME, self._too_late, link)

    def connectionLost(self, reason: object) -> None:
        """The reactor has stopped watching the port."""

    def _too_late(self, link: EngineLink) -> None:
        del self._strangers[link]
        link.close()

    def _introduced(self, link: EngineLink, batch: list[Received]) -> None:
        from ipkernel.wire.messages import EngineHello

        hello = batch[0][0]
        key = self._tokens.pop(hello.token, None) if isinstance(hello, EngineHello) else None
        if key is None or not isinstance(hello, EngineHello):
            logger.warning("a process that is not one of our engines has connected")
            self._left(link)
            link.close()
            return
        self._strangers.pop(link).cancel()
        assert self._events is not None
        self._events.linked(key, link, hello.pid)

    def _left(self, link: EngineLink) -> None:
        timer = self._strangers.pop(link, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _watch(self, key: str, process: subprocess.Popen[bytes], began: float) -> None:
        assert self._events is not None
        self._events.spawned(key, process.pid)
        threading.Thread(
            target=self._wait, args=(key, process, began), name="engine exit", daemon=True
        ).start()

    def _wait(self, key: str, process: subprocess.Popen[bytes], began: float) -> None:
        if await_end(process.pid):
            kill_group(process.pid)
            returncode = process.wait()
        else:  # Windows, where a number is not given again while somebody has its handle
            returncode = process.wait()
            kill_children(process.pid, began)
        self._reactor.callFromThread(self._exited, key, process, returncode)

    def _exited(self, key: str, process: subprocess.Popen[bytes], returncode: int) -> None:
        if self._processes.get(key) is process:
            del self._processes[key]
        for token in [token for token, owner in self._tokens.items() if owner == key]:
            del self._tokens[token]
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass
        assert self._events is not None
        self._events.exited(key, Exit.of_returncode(returncode))

    def signal(self, key: str, number: int, group: bool) -> None:
        """Send a signal; see :meth:`IEngineStarter.signal`."""
        process = self._processes.get(key)
        if process is not None and process.returncode is None:
            try:
                signal_process(process.pid, number, group=group)
            except OSError:
                pass

    def expect_end(self) -> None:
        """How a process ends is seen anyway."""

    def close(self) -> None:
        """Kill whatever is left."""
        if self._reactor is not None:
            self._reactor.removeReader(self)
        self._listening.close()
        for link in list(self._strangers):
            self._left(link)
            link.close()
        for process in list(self._processes.values()):
            kill_group(process.pid)
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


def interpreter() -> tuple[str, dict[str, str]]:
    """Return the Python to start, and what its environment must have.

    In a virtual environment on Windows ``sys.executable`` is a program that starts another one. What
    is sent to it, and found out about it, would not be the engine's.
    """
    base = getattr(sys, "_base_executable", None) or sys.executable
    if os.name != "nt" or os.path.normcase(base) == os.path.normcase(sys.executable):
        return sys.executable, {}
    return base, {"__PYVENV_LAUNCHER__": sys.executable}
