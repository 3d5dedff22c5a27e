"""Real engines with a real store below the daemon's own parts, with lists in the controller's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from ipkernel.host.storage import Storage, make_storage
from ipkernel.host.storeoptions import StoreOptions
from ipkernel.objects.local import LocalStore
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import dump_call
from ipkernel.serialize.payload import dumps, loads, size_of
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Assign,
    Function,
    Kind,
    Outcome,
    decode_reason,
)
from tests.support.enginehost import RealEngines

SESSION = 5


class StoreHost(RealEngines):
    """Engines with a store, and a client of this machine."""

    def __init__(self, how: str, *, count: int = 1, **options: Any) -> None:
        super().__init__(how)
        self.tasks = SESSION << 40
        options.setdefault("memory", "256MB")
        self.storage: Storage | None = make_storage(
            self.reactor, Identity.create(), self, StoreOptions(**options)
        )
        self.begin(count, objects=self.storage)
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

    async def result(self, task: int) -> Any:
        """The value of a result, wherever it is."""
        message, payload = await self.done(task)
        if message.outcome is Outcome.ERROR:
            raise AssertionError(decode(payload).traceback)
        assert message.outcome is Outcome.OK, decode_reason(payload).text
        if message.object:
            payload = await fetch(self.client, message.object)
        return loads(payload)

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
