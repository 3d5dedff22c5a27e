"""Real engines below the daemon's own parts, with a list in the controller's place."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ipkernel.host.engines import Engines
from ipkernel.host.interfaces import Place
from ipkernel.host.spawns import SpawnStarter
from ipkernel.host.zygotes import ZygoteStarter
from ipkernel.serialize.failure import decode
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.messages import (
    Assign,
    Done,
    EngineJoined,
    Function,
    Kind,
    Outcome,
    Output,
    Stream,
)
from tests.support.reactor import inreactor, reactor

STARTERS = {"native": lambda: ZygoteStarter("test"), "portable": SpawnStarter}
both = pytest.mark.parametrize("how", list(STARTERS))


class RealEngines:
    """Engines, and an uplink that remembers."""

    backlog = 0

    def __init__(self, how: str) -> None:
        self.reactor = reactor()
        self.starter: Any = STARTERS[how]()
        self.messages: list[tuple[Any, Any]] = []
        self.waiting: list[tuple[Any, Deferred[None]]] = []
        self.cache = FunctionCache()
        self.tasks = 0

    def begin(self, count: int, **options: Any) -> None:
        """Make the engines.

        Args:
            count: How many.
            options: As for :class:`ipkernel.host.engines.Engines`.
        """
        self.engines = Engines(self.reactor, self.starter, self, host="here", **options)
        self.engines.add([self.starter.start(str(n + 1), Place()) for n in range(count)])
        self.starter.attach(self.reactor, self.engines)
        self.engines.name(list(range(count)), "test")

    # the uplink

    def send(self, message: Any, payload: Any = b"") -> None:
        self.messages.append((message, payload))
        for entry in list(self.waiting):
            if entry[0]():
                self.waiting.remove(entry)
                self.reactor.callLater(0, entry[1].callback, None)

    # for tests

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

    async def done(self, task: int) -> tuple[Done, Any]:
        def there() -> list[Any]:
            return [m for m in self.messages if isinstance(m[0], Done) and m[0].task == task]

        await self.until(there)
        return there()[0]

    async def error(self, task: int) -> Any:
        message, payload = await self.done(task)
        assert message.outcome is Outcome.ERROR
        return decode(payload)


class Host(RealEngines):
    """Engines without a store."""

    def __init__(self, how: str, count: int = 1, log_dir: Path | None = None) -> None:
        super().__init__(how)
        self.sent: set[bytes] = set()
        self.begin(count, log_dir=log_dir)

    def submit(
        self, function: Any, *args: Any, engine: int = 0, epoch: int = 0, limit: int = 0
    ) -> int:
        call = dump_call(function, args, {}, self.cache)
        batch: list[Any] = []
        if call.digest and call.digest not in self.sent:
            self.sent.add(call.digest)
            blob = call.blob or self.cache.lookup(function)[1]
            batch.append((Function(call.digest, len(blob)), blob))
        self.tasks += 1
        data = b"".join(call.pieces)
        message = Assign(self.tasks, engine, Kind.APPLY, len(data), call.digest, epoch, limit=limit)
        self.engines.handle([*batch, (message, data)])
        return self.tasks

    def execute(self, code: str, **options: Any) -> int:
        options = {"silent": False, "filename": None, "store_history": True, **options}
        self.tasks += 1
        data = b"".join(dumps((code, options)))
        self.engines.handle([(Assign(self.tasks, 0, Kind.EXECUTE, len(data)), data)])
        return self.tasks

    async def result(self, task: int) -> Any:
        message, payload = await self.done(task)
        assert message.outcome is Outcome.OK, decode(payload).traceback
        return loads(payload)

    def output(self, task: int, stream: Stream = Stream.STDOUT) -> bytes:
        """What has come before the task was done."""
        found = b""
        for message, payload in self.messages:
            if isinstance(message, Done) and message.task == task:
                return found
            if isinstance(message, Output) and (message.task, message.stream) == (task, stream):
                found += payload
        raise AssertionError(f"task {task} is not done")


def host_test(function: Any) -> Any:
    """Run a test with a Host that is stopped at the end."""
    import inspect

    parameters = inspect.signature(function).parameters

    async def wrapped(how: str, tmp_path: Path) -> None:
        host = Host(how, log_dir=tmp_path if "tmp_path" in parameters else None)
        try:
            await host.ready()
            await function(host, *([tmp_path] if "tmp_path" in parameters else []))
        finally:
            await host.engines.stop()

    wrapped.__name__ = function.__name__
    test = inreactor(wrapped)
    test.__signature__ = inspect.signature(wrapped)
    return both(test)


def block(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.002)
