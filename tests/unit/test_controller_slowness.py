"""Clients that take nothing: what is kept for them is bounded, and who floods is dropped."""

from __future__ import annotations

from typing import Any

import pytest

from ipkernel.controller.clientlink import ClientLink
from ipkernel.wire.messages import EngineJoined, EngineLeft, Fetch, Output, Seek, Stream
from tests.support.links import World, assigns, done, results, submit, tid


def freeze(link: ClientLink) -> Any:
    transport = link.channel.transport  # type: ignore[union-attr]
    transport.frozen = True
    return transport


def test_a_frozen_client_does_not_fill_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 4 << 20)
    w = World()
    client, host = w.connect_all()
    link = w.clients[1]
    transport = freeze(link)
    for i in range(60):
        client.send(*submit(i))
    w.pump()
    result = bytes(500_000)
    while True:
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        if not todo:
            break
        for assign in todo:
            host.send(*done(assign, result, 0.1))
        w.pump()
    assert w.scheduler.sessions[1].held
    assert len(w.scheduler.tasks) > 30  # nothing more is started for it
    assert link.channel.backlog[1] <= (1 << 20) + 500_000  # type: ignore[union-attr]
    assert link.waiting[1] > 4 << 20
    transport.frozen = False
    for _ in range(3000):
        w.clock.advance(0.01)
        w.pump()
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        for assign in todo:
            host.send(*done(assign, result, 0.1))
        if len(results(client)) == 60:
            break
    assert [m.task for m, _ in results(client)] == [tid(i) for i in range(60)]
    assert link.waiting == (0, 0)
    assert not w.scheduler.sessions[1].held


def test_waiting_results_are_kept_when_a_frozen_client_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    w = World()
    client, host = w.connect_all()
    freeze(w.clients[1])
    for i in range(10):
        client.send(*submit(i))
    w.pump()
    while True:
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        if not todo:
            break
        for assign in todo:
            host.send(*done(assign, bytes(600_000)))
        w.pump()
    assert w.clients[1].waiting[0] > 0
    w.clients[1].lost("frozen", final=True)
    w.clock.advance(0)
    assert list(w.scheduler.retained) == [tid(i) for i in range(10)]


def test_output_for_a_frozen_client_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 1 << 20)
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    freeze(w.clients[1])
    for _ in range(200):
        host.send(Output(tid(0), 0, Stream.STDOUT, 60_000), bytes(60_000))
        w.pump()
    assert w.clients[1].waiting[1] < (1 << 20) + 60_000
    [assign] = assigns(host)
    host.send(*done(assign))
    w.pump()
    assert w.clients[1].waiting[0] > 0
    w.clients[1].lost("gone", final=True)
    w.clock.advance(0)
    assert tid(0) in w.scheduler.retained


def test_output_that_was_dropped_is_told_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 20)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 1 << 20)
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    transport = freeze(w.clients[1])
    piece = bytes(60_000)
    for serial in range(1, 101):
        host.send(Output(tid(0), 0, Stream.STDOUT, len(piece), serial), piece)
        w.pump()
    note = Output(tid(0), 0, Stream.FLOW, 3, 101)
    host.send(note, b"now")
    [assign] = assigns(host)
    host.send(*done(assign))
    w.pump()
    transport.frozen = False
    for _ in range(100):
        w.clock.advance(0.01)
        w.pump()
    came = [(m, bytes(p)) for m, p in client.inbox if isinstance(m, Output)]
    assert came[-1] == (note, b"now"), "what flows need is no output"
    mark, text = came[-2]
    assert mark.serial == 100  # what follows is not taken for old
    words = text.decode().strip()
    assert words.endswith(" bytes of output were dropped: the client did not take it in time]")
    assert int(words[1:].split()[0]) + len(piece) * (len(came) - 2) == 100 * len(piece)
    assert [m.task for m, _ in results(client)] == [tid(0)]


def test_a_host_that_takes_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.hostlink.MAX_UNTAKEN", 100)
    w = World()
    _, host = w.connect_all()
    w.host.channel.transport.frozen = True  # type: ignore[union-attr]
    for _ in range(99):
        host.send(Seek(bytes(16)))  # which is answered
    w.pump()
    assert w.ended == []
    for _ in range(10):
        host.send(Seek(bytes(16)))
    w.pump()
    assert w.ended == [w.host]
    assert w.host.reason == "it does not take what is sent to it"
    w.clock.advance(0)
    assert not w.scheduler.hosts


def test_a_client_with_too_much_queued_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_QUEUED", 20 << 20)
    w = World()
    client = w.connect(w.clients[1])
    w.pump()
    payload = bytes(1 << 20)
    for i in range(120):
        client.send(*submit(i, payload))
    for _ in range(30):
        w.pump()
    taken = len(w.scheduler.tasks)
    assert taken < 120  # the rest is still with the client, whose window is closed
    assert client.link.acknowledged < 24
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    for _ in range(400):
        w.pump()
        todo = [a for a in assigns(host) if a.task in w.scheduler.tasks]
        for assign in todo:
            host.send(*done(assign))
        for link in w.clients.values():
            if link.owes:
                link.acknowledge()
        if len(results(client)) == 120:
            break
    assert len(results(client)) == 120


def test_tasks_without_payload_take_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_QUEUED", 50 * 128)
    w = World()
    client = w.connect(w.clients[1])
    w.pump()
    for start in range(0, 100, 10):
        for i in range(start, start + 10):
            client.send(*submit(i, b""))
        w.pump()
    w.clock.advance(1.0)
    w.pump()
    assert client.link.acknowledged < 50
    assert w.clients[1].owes
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    while len(results(client)) < 100:
        w.pump()
        for assign in [a for a in assigns(host) if a.task in w.scheduler.tasks]:
            host.send(*done(assign))
        w.pump()
    assert w.clients[1].acknowledge()
    assert not w.clients[1].owes


@pytest.mark.parametrize("bound", ["MAX_EARLY", "MAX_EARLY_BYTES"])
def test_a_peer_that_opens_no_channel_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    limit = 5 if bound == "MAX_EARLY" else 6 * 128
    monkeypatch.setattr(f"ipkernel.controller.clientlink.{bound}", limit)
    w = World(clients=2)
    revoked: list[int] = []
    host = w.connect(w.host)
    w.clients[1].revoke = lambda: revoked.append(1)
    w.clients[2].revoke = lambda: revoked.append(2)
    opened = w.connect(w.clients[2])
    for _ in range(3):
        host.send(EngineJoined(0, "h", 7))
        host.send(EngineLeft(0, "gone", True))
        w.pump()
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    w.pump()
    assert w.ended == [w.clients[1]]
    assert revoked == [1]
    w.clients[1].deliver([(EngineJoined(0, "h", 7), b"")])
    assert w.clients[1].waiting == (0, 0)
    assert len(opened.inbox) == 7


def test_a_client_that_takes_no_answers_gets_no_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 14)
    monkeypatch.setattr("ipkernel.controller.clientlink.HOLD_BYTES", 1 << 16)
    w = World()
    client, _ = w.connect_all()
    freeze(w.clients[1])
    for _ in range(40):
        client.send(Fetch([tid(i) for i in range(100)]))
        w.pump()
    before = w.clients[1]._unprocessed
    assert before > 0  # its questions stay in its window
    w.clients[1].channel.transport.frozen = False  # type: ignore[union-attr]
    for _ in range(400):
        w.clock.advance(0.01)
        w.pump()
    assert len(results(client)) == 4000
    assert not w.clients[1].owes
    assert w.clients[1].waiting == (0, 0)


def test_a_client_that_floods_and_takes_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_BACKLOG", 1 << 14)
    monkeypatch.setattr("ipkernel.controller.clientlink.MAX_WAITING", 1000)
    w = World()
    client, _ = w.connect_all()
    freeze(w.clients[1])
    for _ in range(40):
        client.send(Fetch([tid(i) for i in range(100)]))
        w.pump()
    assert w.ended == [w.clients[1]]
    assert w.clients[1].waiting == (0, 0)
