"""An engine's loop over a socket pair, in the process of a test."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any

from ipkernel.engine.current import State, state
from ipkernel.engine.interrupts import Interrupts
from ipkernel.engine.loop import Loop
from ipkernel.engine.namespace import UserNamespace
from ipkernel.engine.objects import EngineObjects
from ipkernel.engine.streams import Streams
from ipkernel.engine.work import Work
from ipkernel.serialize.failure import ErrorInfo, decode
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.namespace import set_namespace
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.link import Link
from ipkernel.wire.messages import Assign, Done, EngineSetup, Function, Kind, Outcome, Placed


class Bench:
    """An engine's loop and the other end of its link.

    Everything to be done is sent first; :meth:`run` then runs the loop until its input ends.
    With ``connect``, which opens its store, the engine has one.
    """

    def __init__(self, connect: Any = None) -> None:
        self.ours, theirs = socket.socketpair()
        self.link = Link()
        self.theirs = theirs
        self.pipes = [os.pipe(), os.pipe()]
        self.interrupts = Interrupts()
        self.streams = Streams(descriptors=(self.pipes[0][1], self.pipes[1][1]))
        self.namespace = UserNamespace()
        self.progress = [0, 0]
        self.loop = Loop(
            theirs,
            Work(self.namespace),
            self.streams,
            self.interrupts,
            objects=EngineObjects(self.interrupts.open, connect) if connect else None,
            progress=self.progress,
        )
        self.cache = FunctionCache()
        self.sent: set[bytes] = set()
        self.number = 0
        self.messages: list[tuple[Any, Any]] = []
        self.before = signal.getsignal(signal.SIGINT)
        self.interrupts.install()
        where = ("unix:@here", b"ticket", "engine:1:1") if connect else ("", b"", "")
        self.link.send(EngineSetup(3, "here", "test", *where))

    def submit(self, function: Any, *args: Any, kind: Kind = Kind.APPLY) -> int:
        call = dump_call(function, args, {}, self.cache)
        if call.digest and call.digest not in self.sent:
            self.sent.add(call.digest)
            blob = call.blob or self.cache.lookup(function)[1]
            self.link.send(Function(call.digest, len(blob)), blob)
        return self.assign(kind, call.pieces, call.digest)

    def submit_large(
        self, function: Any, *args: Any, placed: Sequence[Placed], stored: bool, keep: bool = False
    ) -> tuple[int, bytes]:
        """Submit a call that needs objects; with ``stored``, return the payload that is the first."""
        call = dump_call(function, args, {}, self.cache)
        blob = call.blob or self.cache.lookup(function)[1]
        if call.digest:
            self.link.send(Function(call.digest, len(blob)), blob)
        data = b"".join(call.pieces)
        self.number += 1
        needs = [one.object for one in placed]
        size = 0 if stored else len(data)
        message = Assign(
            self.number, 3, Kind.APPLY, size, call.digest, 0, needs, stored, keep, list(placed)
        )
        self.link.send(message, b"" if stored else data)
        return self.number, data

    def order(self, kind: Kind, value: Any = None, clear: int = 0) -> int:
        return self.assign(kind, dumps(value), clear=clear)

    def assign(self, kind: Kind, pieces: Any, digest: bytes = b"", clear: int = 0) -> int:
        self.number += 1
        data = b"".join(pieces)
        self.link.send(Assign(self.number, 3, kind, len(data), digest, clear=clear), data)
        return self.number

    def run(self) -> dict[int, tuple[Done, Any]]:
        """Run what was submitted; returns what is done, by task."""
        collected = bytearray()

        def write() -> None:
            while pieces := self.link.data_to_send():
                self.ours.sendall(b"".join(pieces))
            self.ours.shutdown(socket.SHUT_WR)

        def read() -> None:
            while data := self.ours.recv(1 << 16):
                collected.extend(data)

        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        self.loop.run()
        self.theirs.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join()
        self.messages = self.link.receive(bytes(collected))
        return {m.task: (m, p) for m, p in self.messages if isinstance(m, Done)}

    def value(self, function: Any, *args: Any, kind: Kind = Kind.APPLY) -> Any:
        return self.good(self.submit(function, *args, kind=kind))

    def good(self, task: int) -> Any:
        done, payload = self.run()[task]
        assert done.outcome is Outcome.OK, decode(payload).traceback
        return loads(payload)

    def error(self, task: int) -> ErrorInfo:
        done, payload = self.run()[task]
        assert done.outcome is Outcome.ERROR
        return decode(payload)

    def close(self) -> None:
        signal.signal(signal.SIGINT, self.before)
        self.ours.close()
        self.theirs.close()
        for pair in self.pipes:
            for descriptor in pair:
                os.close(descriptor)
        set_namespace(None)
        fresh = State()
        for name in State.__slots__:
            setattr(state, name, getattr(fresh, name))
