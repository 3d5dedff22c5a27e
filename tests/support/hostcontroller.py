"""The smallest controller that host daemons can join: a door, a channel, and lists of messages."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from foolscap.api import Referenceable
from twisted.internet.defer import Deferred
from twisted.internet.tcp import _reservedFD
from zope.interface import implementer

from ipkernel.objects.local import LocalStore
from ipkernel.objects.tickets import make_ticket
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.channel import Channel
from ipkernel.wire.doors import RIEngineDoor
from ipkernel.wire.furl import write_furl
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    EngineLeft,
    Function,
    Kind,
    Outcome,
    Output,
)
from ipkernel.wire.records import HostGrant, HostHello, Resumed, pack, unpack
from ipkernel.wire.replay import Replay
from ipkernel.wire.tub import call, make_tub

# Twisted opens /dev/null when a process listens for the first time, and keeps it.
_reservedFD.reserve()


@implementer(RIEngineDoor)
class Door(Referenceable):
    def __init__(self, controller: HostController) -> None:
        self.controller = controller

    def remote_register(self, host: Any, hello: bytes) -> bytes:
        return self.controller.register(host, unpack(HostHello, hello))


class HostController:
    """Everything happens in the reactor's thread; tests await Deferreds."""

    def __init__(self, reactor: Any, directory: Path, *, protocol: int | None = None) -> None:
        self.reactor = reactor
        self.directory = directory
        directory.chmod(0o700)
        self.furl_file = directory / "engine.furl"
        self.protocol = protocol
        self.identity = Identity.create()
        self.swissnum: str | None = None
        self.port = 0
        self.tub: Any = None
        self.host: Any = None
        self.channel: Channel | None = None
        self.hellos: list[HostHello] = []
        self.messages: list[tuple[Any, Any]] = []
        self.joined: list[EngineJoined] = []
        self.left: list[EngineLeft] = []
        self.done: dict[int, tuple[Done, Any]] = {}
        self.cache = FunctionCache()
        self.tasks = itertools.count(1 << 40)
        self.sent: set[bytes] = set()
        self._waiting: list[tuple[Any, Deferred[Any]]] = []
        self.joined_count = 0
        self.lost: list[str] = []
        #: Whether it knows a host that comes back, and in which life it is.
        self.remembers = False
        self.life = 1
        self.taken = 0
        self.replay = Replay()
        self._received_there = 0

    async def listen(self) -> None:
        self.tub = make_tub(self.identity, self.reactor)
        self.port = await self.tub.listen("127.0.0.1", self.port)
        furl = self.tub.register(Door(self), self.swissnum)
        self.swissnum = furl.swissnum
        write_furl(self.furl_file, furl)

    async def close(self) -> None:
        if self.tub is not None:
            tub, self.tub = self.tub, None
            await tub.stopService()

    def register(self, host: Any, hello: HostHello) -> bytes:
        self.hellos.append(hello)
        self.host = host
        from ipkernel.wire.tub import peer_tub_id

        resumed = None
        if self.remembers and hello.resume is not None:
            same = hello.resume.life == self.life
            resumed = Resumed(same=same, taken=self.taken if same else 0)
        if resumed is None or not resumed.same:
            self.taken = 0
            self.replay.restart()
        self._received_there = hello.resume.received if resumed and resumed.same else 0
        ids = list(hello.engines) + list(range(len(hello.engines), hello.slots))
        grant = HostGrant(
            host_id=1,
            ticket=self.tub.issue_ticket(peer_tub_id(host), self._opened, self._make),
            engines=ids,
            cluster="test",
            life=self.life,
            resumed=resumed,
        )
        if self.protocol is not None:
            grant = HostGrant(**{**_fields(grant), "protocol": self.protocol})
        return pack(grant)

    def _make(self) -> Channel:
        return Channel(self.reactor, received=self._received, lost=self._lost)

    def _opened(self, channel: Channel) -> None:
        self.channel = channel
        channel.watch()
        again = self.replay.resume(self._received_there)
        if not self._received_there:
            self.sent.clear()
        for message, payload in again:
            channel.send(message, payload)

    def cut(self) -> None:
        """End the connection as a network does."""
        assert self.channel is not None
        self.channel.abort("cut")
        self.channel = None

    async def die(self) -> None:
        """End as a process does that is killed; :meth:`listen` begins another life."""
        await self.close()
        self.life += 1

    def send(self, message: Any, payload: Any = b"") -> None:
        """Send a message, now or on the next connection."""
        self.replay.add(message, payload)
        if self.channel is not None:
            self.channel.send(message, payload)

    def _lost(self, channel: Channel, reason: str) -> None:
        if channel is self.channel:
            self.channel = None
        self.lost.append(reason)
        self._check()

    def _received(self, channel: Channel, batch: list[tuple[Any, Any]]) -> None:
        self.taken += len(batch)
        for message, payload in batch:
            self.messages.append((message, payload))
            if isinstance(message, Done):
                self.done[message.task] = (message, payload)
            elif isinstance(message, EngineJoined):
                self.joined.append(message)
            elif isinstance(message, EngineLeft):
                self.left.append(message)
        self._check()

    def _check(self) -> None:
        for entry in list(self._waiting):
            if entry[0]():
                self._waiting.remove(entry)
                entry[1].callback(None)

    def until(self, condition: Any, timeout: float = 20.0) -> Deferred[None]:
        """Fire once ``condition()`` is true; it is looked at whenever a message arrives."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
        else:
            self._waiting.append((condition, waiting))
            waiting.addTimeout(timeout, self.reactor)
        return waiting

    def engines(self, count: int) -> Deferred[None]:
        return self.until(lambda: len(self.joined) >= count)

    def local_store(self) -> LocalStore:
        """A client's access to the store of the host, which is on this machine."""
        access = self.hellos[-1].store
        assert access is not None
        return LocalStore(access.local, "client", make_ticket(access.key, "client"))

    def submit_stored(
        self, function: Any, needs: Any, *args: Any, keep: bool = False, engine: int = 0
    ) -> tuple[int, bytes]:
        """Submit a call whose payload is the first of ``needs``; returns the task and the payload."""
        call_ = dump_call(function, args, {}, self.cache)
        if call_.digest and call_.digest not in self.sent:
            self.sent.add(call_.digest)
            blob = call_.blob or self.cache.lookup(function)[1]
            self.send(Function(call_.digest, len(blob)), blob)
        task = next(self.tasks)
        self.send(Assign(task, engine, Kind.APPLY, 0, call_.digest, 0, list(needs), True, keep))
        return task, b"".join(call_.pieces)

    def submit(
        self, function: Any, *args: Any, engine: int = 0, kind: Kind = Kind.APPLY, epoch: int = 0
    ) -> int:
        call_ = dump_call(function, args, {}, self.cache)
        blob = call_.blob or self.cache.lookup(function)[1]
        return self.assign(kind, call_.pieces, engine, call_.digest, blob, epoch)

    def order(self, kind: Kind, value: Any = None, engine: int = 0) -> int:
        return self.assign(kind, dumps(value), engine)

    def execute(self, code: str, engine: int = 0, **options: Any) -> int:
        options = {"silent": False, "filename": None, "store_history": True, **options}
        return self.order(Kind.EXECUTE, (code, options), engine)

    def assign(
        self,
        kind: Kind,
        pieces: Any,
        engine: int,
        digest: bytes = b"",
        blob: bytes = b"",
        epoch: int = 0,
    ) -> int:
        task = next(self.tasks)
        if digest and digest not in self.sent:
            self.sent.add(digest)
            self.send(Function(digest, len(blob)), blob)
        data = b"".join(pieces)
        self.send(Assign(task, engine, kind, len(data), digest, epoch), data)
        return task

    async def outcome(self, task: int) -> tuple[Done, Any]:
        await self.until(lambda: task in self.done)
        return self.done[task]

    async def result(self, task: int) -> Any:
        done, payload = await self.outcome(task)
        assert done.outcome is Outcome.OK, decode(payload).traceback
        return loads(payload)

    async def error(self, task: int) -> Any:
        done, payload = await self.outcome(task)
        assert done.outcome is Outcome.ERROR, loads(payload)
        return decode(payload)

    def output(self, task: int | None = None, stream: int = 1) -> bytes:
        return b"".join(
            bytes(payload)
            for message, payload in self.messages
            if isinstance(message, Output)
            and message.stream == stream
            and (task is None or message.task == task)
        )

    def ask(self, method: str, *args: Any) -> Deferred[Any]:
        return call(self.host, method, *args)


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
