"""What the records of a journal add up to: sessions, tasks, results and hosts; pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ipkernel.controller.journal import (
    Again,
    Assigned,
    Ended,
    Forgotten,
    HostCame,
    HostWent,
    LifeBegan,
    Over,
    Printed,
    Record,
    SessionBegan,
    SessionClosed,
    Submitted,
    Unwanted,
)
from ipkernel.controller.tasks import Origin, Payload, Refused
from ipkernel.wire.messages import Finished, Function, Output, Past, Submit


class OldSession:
    """A session that was open.

    Attributes:
        began: How it began.
        functions: What its client sent, by digest.
        taken: How many messages of it are safe.
    """

    def __init__(self, number: int) -> None:
        self.began = SessionBegan(number, 0.0, "")
        self.functions: dict[bytes, Payload] = {}
        self.taken = 0


class OldTask:
    """A task that had not ended.

    Attributes:
        message: Its submission, with what is known by now of where it may run.
        payload: What goes to the engine.
        submitted: When it came.
        target: The engine that it is bound to, or -1.
        host: The host that it was assigned to, or 0.
        engine: The engine there, or -1.
        attempts: How many engines began it and were lost.
        grace: What it had to end in after an interrupt, in milliseconds, if somebody wanted it
            aborted; else -1.
        notes: Unusual steps.
        past: Others that it waited for, and that have ended.
        free: Whether it waits for no others.
        refused: What engines said that have rejected it, or None.
    """

    def __init__(self, message: Submit, payload: Payload, submitted: float, target: int) -> None:
        self.message = message
        self.payload = payload
        self.submitted = submitted
        self.target = target
        self.host = 0
        self.engine = -1
        self.attempts = 0
        self.grace = -1
        self.notes: list[tuple[float, str]] = []
        self.past: list[Past] = []
        self.refused: Refused | None = None
        terms = message.terms
        self.free = terms is None or (terms.after is None and terms.follow is None)


class Folded:
    """All that a journal tells.

    Attributes:
        life: The number of the latest life, or 0.
        numbers: The highest that may have been given to a session, and to a host.
        sessions: The open sessions by number.
        tasks: The tasks that have not ended, by id, in the order in which they came.
        assigned: Those that were assigned, in the order in which that was done.
        results: Results that are not forgotten, with the time of their end, by task, in order.
        ends: How tasks ended, those whose results are forgotten included as far as it is known.
        output: What tasks have printed, those that have ended included.
        hosts: The hosts that are not lost, by number.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.life = 0
        self.numbers = (0, 0)
        self.sessions: dict[int, OldSession] = {}
        self.tasks: dict[int, OldTask] = {}
        self.assigned: dict[int, OldTask] = {}
        self.results: dict[int, tuple[float, Finished, Payload]] = {}
        self.ends: dict[int, tuple[Finished, Origin]] = {}
        self.output: dict[int, list[tuple[Output, Payload]]] = {}
        self.hosts: dict[int, HostCame] = {}
        self._over: set[int] = set()
        for record in records:
            self._take(record)
        del self._over

    def _take(self, record: Record) -> None:
        if isinstance(record, Submitted):
            self._submitted(record)
        elif isinstance(record, Assigned):
            self._assigned(record)
        elif isinstance(record, Again):
            self._again(record)
        elif isinstance(record, Unwanted):
            self._unwanted(record)
        elif isinstance(record, Printed):
            for message, payload in record.items:
                if message.task not in self._over or message.task in self.results:
                    self.output.setdefault(message.task, []).append((message, payload))
        elif isinstance(record, Ended):
            for finished, payload in record.items:
                self.results[finished.task] = (record.time, finished, payload)
            self._know(record.time, [finished for finished, _ in record.items], record.came)
        elif isinstance(record, Over):
            self._know(record.time, record.ends, record.submitted)
        elif isinstance(record, Forgotten):
            for task in record.tasks:
                self._ended(task)
                self.results.pop(task, None)
                self.output.pop(task, None)
                if record.purged:
                    self.ends.pop(task, None)
        elif isinstance(record, HostCame):
            self.hosts[record.host] = record
        elif isinstance(record, HostWent):
            self.hosts.pop(record.host, None)
        elif isinstance(record, SessionBegan):
            self._session(record.session).began = record
        elif isinstance(record, SessionClosed):
            self.sessions.pop(record.session, None)
        else:
            assert isinstance(record, LifeBegan)
            self.life = max(self.life, record.life)
            self.numbers = (record.sessions, record.hosts)

    def _session(self, number: int) -> OldSession:
        session = self.sessions.get(number)
        if session is None:
            session = self.sessions[number] = OldSession(number)
        return session

    def _submitted(self, record: Submitted) -> None:
        session = self._session(record.session)
        session.taken = max(session.taken, record.taken)
        for message, payload in record.items:
            if isinstance(message, Function):
                session.functions[message.digest] = payload
            elif isinstance(message, Submit):
                self._new(message, payload, record.time)

    def _new(self, message: Submit, payload: Payload, when: float) -> None:
        targets = [-1] if message.spread or not message.targets else message.targets
        for task, target in enumerate(targets, message.task):
            if task not in self._over and task not in self.tasks:
                self.tasks[task] = OldTask(message, payload, when, target)

    def _assigned(self, record: Assigned) -> None:
        for number, engine in zip(record.tasks, record.engines, strict=True):
            task = self.tasks.get(number)
            if task is not None:
                task.host, task.engine = record.host, engine
                task.free = True
                self.assigned.pop(number, None)
                self.assigned[number] = task

    def _again(self, record: Again) -> None:
        task = self.tasks.get(record.task)
        if task is None:
            return
        self.assigned.pop(record.task, None)
        task.host, task.engine = 0, -1
        task.attempts = record.attempts
        task.free = record.free
        task.past += record.past
        if record.refused:
            if task.refused is None:
                task.refused = Refused(task.message.targets)
            task.refused.told.update(record.refused)
        if task.refused is not None:
            for engine in record.targets:
                task.refused.told.pop(engine, None)
        if record.note and (not task.notes or task.notes[-1][1] != record.note):
            task.notes.append((record.time, record.note))
        if task.target < 0 and record.targets != task.message.targets:
            task.message = msgspec.structs.replace(task.message, targets=record.targets)

    def _unwanted(self, record: Unwanted) -> None:
        for number in record.tasks:
            task = self.tasks.get(number)
            if task is not None:
                task.grace = record.grace
                task.notes.append((record.time, "cancelled; its host was asked to end it"))

    def _know(self, time: float, ends: list[Finished], submitted: list[float]) -> None:
        for finished, when in zip(ends, submitted, strict=False):
            self._ended(finished.task)
            self.ends[finished.task] = finished, Origin(when, time)

    def _ended(self, task: int) -> None:
        self._over.add(task)
        self.tasks.pop(task, None)
        self.assigned.pop(task, None)
