"""A controller with engines, in memory and without a network: for tests of the client.

What the client submits is run at once, in the submitting thread, by real (de)serialization; or,
while :attr:`FakeController.held` is set, when :meth:`FakeController.release` is called. All engines
are on host 1, whose store is a dictionary; that host is on the client's machine, unless ``near`` is
False.
"""

from __future__ import annotations

import contextlib
import gc
import io
import threading
import time
import weakref
from collections import deque
from typing import Any

import msgspec

from ipkernel.client.client import Client
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.controller.querying import compile_test
from ipkernel.objects import INLINE_LIMIT, new_object_id
from ipkernel.objects.ref import resolving
from ipkernel.serialize import failure
from ipkernel.serialize.cache import FunctionCache
from ipkernel.serialize.functions import FunctionStore, load_call
from ipkernel.serialize.payload import dumps_bytes, join, loads
from ipkernel.wire.messages import (
    Cancel,
    Cancelled,
    EngineJoined,
    EngineLeft,
    Fate,
    Fetch,
    Finished,
    Free,
    Function,
    Kind,
    NotProvided,
    ObjectMade,
    Outcome,
    Output,
    Provide,
    Reason,
    Release,
    Resubmit,
    Seek,
    Source,
    Stream,
    Submit,
    encode_reason,
)
from ipkernel.wire.queries import Every, Node, Page, Purge, Purged, Search, Test
from ipkernel.wire.records import (
    EngineAnswer,
    EngineInfo,
    EngineOrder,
    QueueCounts,
    Status,
    TaskQuery,
    TaskStories,
    TaskStory,
    pack,
    unpack,
)
from tests.support.fakestore import FakeConnector, FakeStore

#: The host of all engines.
HOST = 1


class FakeEngine:
    """One engine: a namespace, and what to do for each kind of task."""

    def __init__(self, number: int, store: FunctionStore) -> None:
        self.number = number
        self.store = store
        self.names: dict[str, Any] = {"__builtins__": __builtins__}
        self.counted = 0

    def run(self, kind: Kind, payload: bytes, digest: bytes) -> Any:
        if kind is Kind.APPLY:
            func, args, kwargs = load_call(payload, self.store, digest)
            return func(*args, **kwargs)
        if kind is Kind.MAP:
            func, (sequences, keep), _ = load_call(payload, self.store, digest)
            return [self.item(func, items, keep) for items in zip(*sequences, strict=False)]
        if kind is Kind.EXECUTE:
            return self.execute(*loads(payload))
        if kind is Kind.PUSH:
            self.names.update(loads(payload))
            return None
        if kind is Kind.PULL:
            names, single = loads(payload)
            values = [eval(name, self.names) for name in names]
            return values[0] if single else values
        if kind is Kind.KEYS:
            return sorted(set(self.names) - {"__builtins__"})
        self.names = {"__builtins__": __builtins__}
        return None

    def item(self, func, items, keep):
        try:
            return func(*items)
        except Exception as error:
            if not keep:
                raise
            return failure.ItemFailure(failure.encode(self.describe(error, "map")))

    def execute(self, code: str, options: dict[str, Any]) -> dict[str, Any]:
        self.counted += 1
        result = None
        try:
            compiled = compile(code, options["filename"] or "<cell>", "eval")
        except SyntaxError:
            exec(compile(code, options["filename"] or "<cell>", "exec"), self.names)
        else:
            value = eval(compiled, self.names)
            if value is not None and not options["silent"]:
                result = {"data": {"text/plain": repr(value)}, "metadata": {}}
        return {"execution_count": self.counted, "result": result, "outputs": []}

    def describe(self, error, method):
        return failure.describe(error, engine_info={"engine": self.number, "method": method})


class FakeController:
    """See the module.

    Attributes:
        held: While it is true, tasks wait for :meth:`release`.
        fate: What becomes of tasks that are aborted.
        messages: Everything that the client has sent, without payloads.
        signals: (name, engines) of each signal.
        connector: Leads to the store of host 1.
        directory: For each object its references, tasks that need it included; 0 when freed.
    """

    def __init__(
        self, engines: int = 2, session: int = 7, near: bool = True, held: bool = False
    ) -> None:
        self.store = FunctionStore()
        self.engines = {n: FakeEngine(n, self.store) for n in range(engines)}
        infos = [EngineInfo(engine=n, host="h", pid=100 + n, host_id=HOST) for n in range(engines)]
        self.connector = FakeConnector([HOST], []) if near else FakeConnector([], [HOST])
        self.directory: dict[bytes, int] = {}
        self.session = Session(session, self.pump, Engines(infos), self.connector)
        self.session.received([(self.connector.access(HOST, "h"), b"")])
        self.held = held
        self.fate = Fate.DEQUEUED
        self.queue: deque[tuple[Submit, int, int, bytes]] = deque()
        self.messages: list[Any] = []
        self.signals: list[tuple[str, list[int]]] = []
        self.admin: list[tuple[str, bytes]] = []
        self.purges: list[Purge] = []
        self.paused: dict[int, list[list[Any]]] = {}
        self.kept: dict[int, tuple[Finished, bytes]] = {}
        self._turn = 0
        self._lock = threading.RLock()
        self._sent = 0

    def client(self) -> Client:
        """Return a client of this controller."""
        client = Client.__new__(Client)
        client._session = self.session
        self.session.objects.client = weakref.ref(client)
        client._functions = FunctionCache()
        client._connection = self
        client._reactor = None
        client.block = False
        client.cluster = None
        client._call = self.call
        client._call_admin = lambda *args: self.call_admin(*args)
        client._finalizer = weakref.finalize(client, end, self.session)
        client._finalizer.atexit = False
        return client

    cluster = "fake"

    # ------------------------------------------------- work

    def pump(self) -> None:
        """Take what the client has queued."""
        while self.session.queue or self.session.objects.references.waiting:
            if not self._lock.acquire(blocking=False):
                with self.host_store.changed:  # whoever pumps may wait for just this
                    self.host_store.changed.notify_all()
                return
            try:
                self._pump()
            finally:
                self._lock.release()

    def _pump(self) -> None:
        for message, payload in self.session.take():
            self.messages.append(message)
            data = payload if isinstance(payload, bytes) else join(list(payload))
            assert len(data) == message.size
            self.take(message, data)
            self._sent += len(data) + (400 if isinstance(message, Submit) else 0)
        self.session.sent(self._sent)
        if not self.held:
            self.release()

    def take(self, message: Any, data: bytes) -> None:
        if isinstance(message, Function):
            self.store.add(message.digest, data)
        elif isinstance(message, Submit):
            targets = [-1] if message.spread else message.targets
            for object_id in message.needs:
                self.directory[object_id] += len(targets)
            for index, target in enumerate(targets):
                self.queue.append((message, message.task + index, target, data))
        elif isinstance(message, Cancel):
            self.cancel(message)
        elif isinstance(message, Fetch):
            for task in message.tasks:
                if task in self.kept:
                    self.session.received([self.kept[task]])
        elif isinstance(message, Resubmit):
            finished, answer = self.kept[message.of]
            again = msgspec.structs.replace(finished, task=message.task)
            self.session.received([(again, answer)])
        elif isinstance(message, ObjectMade):
            assert message.owner == self.session.number
            if message.host:
                store = self.connector.stores[message.host]
                assert len(store.objects[message.object]) == message.length
            self.directory.setdefault(message.object, 1)
        elif isinstance(message, Release):
            self.drop(message.objects)
        elif isinstance(message, Seek):
            have = message.object in self.host_store.objects and message.failed != HOST
            problem = "" if have else f"host h has lost it: {message.problem}"
            answer = Source(message.object, 1, HOST if have else 0, problem)
            self.session.received([(answer, b"")])

    def cancel(self, message: Cancel) -> None:
        """Abort what waits, and say so of each task; the others are unknown."""
        fates = dict.fromkeys(message.tasks, Fate.UNKNOWN)
        for item in [item for item in self.queue if item[1] in fates]:
            self.queue.remove(item)
            self.drop(item[0].needs)
            fate = fates[item[1]] = self.fate
            reason = Reason("aborted", "the task was aborted", fate=fate)
            self.finish(item[1], Outcome.ABORTED, -1, encode_reason(reason))
        if message.serial:
            answer = Cancelled(message.serial, list(fates), list(fates.values()))
            self.session.received([(answer, b"")])

    @property
    def host_store(self) -> FakeStore:
        """The store of the only host."""
        return self.connector.stores[HOST]

    def drop(self, object_ids) -> None:
        """Drop a reference to each of these objects; free what nobody refers to."""
        for object_id in object_ids:
            self.directory[object_id] -= 1
            if not self.directory[object_id]:
                self.host_store.free([object_id])
                self.session.received([(Free([object_id]), b"")])

    def refusal(self, object_id: bytes) -> str:
        """Return why the client does not provide an object, as far as it has said so."""
        for message, _ in list(self.session.queue):
            if isinstance(message, NotProvided) and message.object == object_id:
                return message.problem
        return ""

    def bring(self, object_id: bytes) -> bytes:
        """Return an object's bytes, having the client provide it if need be."""
        store = self.host_store
        if object_id not in store.objects:
            self.session.received([(Provide(object_id, HOST), b"")])
            if not store.wait_for(object_id, lambda: self.refusal(object_id)):
                raise LookupError(self.refusal(object_id))
        return store.objects[object_id]

    def release(self, count: int | None = None, backwards: bool = False) -> None:
        """Run tasks that wait: so many, or all."""
        with self._lock:
            while self.queue and (count is None or count > 0):
                self.run(*(self.queue.pop() if backwards else self.queue.popleft()))
                count = count if count is None else count - 1

    def run(self, message: Submit, task: int, target: int, data: bytes) -> None:
        if target < 0:
            choice = message.targets or list(self.engines)
            target = choice[self._turn % len(choice)]
            self._turn += 1
        engine = self.engines.get(target)
        if engine is None:
            reason = Reason("no-engine", f"there is no engine {target}")
            self.finish(task, Outcome.IMPOSSIBLE, -1, encode_reason(reason))
            return
        started = time.time()
        printed = io.StringIO()
        try:
            values = {one: memoryview(bytearray(self.bring(one))) for one in message.needs}
        except LookupError as problem:
            self.drop(message.needs)
            reason = encode_reason(Reason("object", f"{problem.args[0]}"))
            self.finish(task, Outcome.LOST, target, reason, started)
            return
        try:
            with (
                contextlib.redirect_stdout(printed)
                if message.kind == Kind.EXECUTE
                else (contextlib.nullcontext()),
                resolving(values),
            ):
                payload = values[message.needs[0]] if message.stored else data
                value = engine.run(message.kind, payload, message.digest)
            outcome, answer = Outcome.OK, dumps_bytes(value)
        except Exception as error:
            outcome = Outcome.ERROR
            answer = failure.encode(engine.describe(error, message.kind.name.lower()))
        if printed.getvalue():
            self.output(task, target, printed.getvalue())
        self.drop(message.needs)
        keep = message.keep and outcome == Outcome.OK
        self.finish(task, outcome, target, answer, started, keep or len(answer) >= INLINE_LIMIT)

    def output(self, task: int, engine: int, text: str, stream: Stream = Stream.STDOUT) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.session.received([(Output(task, engine, stream, len(data)), data)])

    def finish(self, task, outcome, engine, answer, started=0.0, stored=False):
        message = Finished(task, outcome, engine, started, time.time(), len(answer))
        if stored:
            object_id = new_object_id()
            self.host_store.objects[object_id] = answer
            self.directory[object_id] = 1
            message = Finished(
                task, outcome, engine, started, time.time(), 0, 1, object_id, len(answer), HOST
            )
            answer = b""
        self.session.received([(message, answer)])

    # ------------------------------------------------- engines come and go

    def join(self, number: int) -> None:
        self.engines[number] = FakeEngine(number, self.store)
        self.session.received([(EngineJoined(number, "h", 200 + number, 0, HOST), b"")])

    def leave(self, number: int, reason: str = "exited", restarting: bool = False) -> None:
        del self.engines[number]
        self.session.received([(EngineLeft(number, reason, restarting), b"")])

    # ------------------------------------------------- doors

    def call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        failure = self.session.failure
        if failure is not None:
            raise failure
        if method == "status":
            return pack(self.status())
        if method == "explain":
            waiting = {item[1] for item in self.queue}
            query = unpack(TaskQuery, request)
            found = [item[1] for item in self.queue if item[0].label == query.label != ""]
            return pack(
                TaskStories(
                    stories=[
                        TaskStory(task=task, state="ready" if task in waiting else "finished")
                        for task in [*query.tasks, *found]
                    ]
                )
            )
        if method == "search":
            return pack(self.search(unpack(Search, request)))
        if method == "purge":
            self.purges.append(unpack(Purge, request))
            return pack(Purged(count=1))
        order = unpack(EngineOrder, request)
        self.signals.append((order.signal or method, order.engines))
        return pack(EngineAnswer(engines=order.engines))

    def search(self, request: Search) -> Page:
        """Answer in pages of two rows, from what waits and from ``kept``."""
        rows = self.paused.pop(request.more, None)
        if rows is None:
            wanted = [row for row in self.rows() if suits(request.where, row)]
            rows = [[row.get(key) for key in request.keys] for row in wanted]
        more = 0
        if len(rows) > 2:
            more = len(self.paused) + 1
            self.paused[more] = rows[2:]
        return Page(rows=rows[:2], more=more)

    def rows(self) -> list[dict[str, Any]]:
        waiting = [
            {
                "msg_id": task,
                "submitted": 1000.0 + index,
                "engine_id": target if target >= 0 else None,
                "state": "ready",
                "label": message.label or None,
                "method": message.kind.name.lower(),
                "kept": False,
                "resubmittable": False,
            }
            for index, (message, task, target, _) in enumerate(self.queue)
        ]
        ended = [
            {
                "msg_id": task,
                "submitted": 500.0,
                "completed": message.completed,
                "engine_id": message.engine,
                "state": "finished",
                "status": "ok",
                "label": "old",
                "method": "apply",
                "kept": True,
                "resubmittable": True,
            }
            for task, (message, _) in self.kept.items()
        ]
        return waiting + ended

    def call_admin(self, method: str, request: bytes, timeout: float = 30.0) -> bytes | None:
        self.admin.append((method, request))
        return None if method == "shutdown" else pack(EngineAnswer())

    def status(self) -> Status:
        known = self.session.engines.known.values()
        return Status(
            cluster="fake",
            pid=1,
            host="h",
            location="memory",
            uptime=1.0,
            version="0",
            engines=[
                EngineInfo(engine=e.id, host=e.host, state=e.state, reason=e.reason, completed=3)
                for e in known
            ],
            queue=QueueCounts(ready=len(self.queue)),
        )


def suits(node: Node, row: dict[str, Any]) -> bool:
    """Tell whether a task is one of those that a query wants."""
    if isinstance(node, Test):
        return compile_test(node)(row.get(node.field))
    which = all if isinstance(node, Every) else any
    return which(suits(part, row) for part in node.parts)


def end(session: Session) -> None:
    session.lost(closed)
    session.objects.close()


def closed() -> Exception:
    from ipkernel.errors import ControllerLost

    return ControllerLost("this client is closed")


def sent(fake: FakeController, kind: type) -> list[Any]:
    """Return the messages of a kind that the client has sent."""
    return [message for message in fake.messages if type(message) is kind]


def is_empty(fake: FakeController) -> bool:
    """Tell whether the store has nothing any more, once what was dropped is given back."""
    gc.collect()
    fake.pump()
    left = {key: count for key, count in fake.directory.items() if count}
    objects = fake.session.objects
    return not (left or fake.host_store.objects or len(objects.references) or len(objects.outbox))
