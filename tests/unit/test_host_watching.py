"""What the processes of a host use: measured, told, bounded."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.task import Clock

from ipkernel.host.engine import Engine
from ipkernel.host.processes import Exit
from ipkernel.host.watching import AT_ONCE, EVERY, FIRST, LOOK, Watch
from ipkernel.vitals import Reading
from ipkernel.wire.messages import Measured, Vitals, decode, encode


class Scene:
    """A watch over pretended processes: id to what they use, None for those that have ended."""

    def __init__(self, count: int, limit: int = 0) -> None:
        self.clock = Clock()
        self.clock.advance(5000.0)
        self.sent: list[Measured] = []
        self.gauges: list[tuple[int, float]] = []
        self.backlog = 0
        self.exceeded: list[tuple[int, int]] = []
        self.memory: dict[int, int] = {}
        self.readings: dict[int, Reading | None] = {}
        self.engines: dict[str, Engine] = {}
        for number in range(count):
            self.add(number)
        self.watch = Watch(
            self.clock,
            self.engines,
            self,
            began=4990.0,
            limit=limit,
            exceeded=lambda engine, used: self.exceeded.append((engine.id, used)),
            gauge=self.gauge,
            memory=lambda pid: self.memory.get(pid, 0),
        )

    def add(self, number: int) -> Engine:
        engine = self.engines[str(number)] = Engine(str(number), number, lambda message, data: None)
        engine.pid = 100_000_000 + number  # no system has so many
        engine.began = 4995.0
        self.readings[engine.pid] = Reading(1.0 + number, 1000 + number, 10 + number)
        return engine

    def gauge(self, pid: int, started: float, now: Any) -> Any:
        self.gauges.append((pid, started))
        assert now() == self.clock.seconds()
        scene = self

        class Gauge:
            def read(self) -> Reading | None:
                return scene.readings.get(pid, Reading(50.0, 7777, 9))

        return Gauge()

    def send(self, message: Any, payload: Any = b"") -> None:
        assert decode(encode([message])) == [message]  # it fits the schema
        self.sent.append(message)

    def told(self) -> dict[int, Vitals]:
        return {vitals.engine: vitals for message in self.sent for vitals in message.processes}


def test_the_daemon_and_its_engines_are_measured() -> None:
    scene = Scene(2)
    scene.clock.advance(FIRST)
    assert scene.told() == {
        -1: Vitals(-1, 50.0, 7777, 9, 4990.0),
        0: Vitals(0, 1.0, 1000, 10, 4995.0),
        1: Vitals(1, 2.0, 1001, 11, 4995.0),
    }
    assert [engine.memory for engine in scene.engines.values()] == [1000, 1001]
    assert scene.gauges[0] == (os.getpid(), 4990.0)
    scene.clock.advance(EVERY)
    assert len(scene.sent) == 2
    assert len(scene.gauges) == 3  # the same ones again


def test_many_engines_are_measured_one_part_after_the_other() -> None:
    scene = Scene(2 * AT_ONCE)
    scene.clock.advance(FIRST)
    scene.clock.pump([EVERY / 30] * 30)
    assert all(len(message.processes) <= AT_ONCE for message in scene.sent)
    assert set(scene.told()) == set(range(-1, 2 * AT_ONCE))


def test_processes_come_and_go() -> None:
    scene = Scene(2)
    scene.clock.advance(FIRST)
    first, second = scene.engines.values()
    scene.readings[first.pid] = None  # it has ended, which is not known yet
    second.pid = 0
    scene.sent.clear()
    scene.clock.advance(EVERY)
    assert set(scene.told()) == {-1}
    second.pid = 123_000_001  # another process of the same engine
    scene.readings[second.pid] = Reading(0.0, 5, 6)
    nameless = scene.add(7)
    nameless.id = -1
    scene.clock.advance(EVERY)
    assert scene.told()[1].memory == 5
    assert [v.engine for v in scene.sent[-1].processes] == [-1, 1]  # the daemon is told once
    assert nameless.memory == 1007


def test_absurd_numbers_fit_into_the_message() -> None:
    scene = Scene(1)
    scene.readings[scene.engines["0"].pid] = Reading(1e12, 5, -1)
    scene.clock.advance(FIRST)
    assert (scene.told()[0].cpu, scene.told()[0].files) == (1e6, -1)


def test_an_engine_that_uses_too_much_is_reported() -> None:
    scene = Scene(3, limit=1000)
    zero, one, two = scene.engines.values()
    scene.memory = {zero.pid: 1000, one.pid: 1001, two.pid: 5000}
    two.exit = Exit(None, 9)  # it is over already
    scene.clock.advance(LOOK)
    assert scene.exceeded == [(1, 1001)]
    assert one.memory == 1001
    one.pid = 0
    scene.clock.advance(LOOK)
    assert len(scene.exceeded) == 1


def test_without_a_limit_nobody_looks() -> None:
    scene = Scene(1)
    scene.memory = {scene.engines["0"].pid: 1 << 40}
    scene.clock.pump([LOOK] * 20)
    assert scene.exceeded == []


def test_it_stops() -> None:
    scene = Scene(1, limit=1)
    scene.clock.advance(FIRST)
    scene.watch.stop()
    assert not scene.clock.getDelayedCalls()
