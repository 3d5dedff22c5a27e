"""A client and an engine whose tasks run in threads, with a store between them: for tests of flows."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

from ipkernel.engine import flows as engine_flows
from ipkernel.engine.current import State
from tests.support.fakecontroller import HOST, FakeController
from tests.support.flowstore import FlowStore


class FlowScene(FakeController):
    """A controller in memory, whose one engine runs each task in a thread, one after the other.

    To be used as a context. At the end all threads have ended and nothing is left in the store.

    Args:
        monkeypatch: Puts the engine in place of this process's.
        store: The store of the host.

    Attributes:
        rc: The client.
        view: Of the engine.
        flow_store: The store.
        notes: What the engine has told of flows.
        lose: Do not deliver so many of the next notes.
    """

    def __init__(self, monkeypatch, store: FlowStore | None = None) -> None:
        super().__init__(engines=1)
        self.flow_store = store or FlowStore()
        self.connector.stores[HOST] = self.flow_store
        self.notes: list[bytes] = []
        self.lose = 0
        self._threads: list[threading.Thread] = []
        self._engine = threading.Lock()
        self.state = State()
        self.state.engine = 0
        self.state.loop = SimpleNamespace(
            objects=SimpleNamespace(store=self.flow_store),
            send=self._engine_sends,
            uninterrupted=contextlib.nullcontext,
        )
        monkeypatch.setattr(engine_flows, "state", self.state)
        self.rc = self.client()
        self.view = self.rc[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), "a task does not end"
        self.rc.close()
        left = None if self.flow_store.broken else self.flow_store.objects
        if exc_info[0] is None:
            assert not left

    def _engine_sends(self, message, data) -> None:
        self.notes.append(data)
        if self.lose:
            self.lose -= 1
        else:
            self.session.received([(message, data)])

    def run(self, message, task, target, data) -> None:
        thread = threading.Thread(target=self._run_task, args=(message, task, target, data))
        self._threads.append(thread)
        thread.start()

    def _run_task(self, message, task, target, data) -> None:
        with self._engine:
            self.state.task, self.state.engine = task, max(target, 0)
            try:
                super().run(message, task, target, data)
            finally:
                self.state.task = 0
