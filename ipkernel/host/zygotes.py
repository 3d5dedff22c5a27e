"""Engines that are forked from a zygote: the native way of starting them.

Nothing here needs Twisted until :meth:`ZygoteStarter.attach`.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, Final

from zope.interface import implementer

from ipkernel.host.interfaces import Begun, IEngineStarter, Place, StarterEvents
from ipkernel.host.processes import Exit, kill_group

__all__ = ["ZygoteStarter", "make_ends", "spawn_zygote"]

logger = logging.getLogger(__name__)

#: Zygotes that may end by themselves before the starter gives up.
MAX_DEATHS: Final = 5


def spawn_zygote(name: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a zygote; it is ready some tens of milliseconds later.

    Args:
        name: The cluster's, for its title.

    Returns:
        The process and the socket that leads to it.
    """
    from ipkernel.engine.zygote import command

    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*command(), str(theirs.fileno()), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return process, ours


def shared_counter() -> tuple[int, memoryview]:
    """Return a descriptor of shared memory, and the two numbers in it as items of a view."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ipkernel-progress", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        return descriptor, memoryview(mmap.mmap(descriptor, 16)).cast("Q")
    except OSError:
        os.close(descriptor)
        raise


def make_ends() -> tuple[socket.socket, socket.socket, int, int, int, int, int, memoryview]:
    """Make all that an engine is connected with, or nothing.

    Returns:
        Both ends of the link, of standard output (reading end first) and of standard error, and
        what :func:`shared_counter` returns.

    Raises:
        OSError: This process has too many open files, for instance.
    """
    with ExitStack() as undo:
        link, theirs = socket.socketpair()
        undo.callback(link.close)
        undo.callback(theirs.close)
        pipes: list[int] = []
        for _ in range(2):
            ends = os.pipe()
            for end in ends:
                undo.callback(os.close, end)
            pipes.extend(ends)
        counter, progress = shared_counter()
        undo.pop_all()
    out, out_end, err, err_end = pipes
    return link, theirs, out, out_end, err, err_end, counter, progress


@implementer(IEngineStarter)
class ZygoteStarter:
    """Has engines forked by a zygote, and starts a new one should it die.

    Args:
        name: The cluster's.
        begun: A zygote that was started already, from :func:`spawn_zygote`.
    """

    threaded = False
    job = None

    def __init__(
        self, name: str = "", begun: tuple[subprocess.Popen[bytes], socket.socket] | None = None
    ) -> None:
        self._name = name
        self._process, self._socket = begun if begun is not None else spawn_zygote(name)
        self._pids: dict[str, int] = {}
        self._asked: set[str] = set()
        self._reactor: Any = None
        self._events: StarterEvents | None = None
        self._wire: Any = None
        self._closed = False
        self._deaths = 0
        self._why = ""

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return self._process.pid

    def start(self, key: str, place: Place) -> Begun:
        """Ask for an engine; see :meth:`IEngineStarter.start`."""
        from ipkernel.engine.zygote import send_message

        if self._deaths > MAX_DEATHS:
            raise OSError(0, self._why)
        link, theirs, out, out_end, err, err_end, counter, progress = make_ends()
        try:
            send_message(
                self._socket,
                {"fork": key, "env": dict(place.environment), "cwd": place.cwd, "cpus": place.cpus},
                (theirs.fileno(), out_end, err_end, counter),
            )
            self._asked.add(key)
        except OSError as error:  # its death is about to be noticed, or nobody will start this one
            if self._closed or isinstance(error, BlockingIOError):  # it lags: to be asked again
                link.close()
                os.close(out)
                os.close(err)
                raise
            self._asked.add(key)
        finally:
            theirs.close()
            for descriptor in (out_end, err_end, counter):
                os.close(descriptor)
        return Begun(key, out, err, link, progress)

    def attach(self, reactor: Any, events: StarterEvents) -> None:
        """Begin to report; see :meth:`IEngineStarter.attach`."""
        self._reactor = reactor
        self._events = events
        self._watch()

    def _watch(self) -> None:
        from ipkernel.host.zygotewire import ZygoteWire

        self._socket.setblocking(False)
        self._wire = ZygoteWire(self._reactor, self._socket, self._told, self._died)

    def _told(self, message: dict[str, Any]) -> None:
        events = self._events
        assert events is not None
        if "forked" in message:
            key = message["forked"]
            self._pids[key] = message["pid"]
            self._deaths = 0
            events.spawned(key, message["pid"])
        elif "failed" in message:
            self._asked.discard(message["failed"])
            events.failed(message["failed"], f"could not be forked: {message['error']}")
        elif "exited" in message:
            key = message["exited"]
            self._asked.discard(key)
            self._pids.pop(key, None)
            events.exited(key, Exit.of_status(message["status"], message["memory"]))

    def signal(self, key: str, number: int, group: bool) -> None:
        """Send a signal; see :meth:`IEngineStarter.signal`.

        The zygote does it: it alone knows that the process is not yet another one.
        """
        if key in self._asked and self._wire is not None:
            self._wire.send({"kill": key, "signal": number, "group": group})

    def _died(self) -> None:
        """The zygote is gone, and the parent-death signal has reached its engines, or is about to."""
        if self._closed:
            return
        status = self._process.wait()
        how = ("was " if status < 0 else "") + Exit.of_returncode(status).text
        logger.warning("the zygote (pid %d) %s; its engines end with it", self.pid, how)
        self._socket.close()
        lost, pids = self._asked, self._pids
        self._asked, self._pids = set(), {}
        self._deaths += 1
        for pid in pids.values():
            kill_group(pid)
        if self._deaths <= MAX_DEATHS:
            self._process, self._socket = spawn_zygote(self._name)
            self._watch()
        else:
            self._why = f"the zygote, which forks engines, {how} {self._deaths} times in a row"
        events = self._events
        assert events is not None
        for key in lost:
            if key in pids:
                events.exited(key, Exit(None, int(signal.SIGKILL)))
            else:
                events.failed(key, f"the zygote {how}")

    def expect_end(self) -> None:
        """How a process ends is seen anyway."""

    def close(self) -> None:
        """End the zygote, and with it every engine that is left."""
        if self._closed:
            return
        self._closed = True
        if self._wire is not None:
            self._wire.close()
        self._socket.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            for pid in self._pids.values():
                kill_group(pid)


def available() -> bool:
    """Tell whether this system has what a zygote needs.

    macOS is left out: its own libraries do not survive a fork, and it has no signal for the death
    of a parent.
    """
    there = all(hasattr(os, name) for name in ("fork", "waitid", "wait4"))
    return there and hasattr(socket, "send_fds") and sys.platform not in ("cygwin", "darwin")
