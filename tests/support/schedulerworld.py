"""What clients, hosts and engines know, and what they may be told: the world of a scheduler's model.

The tests that drive a scheduler with events in any order add the rules of what may happen.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

from ipkernel.controller import keeping
from ipkernel.controller.events import Event, Item, Result
from ipkernel.controller.instructions import (
    Commit,
    DropClient,
    EnginesDrained,
    SessionEnded,
    ToAllClients,
    ToClient,
    ToHost,
)
from ipkernel.controller.journal import Ended
from ipkernel.controller.retention import Retained
from ipkernel.controller.scheduler import Scheduler
from ipkernel.wire.messages import (
    Assign,
    Cancelled,
    Dependency,
    EngineJoined,
    EngineLeft,
    Fate,
    Finished,
    ForgetFunctions,
    Function,
    Interrupt,
    Message,
    Outcome,
    Output,
    Past,
    Reclaim,
)
from ipkernel.wire.records import StoreAccess


class EngineModel:
    """What a host knows of one of its engines: the tasks it was sent, in order."""

    def __init__(self) -> None:
        self.ready = False
        self.queue: list[int] = []
        self.begun: set[int] = set()
        self.asked: list[list[int]] = []
        self.doomed: set[int] = set()


class World(RuleBasedStateMachine):
    """Clients, hosts and engines, and the scheduler between them."""

    store: StoreAccess | None = None  # of every host

    def begin(self, scheme: str, random: Random, passes: int) -> None:
        """Make a scheduler that nobody is connected to."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(keeping, "PASSES", passes)
        retained = Retained(size=1 << 30)
        self.s = Scheduler(checked=True, retained=retained, scheme=scheme, random=random)
        self.now = 1000.0
        self.hosts: dict[int, dict[int, EngineModel]] = {}
        self.known: dict[int, set[bytes]] = {}
        self.next_host = 1
        self.next_session = 1
        self.counts: dict[int, int] = {}
        self.attached: dict[int, list[Result]] = {}
        self.held: set[int] = set()
        self.submitted: dict[int, int] = {}  # task -> retries
        self.begun_count: dict[int, int] = {}
        self.ended: dict[int, Outcome] = {}
        self.delivered: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.serial = 0
        self.asking: dict[tuple[int, int], set[int]] = {}  # what each cancel has no answer for
        self.functions: dict[int, set[bytes]] = {}
        self.dead_sessions: set[int] = set()
        self.leaving: set[int] = set()  # hosts
        self.ends: dict[int, float] = {}  # hosts
        self.draining: dict[int, set[int]] = {}  # engine -> what may still begin there
        self.busy: set[int] = set()  # draining engines of which it was not said that they are done

    def do(self, *events: Event) -> None:
        self.now += 0.001
        instructions = self.s.handle(*events)
        for index, instruction in enumerate(instructions):
            if isinstance(instruction, Commit):
                assert index == 0
                for record in instruction.records:
                    if isinstance(record, Ended):
                        for finished, _ in record.items:
                            assert finished.task not in self.ended, "ended twice"
                            assert finished.task in self.submitted, "never submitted"
                            self.ended[finished.task] = finished.outcome
            elif isinstance(instruction, ToHost):
                self.at_host(instruction.host, instruction.items)
            elif isinstance(instruction, ToClient):
                self.at_client(instruction.session, instruction.items)
            elif isinstance(instruction, ToAllClients):
                self.at_all_clients(instruction.items)
            elif isinstance(instruction, EnginesDrained):
                for number in instruction.engines:
                    assert number in self.busy, "said twice that it has drained"
                    self.busy.discard(number)
                    engine = self.s.engines.get(number)
                    assert engine is None or engine.draining and engine.idle
            elif isinstance(instruction, SessionEnded):
                self.dead_sessions.add(instruction.session)
                self.functions.pop(instruction.session, None)
            else:
                assert not isinstance(instruction, DropClient), instruction.reason

    def at_host(self, host: int, items: list[Item]) -> None:
        engines = self.hosts[host]
        fresh = set()
        for message, payload in items:
            assert message.size == len(payload)
            if isinstance(message, Assign):
                assert message.task not in self.ended
                engine = engines[message.engine]
                assert engine.ready, "assigned to an engine that is not ready"
                assert not message.digest or message.digest in self.known[host]
                assert message.task >> 40 not in self.held
                begins = self.draining.get(message.engine)
                assert begins is None or message.task in begins, "an engine that drains got more"
                engine.queue.append(message.task)
                fresh.add(message.engine)
            elif isinstance(message, Function):
                assert message.digest not in self.known[host], "a function was sent twice"
                self.known[host].add(message.digest)
            elif isinstance(message, ForgetFunctions):
                self.known[host].difference_update(message.digests)
            elif isinstance(message, Reclaim):
                engines[message.engine].asked.append(list(message.tasks))
            elif isinstance(message, Interrupt):
                assert engines[message.engine].ready
                assert self.cancelled.issuperset(message.tasks), "nobody wants them to end"
                assert set(message.tasks) <= set(engines[message.engine].queue)
                engines[message.engine].doomed.update(message.tasks)
            else:
                self.about_objects_at_host(host, message)
        for number in fresh:
            engine = self.s.engines[number]
            assert len(engine.assigned) <= engine.window, "more than the window allows"

    def at_client(self, session: int, items: list[Item]) -> None:
        assert session in self.attached
        for message, payload in items:
            assert message.size == len(payload)
            if isinstance(message, Finished):
                self.attached[session].append((message, payload))
                self.delivered[message.task] = self.delivered.get(message.task, 0) + 1
            elif isinstance(message, Cancelled):
                self.answered(session, message)
            else:
                self.about_objects_at_client(session, message)

    def answered(self, session: int, message: Cancelled) -> None:
        """A client hears what became of tasks that it wanted aborted: once, and the truth."""
        open_ones = self.asking[session, message.serial]
        for tid, fate in zip(message.tasks, message.fates, strict=True):
            open_ones.remove(tid)
            assert fate is not Fate.UNKNOWN
            assert fate is Fate.ENDED or self.ended[tid] is Outcome.ABORTED

    def at_all_clients(self, items: list[Item]) -> None:
        assert all(isinstance(m, EngineJoined | EngineLeft) for m, _ in items)

    def about_objects_at_host(self, host: int, message: Message) -> None:
        raise AssertionError(f"a host without a store got {message}")

    def about_objects_at_client(self, session: int, message: Message) -> None:
        assert isinstance(message, Output)

    def ready_engines(self) -> list[tuple[int, int, EngineModel]]:
        return [
            (host, number, engine)
            for host, engines in self.hosts.items()
            for number, engine in engines.items()
            if engine.ready
        ]

    def a_session(self, pick: int) -> int | None:
        sessions = sorted(self.attached)
        return sessions[pick % len(sessions)] if sessions else None

    def a_dependency(self, others: list[int]) -> Dependency:
        """Depend on tasks; what has ended is named as such where the client may know it."""
        ended = [Past(t, 0, self.ended[t] is Outcome.OK) for t in others[:1] if t in self.ended]
        rest = others[len(ended) :]
        mode = others[0] % 4
        return Dependency(rest, ended, mode < 2, mode != 3, mode % 2 == 1)

    def an_engine(self, pick: int, ready: bool) -> tuple[int, int, EngineModel] | None:
        found = [
            (host, number, engine)
            for host, engines in sorted(self.hosts.items())
            for number, engine in sorted(engines.items())
            if engine.ready == ready
        ]
        return found[pick % len(found)] if found else None

    def drain(self, number: int) -> None:
        bound = {tid for tid, task in self.s.tasks.items() if task.target == number}
        self.draining.setdefault(number, bound)
        self.busy.add(number)


def machine_settings(**changes: Any) -> settings:
    """Return settings for machines, which take their time."""
    return settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        **changes,
    )
