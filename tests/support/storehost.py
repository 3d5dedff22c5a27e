"""Real engines with a real store below the daemon's own parts, with lists in the controller's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ipkernel.host.engines import Engines
from ipkernel.host.interfaces import Place
from ipkernel.host.spawns import SpawnStarter
from ipkernel.host.storage import Storage, make_storage
from ipkernel.host.storeoptions import StoreOptions
from ipkernel.host.zygotes import ZygoteStarter
from ipkernel.objects.local import LocalStore
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.payload import dumps, loads, size_of
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    Function,
    Kind,
    Outcome,
    decode_reason,
)
from tests.support.reactor import reactor

STARTERS = {"native": lambda: ZygoteStarter("test"), "portable": SpawnStarter}
SESSION = 5


class StoreHost:
    """Engines, a store, an uplink that remembers, and a client of this machine."""

    backlog = 0

    def __init__(self, how: str, *, count: int = 1, **options: Any) -> None:
        self.reactor = reactor()
        self.starter: Any = STARTERS[how]()
        self.messages: list[tuple[Any, Any]] = []
        self.waiting: list[tuple[Any, Deferred[None]]] = []
        self.cache = FunctionCache()
        self.tasks = SESSION << 40
        options.setdefault("memory", "256MB")
        self.storage: Storage | None = make_storage(
            self.reactor, Identity.create(), self, StoreOptions(**options)
        )
        self.engines = Engines(self.reactor, self.starter, self, host="here", objects=self.storage)
        self.engines.add([self.starter.start(str(n + 1), Place()) for n in range(count)])
        self.starter.attach(self.reactor, self.engines)
        self.engines.name(list(range(count)), "test")
        self._client: LocalStore | None = None

    @property
    def plane(self) -> Any:
        """What the storage has made so far."""
        assert self.storage is not None
        return self.storage._plane

    @property
    def client(self) -> LocalStore:
        """A client's access to the store."""
        if self._client is None:
            assert self.storage is not None
            address, ticket = self.storage.admit("client")
            self._client = LocalStore(address, "client", ticket)
        return self._client

    async def stop(self) -> None:
        await self.engines.stop()
        if self._client is not None:
            self._client.close()
        if self.storage is not None:
            await self.storage.close()

    # the uplink

    def send(self, message: Any, payload: Any = b"") -> None:
        self.messages.append((message, payload))
        for entry in list(self.waiting):
            if entry[0]():
                self.waiting.remove(entry)
                self.reactor.callLater(0, entry[1].callback, None)

    def until(self, condition: Any) -> Deferred[None]:
        """Fire once ``condition()`` is true; it is looked at whenever something is sent."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
        else:
            self.waiting.append((condition, waiting))
            waiting.addTimeout(30, self.reactor)
        return waiting

    def of(self, kind: type) -> list[Any]:
        return [message for message, _ in self.messages if isinstance(message, kind)]

    def ready(self, count: int = 1) -> Deferred[None]:
        return self.until(lambda: len(self.of(EngineJoined)) >= count)

    # a client's doings

    async def put(self, pieces: Any, object_id: bytes | None = None) -> bytes:
        object_id = object_id or os.urandom(16)
        size = size_of(pieces)
        await deferToThread(self.client.put, object_id, pieces, size, owner=SESSION)
        return object_id

    async def put_value(self, value: Any) -> bytes:
        return await self.put(dumps(value))

    async def call(self, function: Any, *args: Any, refs: Any = (), keep: bool = False) -> int:
        """Submit a call whose arguments are an object in the store; returns the task."""
        call = dump_call(function, args, {}, self.cache)
        needs = [await self.put(call.pieces), *refs]
        return self.assign(call, function, needs, stored=True, keep=keep)

    def submit(
        self, function: Any, *args: Any, refs: Any = (), keep: bool = False, engine: int = 0
    ) -> int:
        """Submit a call whose arguments travel with it; returns the task."""
        call = dump_call(function, args, {}, self.cache)
        return self.assign(call, function, list(refs), keep=keep, engine=engine)

    def assign(
        self,
        call: Any,
        function: Any,
        needs: Any,
        *,
        stored: bool = False,
        keep: bool = False,
        engine: int = 0,
    ) -> int:
        blob = (call.blob or self.cache.lookup(function)[1]) if call.digest else b""
        data = b"" if stored else b"".join(call.pieces)
        self.tasks += 1
        message = Assign(
            self.tasks, engine, Kind.APPLY, len(data), call.digest, 0, needs, stored, keep
        )
        batch: list[Any] = [(Function(call.digest, len(blob)), blob)] if blob else []
        self.engines.handle([*batch, (message, data)])
        return self.tasks

    async def done(self, task: int) -> tuple[Done, Any]:
        def there() -> list[Any]:
            return [m for m in self.messages if isinstance(m[0], Done) and m[0].task == task]

        await self.until(there)
        return there()[0]

    async def result(self, task: int) -> Any:
        """The value of a result, wherever it is."""
        message, payload = await self.done(task)
        if message.outcome is Outcome.ERROR:
            raise AssertionError(decode(payload).traceback)
        assert message.outcome is Outcome.OK, decode_reason(payload).text
        if message.object:
            payload = await fetch(self.client, message.object)
        return loads(payload)

    async def error(self, task: int) -> Any:
        message, payload = await self.done(task)
        assert message.outcome is Outcome.ERROR
        return decode(payload)

    async def lost(self, task: int) -> str:
        """The reason why a task was lost."""
        message, payload = await self.done(task)
        assert message.outcome is Outcome.LOST
        return decode_reason(payload).text


async def fetch(store: Any, object_id: bytes) -> memoryview:
    """Get an object in a thread that does not keep it: threads of a pool remember their last result."""
    box: list[memoryview] = []

    def get() -> None:
        box.append(store.get(object_id))

    await deferToThread(get)
    return box.pop()


def spill_directory(tmp_path: Path) -> str:
    """A directory for what does not fit into memory."""
    directory = tmp_path / "spill"
    directory.mkdir()
    return str(directory)
