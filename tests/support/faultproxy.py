"""A network that fails as it is told to: a proxy on the loopback interface.

    with FaultProxy(port) as proxy:
        proxy.plan(Cut(1000), Freeze(5000, UP))   # the first connection, the second; the others work
        connect_to(proxy.port)

Each connection has two threads; they end with the proxy, and in any case after its ``life``.
"""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final

from attrs import frozen

__all__ = [
    "BOTH",
    "DOWN",
    "UP",
    "Corrupt",
    "Cut",
    "Fault",
    "FaultProxy",
    "Freeze",
    "Refuse",
    "Silence",
    "Slow",
    "furl_through",
]

#: From the one who connects, to him, or both.
UP: Final = "up"
DOWN: Final = "down"
BOTH: Final = "both"

_CHUNK: Final = 1 << 16


@frozen
class Fault:
    """What happens to a connection: nothing.

    Attributes:
        after: Bytes in the direction after which it happens.
        direction: Which bytes count.
    """

    after: int = 0
    direction: str = BOTH


class Cut(Fault):
    """Both sides are told that the connection was reset."""


class Freeze(Fault):
    """Nothing more is taken in or passed on, either way, and nothing is closed."""


class Silence(Fault):
    """What goes in that direction is taken in and lost."""


class Refuse(Fault):
    """It is reset as soon as it is accepted, and leads nowhere."""


class Corrupt(Fault):
    """One byte is changed."""


@frozen
class Slow(Fault):
    """From then on there are so many bytes per second, and each piece comes later by chance.

    Attributes:
        rate: Bytes per second.
        delay: Seconds by which each piece is late.
        jitter: Up to so many seconds more, by chance.
    """

    rate: float = 1e6
    delay: float = 0.0
    jitter: float = 0.0


class FaultProxy:
    """Passes connections on to a port of this machine.

    Args:
        target: The port.
        life: Seconds after which everything ends.
        host: Where the port is.

    Attributes:
        port: Where the proxy listens.
        connections: How many were accepted.
        passed: Bytes passed on, by direction.
    """

    def __init__(self, target: int, *, life: float = 60.0, host: str = "127.0.0.1") -> None:
        self.connections = 0
        self.passed = {UP: 0, DOWN: 0}
        self._target = (host, target)
        self._life = life
        self._plan: deque[Fault] = deque()
        self._always: Fault | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._states: set[_State] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(life)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def plan(self, *faults: Fault, always: Fault | None = None) -> None:
        """Say what happens to the next connections, one each.

        Args:
            faults: In the order of the connections.
            always: For those after them; None for nothing.
        """
        with self._lock:
            self._plan.extend(faults)
            self._always = always

    def clear(self) -> None:
        """Have nothing happen to connections from now on."""
        with self._lock:
            self._plan.clear()
            self._always = None

    def cut(self) -> None:
        """Cut all connections that there are."""
        with self._lock:
            states, sockets = list(self._states), list(self._sockets)
        for state in states:
            state.deserted.clear()
        for sock in sockets:
            _reset(sock)

    def desert(self) -> None:
        """Cut all connections on the side of those who connected; the other side is not told."""
        with self._lock:
            states = list(self._states)
        for state in states:
            state.deserted.set()
            _reset(state.client)

    def close(self) -> None:
        """End everything, and wait for it."""
        self._closed.set()
        # Who waits in accept() is not woken by close().
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            pass
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- threads

    def _start(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, name="fault-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closed.is_set():
                client.close()
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            with self._lock:
                self.connections += 1
                fault = self._plan.popleft() if self._plan else self._always or Fault()
            try:
                if isinstance(fault, Refuse):
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)
                client.close()
                continue
            for sock in (client, server):
                sock.settimeout(self._life)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
                state = _State(fault, client, ends=2)
                self._states.add(state)
            self._start(self._pump, client, server, UP, state)
            self._start(self._pump, server, client, DOWN, state)

    def _pump(self, source: socket.socket, target: socket.socket, way: str, state: _State) -> None:
        try:
            while data := source.recv(_CHUNK):
                if not self._pass_on(data, target, way, state):
                    break
            else:
                if not state.deserted.is_set():
                    target.shutdown(socket.SHUT_WR)
        except OSError:
            if not state.deserted.is_set():
                _reset(source)
                _reset(target)
        finally:
            if state.end():
                with self._lock:
                    self._sockets -= {source, target}
                    self._states.discard(state)
                source.close()
                target.close()

    def _pass_on(self, data: bytes, target: socket.socket, way: str, state: _State) -> bool:
        """Pass bytes on as the fault lets them; return whether to go on."""
        fault = state.fault
        if fault.direction in (way, BOTH):
            before = state.count(len(data))
            at = max(0, fault.after - before)
            if at < len(data):
                return self._fail(data, at, target, way, state)
        if state.frozen.is_set():
            self._closed.wait(self._life)
            return False
        self._send(data, target, way)
        return True

    def _fail(self, data: bytes, at: int, target: socket.socket, way: str, state: _State) -> bool:
        fault = state.fault
        match fault:
            case Cut():
                self._send(data[:at], target, way)
                raise OSError("as planned")
            case Freeze():
                self._send(data[:at], target, way)
                state.frozen.set()
                self._closed.wait(self._life)
                return False
            case Silence():
                self._send(data[:at], target, way)
            case Corrupt() if not state.done:
                state.done = True
                damaged = bytearray(data)
                damaged[at] ^= 0x55
                self._send(bytes(damaged), target, way)
            case Slow():
                late = fault.delay + fault.jitter * random.random()
                self._closed.wait(len(data) / fault.rate + late)
                self._send(data, target, way)
            case _:
                self._send(data, target, way)
        return not self._closed.is_set()

    def _send(self, data: bytes, target: socket.socket, way: str) -> None:
        target.sendall(data)
        with self._lock:
            self.passed[way] += len(data)


class _State:
    """What the two directions of a connection share."""

    def __init__(self, fault: Fault, client: socket.socket, ends: int) -> None:
        self.fault = fault
        self.client = client
        self.deserted = threading.Event()
        self.frozen = threading.Event()
        self.done = False
        self._ends = ends
        self._counted = 0
        self._lock = threading.Lock()

    def count(self, more: int) -> int:
        """Count bytes; return how many there were before."""
        with self._lock:
            before, self._counted = self._counted, self._counted + more
            return before

    def end(self) -> bool:
        """Note that one direction has ended; return whether both have."""
        with self._lock:
            self._ends -= 1
            return not self._ends


def furl_through(proxy: FaultProxy, file: Path, target: Path) -> Path:
    """Write a FURL file whose FURL leads through a proxy.

    Args:
        proxy: The proxy.
        file: The FURL file of the door behind it.
        target: The file to be written; its directory is made.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = re.sub(r"@[^/]*/", f"@tcp:127.0.0.1:{proxy.port}/", file.read_text())
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as writing:
        writing.write(there)
    return target


def _reset(sock: socket.socket) -> None:
    """Make both of those who wait for a socket, here and over there, see an error."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
